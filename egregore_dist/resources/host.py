"""One machine, as the workers on it say, and what is left of it while lanes are given out. Memory in bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from egregore_dist.resources import report
from egregore_dist.resources.report import Report

#: The part of a machine's memory that is planned with.
MEMORY_SHARE = 0.70

#: Parts of a core that do not add up exactly.
ROUNDED = 1e-9


@dataclass(frozen=True, slots=True)
class Host:
    """What the groups of a machine's workers have, and what all of them have together.

    Attributes:
        cores: of all.
        cpu_groups: cores of those that share a quota.
        gpus: how many workers may use each, by its name.
        available: memory that all can have now.
        groups: memory that those who share a limit can have now.
    """

    cores: float
    cpu_groups: dict[str, float]
    gpus: Counter[str]
    available: int
    groups: dict[str, int]

    @classmethod
    def of(cls, workers: Sequence[Report]) -> Host:
        """The machine of these workers."""
        cpu_groups, cores = report.cores_of(workers)
        groups: dict[str, int] = {}
        for said in workers:
            groups[said.group] = max(groups.get(said.group, 0), said.memory_available)
        together, machine = sum(groups.values()), max(said.machine_available for said in workers)
        gpus = Counter(name for said in workers for name in said.gpus)
        return cls(cores, cpu_groups, gpus, min(together, machine) if machine else together, groups)

    def with_cores(self, workers: Sequence[Report], cpus: float) -> int:
        """How many slots of some of its workers have so many cores each."""
        slots = sum(said.slots for said in workers)
        if cpus <= 1:
            return slots
        groups = _slots_by(workers, lambda said: said.cpu_group)
        own = sum(min(count, _times(self.cpu_groups[group], cpus)) for group, count in groups.items())
        return min(own, max(1, _times(self.cores, cpus)))

    @staticmethod
    def with_gpus(workers: Iterable[Report], gpus: int) -> int:
        """How many slots of some of its workers have so many GPUs each, of those that these may use."""
        own, names = 0, set[str]()
        for said in workers:
            own += min(said.slots, len(said.gpus) // gpus)
            names.update(said.gpus)
        return min(own, len(names) // gpus)

    def memory(self, workers: Iterable[Report]) -> int:
        """What can be given to some of its workers now."""
        return min(self.available, sum(self.groups[group] for group in {said.group for said in workers}))

    def room(self, workers: Iterable[Report], per_node: int) -> int:
        """For how many lanes of some of its workers there is memory, of so much each."""
        own = sum(_room(self.groups[group], per_node) for group in {said.group for said in workers})
        return min(own, _room(self.available, per_node))

    def with_memory(self, workers: Iterable[Report], per_node: int) -> int:
        """How many slots of some of its workers have so much memory each."""
        groups = _slots_by(workers, lambda said: said.group)
        own = sum(min(count, _room(self.groups[group], per_node)) for group, count in groups.items())
        return min(own, _room(self.available, per_node))


def _slots_by(workers: Iterable[Report], key: Callable[[Report], str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for said in workers:
        found[key(said)] += said.slots
    return found


def _times(cores: float, cpus: float) -> int:
    return int(cores / cpus + ROUNDED)


def _room(available: int, per_node: int) -> int:
    return int(MEMORY_SHARE * available / per_node)


class Left:
    """What is left of a machine, and of its groups."""

    def __init__(self, host: Host) -> None:
        self._memory = MEMORY_SHARE * host.available
        self._groups = {group: MEMORY_SHARE * available for group, available in host.groups.items()}
        self._cores = host.cores + ROUNDED
        self._cpu_groups = {group: cores + ROUNDED for group, cores in host.cpu_groups.items()}
        # Those that few may use come first.
        self._gpus = sorted(host.gpus, key=lambda name: (host.gpus[name], name))

    def holds(self, said: Report, *, memory: int, cpus: float, gpus: int) -> bool:
        """Whether there is enough for one more lane of a worker."""
        has_cores = cpus <= 1 or cpus <= min(self._cores, self._cpu_groups[said.cpu_group])
        has_gpus = not gpus or gpus <= len(self._free_gpus(said))
        return has_cores and has_gpus and memory <= min(self._memory, self._groups[said.group])

    def take(self, said: Report, *, memory: int, cpus: float, gpus: int) -> None:
        """A lane of a worker has its part."""
        self._memory -= memory
        self._groups[said.group] -= memory
        self._cores -= max(1.0, cpus)
        self._cpu_groups[said.cpu_group] -= max(1.0, cpus)
        for name in self._free_gpus(said)[:gpus]:
            self._gpus.remove(name)

    def _free_gpus(self, said: Report) -> list[str]:
        return [name for name in self._gpus if name in said.gpus]

"""The machines and their workers, as these report."""

from __future__ import annotations

from dataclasses import dataclass

from egregore_dist.cli import probe
from egregore_dist.ledger import Ledger
from egregore_dist.resources.router import MEMORY_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What workers share: a machine, or the part of one that a control group limits.

    Attributes:
        host: the machine, see `resources.report.Machine`.
        group: the control group, or "".
        cores: that they may use.
        memory_available: bytes.
        memory_total: bytes.
        workers: on it.
    """

    host: str
    group: str
    cores: float
    memory_available: int
    memory_total: int
    workers: tuple[probe.Worker, ...]

    @property
    def name(self) -> str:
        """What people call it: the host in its workers' names, where they have one."""
        names = {worker.report.worker.partition("@")[2] for worker in self.workers} - {""}
        return ", ".join(sorted(names)) or self.host

    @property
    def memory_used(self) -> float:
        """The part of its memory that is in use, from 0 to 1."""
        return 1 - self.memory_available / self.memory_total if self.memory_total else 0.0

    @property
    def memory_line(self) -> int:
        """What of its memory is planned with, in bytes."""
        return int(MEMORY_SHARE * self.memory_total)

    @property
    def memory_reserved(self) -> int:
        """What its workers' lanes are taken to need where every slot has one, in bytes."""
        return sum(
            worker.report.slots * worker.report.lane_memory for worker in self.workers if not worker.report.holds
        )

    @property
    def reasons(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Where the numbers of its workers come from: of what, why, and which workers say so."""
        found: dict[tuple[str, str], list[str]] = {}
        for said in (worker.report for worker in self.workers):
            for what, why in (("Concurrency", said.concurrency_why), ("Prefetch", said.prefetch_why)):
                if why:
                    found.setdefault((what, why), []).append(said.worker)
        return [(what, why, tuple(workers)) for (what, why), workers in sorted(found.items())]


def machines(ledger: Ledger) -> list[Machine]:
    """The machines that have live workers. Raises `errors.BrokerUnavailable`."""
    sharing: dict[tuple[str, str], list[probe.Worker]] = {}
    for worker in probe.workers(ledger):
        sharing.setdefault((worker.report.host, worker.report.group), []).append(worker)
    found = []
    for (host, group), workers in sharing.items():
        newest = max(workers, key=lambda worker: worker.reported).report
        found.append(
            Machine(
                host=host,
                group=group,
                cores=max(worker.report.cores for worker in workers),
                memory_available=newest.memory_available,
                memory_total=newest.memory_total,
                workers=tuple(workers),
            )
        )
    return sorted(found, key=lambda machine: (machine.name, machine.host, machine.group))

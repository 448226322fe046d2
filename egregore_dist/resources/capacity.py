"""What each worker gets of its machine: a pure function of what workers report and of the lanes that wait."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from egregore_dist.resources import report
from egregore_dist.resources.amounts import size
from egregore_dist.resources.host import ROUNDED
from egregore_dist.resources.profile import HALF_LIFE, Profile
from egregore_dist.resources.report import Report
from egregore_dist.resources.router import MEMORY_PER_NODE, MEMORY_SHARE, serves

#: The part of the memory that is left alone while a worker gets more: what varies by less changes nothing.
MARGIN = 0.10

# What a node needs that hardly ever runs does not count for what runs all the time: its blocks are planned with it.
_MOST_TIME = 0.95

By = Literal["hand", "tuner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one worker gets of its machine, and why. Memory in bytes.

    Attributes:
        concurrency: lanes that it runs at a time, at most.
        least: the same with `MARGIN` of the memory left alone: a worker that has fewer may have more.
        free: its part of what nobody has now: it gets no more than these lanes before others have fewer.
        is_over: what all have now is more than there is for them.
        by: who said so: "hand" for a number that was given, which stays.
        why: in words, with the numbers.
        wanted: lanes that it has, and its part of those that wait.
        cores: what the workers of its machine share.
        room: lanes of its own that the memory has room for, where no other worker that takes lanes has any.
        memory_per_lane: what was counted for each lane.
    """

    concurrency: int
    least: int
    free: int
    is_over: bool
    by: By
    why: str
    wanted: int
    cores: float
    room: int
    memory_per_lane: int

    @property
    def prefetch(self) -> int:
        """Messages that it takes before they are acknowledged: with late acknowledgement a cap on what runs."""
        return self.concurrency


class _Machine:
    """What the workers of one machine share, in groups and all together, and what is taken of it. Memory in bytes.

    Lanes that run on workers that take no more have their part from the start.

    Args:
        workers: all of them.
        lanes: by worker, what one of its lanes needs.
        share: the part of the memory that may be taken.
    """

    def __init__(self, workers: Sequence[Report], lanes: Mapping[str, int], share: float = 1.0) -> None:
        self.workers = workers
        self.lanes = lanes
        self.cores, self.all_cores = report.cores_of(workers)
        self.totals: dict[str, int] = {}
        self._budgets: dict[str, float] = {}
        for group in {said.group for said in workers}:
            members = [said for said in workers if said.group == group]
            newest = max(members, key=lambda said: said.at)
            self.totals[group] = newest.memory_total
            self._budgets[group] = share * self._planned(members, newest.memory_total, newest.memory_available)
        newest = max(workers, key=lambda said: (said.machine_total > 0, said.at))
        known = newest.machine_total > 0
        self._budget = (
            share * self._planned(workers, newest.machine_total, newest.machine_available) if known else math.inf
        )
        self._slots: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._busy, self._all_taken = 0.0, 0
        for said in workers:
            if said.holds:
                self._run(said, _held(said))

    def room(self, said: Report) -> int:
        """The lanes of a worker that the memory has room for, where no other that takes lanes has any."""
        return int(min(self._budgets[said.group], self._budget) / self.lanes[said.worker])

    def take(self, said: Report, lanes: int) -> None:
        """Lanes of a worker have their part."""
        self._run(said, lanes)
        memory = lanes * self.lanes[said.worker]
        self._taken[said.group] += memory
        self._all_taken += memory

    def free(self, said: Report) -> int:
        """How many more lanes of a worker there is room for."""
        cores, memory = self._left(said)
        return max(0, int(min(cores, memory // self.lanes[said.worker])))

    def is_over(self, said: Report) -> bool:
        """Whether more is taken than there is for a worker."""
        return min(self._left(said)) < 0

    def _run(self, said: Report, lanes: int) -> None:
        # Lanes beyond the cores of their group take none of the machine's.
        slots, cores = self._slots[said.cpu_group], self.cores[said.cpu_group]
        self._busy += min(slots + lanes, cores) - min(slots, cores)
        self._slots[said.cpu_group] += lanes

    def _planned(self, members: Iterable[Report], total: int, available: int) -> float:
        own = sum(self._own(said) for said in members)
        return max(0.0, MEMORY_SHARE * total - max(0, total - available - own))

    def _own(self, said: Report) -> int:
        # What the pools hold now is theirs to use again. Of one that takes no lanes it is not: those that it still runs
        # may come to need more.
        held = sum(said.children.values())
        return min(0, held - _held(said) * self.lanes[said.worker]) if said.holds else held

    def _left(self, said: Report) -> tuple[float, float]:
        cores = min(self.cores[said.cpu_group] - self._slots[said.cpu_group], self.all_cores - self._busy)
        memory = min(self._budgets[said.group] - self._taken[said.group], self._budget - self._all_taken)
        return cores + ROUNDED, memory


def tune(
    reports: Iterable[Report],
    waiting: Mapping[str, int],
    memory_per_lane: Mapping[str, int] | None = None,
    *,
    host: str | None = None,
) -> dict[str, Capacity]:
    """Share each machine among its workers, by name: together they stay under its cores and 70 % of its memory.

    So do those of a control group under its quota, and its limit. Each worker keeps one lane at least. Beyond that the
    cores go where lanes run or wait; what nobody wants is shared too, so that a worker is ready. A lane counts with the
    memory that those of its worker need. A number that was given by hand stays, and the others share what it leaves. A
    worker that takes no lanes now keeps its slots, and does not share: of those that it still runs the others leave it
    the cores and the memory.

    Args:
        reports: of the live workers.
        waiting: by queue, lanes that nobody serves yet.
        memory_per_lane: by worker, bytes that a lane was learned to need; 50 MB where nothing is known.
        host: the machine that is shared; None for all.
    """
    found: dict[str, Capacity] = {}
    hosts: dict[str, list[Report]] = {}
    everyone = sorted(reports, key=lambda said: said.worker)
    for said in everyone:
        if host is None or said.host == host:
            hosts.setdefault(said.host, []).append(said)
    parts = {
        queue: lanes / max(1, sum(serves(said, queue) for said in everyone))
        for queue, lanes in waiting.items()
        if lanes > 0
    }
    for workers in hosts.values():
        found |= _share(workers, parts, memory_per_lane or {})
    return found


def memory_of_lane(known: Iterable[Profile], now: int) -> int:
    """The memory that functions were seen to need for `_MOST_TIME` of the time that they took; what is old counts less.

    Args:
        known: what was learned of each.
        now: the server's time, in milliseconds.
    """
    parts = []
    for profile in known:
        if profile.memory.buckets:
            aged = 0.5 ** (max(0, now - profile.at) / 1000 / HALF_LIFE)
            parts.append((profile.memory.quantile(0.95), aged * profile.seconds))
    left = _MOST_TIME * sum(time for _, time in parts)
    for needed, time in sorted(parts):
        left -= time
        if left <= 0:
            return math.ceil(needed)
    return 0


def _share(workers: Sequence[Report], parts: Mapping[str, float], needs: Mapping[str, int]) -> dict[str, Capacity]:
    wanted = {
        said.worker: len(said.lanes) + math.ceil(sum(part for queue, part in parts.items() if serves(said, queue)))
        for said in workers
    }
    lanes = {said.worker: max(1, needs.get(said.worker, MEMORY_PER_NODE)) for said in workers}
    at_work = [said for said in workers if not said.holds]
    most = _shares(_Machine(workers, lanes), at_work, wanted)
    least = _shares(_Machine(workers, lanes, share=1 - MARGIN), at_work, wanted)
    now = _Machine(workers, lanes)
    for said in at_work:
        now.take(said, _held(said))
    over = {said.worker: now.is_over(said) for said in workers}
    free = _rises(now, [said for said in at_work if said.worker in most], most)
    return {
        said.worker: Capacity(
            concurrency=most.get(said.worker, said.slots),
            # Where there is less memory, others may leave it more cores.
            least=min(least.get(said.worker, said.slots), most.get(said.worker, said.slots)),
            free=free.get(said.worker, 0),
            is_over=over[said.worker],
            by="hand" if said.concurrency_by == "hand" else "tuner",
            why=_why(said, now, most.get(said.worker)),
            wanted=wanted[said.worker],
            cores=now.all_cores,
            room=now.room(said),
            memory_per_lane=lanes[said.worker],
        )
        for said in workers
    }


def _rises(now: _Machine, sharing: Sequence[Report], most: Mapping[str, int]) -> dict[str, int]:
    # Who has least comes first; of several that rise in one round all count on the same.
    has = {said.worker: _held(said) for said in sharing}
    found = dict.fromkeys(has, 0)
    rising = list(sharing)
    while rising := [said for said in rising if has[said.worker] < most[said.worker] and now.free(said)]:
        chosen = min(rising, key=lambda said: has[said.worker])
        now.take(chosen, 1)
        has[chosen.worker] += 1
        found[chosen.worker] += 1
    return found


def _held(said: Report) -> int:
    # Lanes beyond what it may take are of a time when it had more slots: they keep them until they end. Those of one
    # that takes no more are all that it needs slots for.
    slots = max(said.slots, len(said.lanes)) if 0 < said.prefetch < len(said.lanes) else said.slots
    return min(slots, len(said.lanes)) if said.holds else slots


def _shares(machine: _Machine, at_work: Sequence[Report], wanted: Mapping[str, int]) -> dict[str, int]:
    # One to each; then to whom it serves most, so that nobody gets more than it wants while others want; then evenly.
    sharing = []
    for said in at_work:
        by_hand = said.concurrency_by == "hand"
        machine.take(said, _held(said) if by_hand else 1)
        sharing += [] if by_hand else [said]
    shares = {said.worker: 1 for said in sharing}
    while sharing := [said for said in sharing if machine.free(said)]:
        chosen = min(sharing, key=lambda said: (shares[said.worker] >= wanted[said.worker], shares[said.worker]))
        machine.take(chosen, 1)
        shares[chosen.worker] += 1
    return shares


def _why(said: Report, machine: _Machine, share: int | None) -> str:
    if said.holds:
        return f"{said.slots}, as before: it takes no lanes now"
    if share is None:
        return f"{said.slots}, given by hand"
    room, total = machine.room(said), machine.totals[said.group]
    memory = f"memory has room for {room} lanes of {size(machine.lanes[said.worker])}"
    memory += f" in {MEMORY_SHARE:.0%} of {size(total)} less what others use"
    own = machine.cores[said.cpu_group]
    together = [other for other in machine.workers if other.cpu_group == said.cpu_group]
    cores = f"{own:g} cores"
    if own < machine.all_cores:
        cores += _shared(together)
        if sum(machine.cores.values()) > machine.all_cores:
            cores += f", and of the machine's {machine.all_cores:g}{_shared(machine.workers)}"
    else:
        cores += _shared(machine.workers)
    first, second = (memory, cores) if room < int(own) else (cores, memory)
    return f"{share} of {first}; {second}" if first is cores else f"{share}: {first}; {second}"


def _shared(workers: Sequence[Report]) -> str:
    others = len(workers) - 1
    text = f" shared with {others} other worker{'s' if others > 1 else ''}" if others else ""
    fixed = sum(said.slots for said in workers if said.concurrency_by == "hand" and not said.holds)
    text += f", {fixed} of them taken by hand" if fixed else ""
    running = sum(_held(said) for said in workers if said.holds)
    return f"{text}, {running} of them with lanes of workers that take no more" if running else text

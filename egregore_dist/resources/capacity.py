"""What each worker gets of its machine: a pure function of what workers report and of the lanes that wait."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from egregore_dist.resources.amounts import size
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
        free: slots of its machine that no worker has now: nobody gets more than these before others have fewer.
        by: who said so: "hand" for a number that was given, which stays.
        why: in words, with the numbers.
        wanted: lanes that it has, and its part of those that wait.
        cores: what the workers of its machine share.
        room: lanes that the machine's memory has room for, all workers together.
        memory_per_lane: what was counted for each lane.
    """

    concurrency: int
    least: int
    free: int
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """What the workers of one machine share, and what of it was given by hand."""

    workers: int
    fixed: int
    cores: float
    memory: int
    room: int
    lane: int


def tune(
    reports: Iterable[Report], waiting: Mapping[str, int], memory_per_lane: Mapping[str, int] | None = None
) -> dict[str, Capacity]:
    """Share each machine among its workers, by name: together they stay under its cores and 70 % of its memory.

    Each worker keeps one lane at least. Beyond that the cores go where lanes run or wait; what nobody wants is shared
    too, so that a worker is ready. A number that was given by hand stays, and the others share what it leaves. A worker
    that takes no lanes now keeps its slots, and does not share.

    Args:
        reports: of the live workers.
        waiting: by queue, lanes that nobody serves yet.
        memory_per_lane: by worker, bytes that a lane was learned to need; 50 MB where nothing is known.
    """
    found: dict[str, Capacity] = {}
    hosts: dict[str, list[Report]] = {}
    everyone = sorted(reports, key=lambda said: said.worker)
    for said in everyone:
        hosts.setdefault(said.host, []).append(said)
    for workers in hosts.values():
        found |= _share(workers, everyone, waiting, memory_per_lane or {})
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
            parts.append((profile.memory.quantile(0.95), aged * profile.wall.total))
    left = _MOST_TIME * sum(time for _, time in parts)
    for needed, time in sorted(parts):
        left -= time
        if left <= 0:
            return math.ceil(needed)
    return 0


def _share(
    workers: Sequence[Report], everyone: Sequence[Report], waiting: Mapping[str, int], needs: Mapping[str, int]
) -> dict[str, Capacity]:
    wanted = {said.worker: len(said.lanes) + _part_of(said, everyone, waiting) for said in workers}
    lane = max(1, *(needs.get(said.worker, MEMORY_PER_NODE) for said in workers))
    budget, total = _budget(workers)
    at_work = [said for said in workers if not said.holds]
    sharing = [said.worker for said in at_work if said.concurrency_by != "hand"]
    machine = _Machine(
        workers=len(workers),
        fixed=sum(said.slots for said in at_work if said.concurrency_by == "hand"),
        cores=max(said.cores for said in workers),
        memory=total,
        room=int(budget / lane),
        lane=lane,
    )
    most = _shares(machine, machine.room, sharing, wanted)
    least = _shares(machine, int((1 - MARGIN) * budget / lane), sharing, wanted)
    taken = sum(said.slots for said in at_work)
    free = max(0, machine.fixed + sum(most.values()) - taken)
    return {
        said.worker: Capacity(
            concurrency=most.get(said.worker, said.slots),
            least=least.get(said.worker, said.slots),
            free=free,
            by="hand" if said.concurrency_by == "hand" else "tuner",
            why=_why(said, machine, most.get(said.worker)),
            wanted=wanted[said.worker],
            cores=machine.cores,
            room=machine.room,
            memory_per_lane=lane,
        )
        for said in workers
    }


def _budget(workers: Sequence[Report]) -> tuple[float, int]:
    # What the pools hold now is theirs to use again.
    groups = {said.group: said for said in workers}
    total = sum(said.memory_total for said in groups.values())
    machine = max(said.machine_total for said in workers)
    total = min(total, machine) if machine else total
    used = sum(said.memory_total - said.memory_available for said in groups.values())
    own = sum(sum(said.children.values()) for said in workers)
    return max(0.0, MEMORY_SHARE * total - max(0, used - own)), total


def _part_of(said: Report, everyone: Sequence[Report], waiting: Mapping[str, int]) -> int:
    part = 0.0
    for queue, lanes in waiting.items():
        if lanes > 0 and serves(said, queue):
            part += lanes / sum(serves(other, queue) for other in everyone)
    return math.ceil(part)


def _shares(machine: _Machine, room: int, names: Sequence[str], wanted: Mapping[str, int]) -> dict[str, int]:
    # One to each; then to whom it serves most, so that nobody gets more than it wants while others want; then evenly.
    # So from more there is more for each, and `least` is never above `concurrency`.
    shares = dict.fromkeys(names, 1)
    for _ in range(min(int(machine.cores), room) - machine.fixed - len(shares) if shares else 0):
        chosen = min(shares, key=lambda name: (shares[name] >= wanted[name], shares[name], name))
        shares[chosen] += 1
    return shares


def _why(said: Report, machine: _Machine, share: int | None) -> str:
    if said.holds:
        return f"{said.slots}, as before: it takes no lanes now"
    if share is None:
        return f"{said.slots}, given by hand"
    others = machine.workers - 1
    memory = f"memory has room for {machine.room} lanes of {size(machine.lane)}"
    memory += f" in {MEMORY_SHARE:.0%} of {size(machine.memory)} less what others use"
    cores = f"{machine.cores:g} cores"
    if others:
        cores += f" shared with {others} other worker{'s' if others > 1 else ''}"
    if machine.fixed:
        cores += f", {machine.fixed} of them taken by hand"
    first, second = (memory, cores) if machine.room < int(machine.cores) else (cores, memory)
    return f"{share} of {first}; {second}" if first is cores else f"{share}: {first}; {second}"

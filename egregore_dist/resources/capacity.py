"""What each worker gets of its machine: a pure function of what workers report and of the lanes that wait."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from egregore_dist.resources.report import Report
from egregore_dist.resources.router import MEMORY_PER_NODE, MEMORY_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one worker gets of its machine, and why. Memory in bytes.

    Attributes:
        concurrency: lanes that it runs at a time.
        prefetch: messages that it takes before they are acknowledged; with late acknowledgement a cap on what runs.
        wanted: lanes that it has, and its part of those that wait.
        cores: what the workers of its machine share.
        room: lanes that the machine's memory has room for, all workers together.
        memory_per_lane: what was counted for each lane.
    """

    concurrency: int
    prefetch: int
    wanted: int
    cores: float
    room: int
    memory_per_lane: int


def tune(
    reports: Iterable[Report], waiting: Mapping[str, int], memory_per_lane: Mapping[str, int] | None = None
) -> dict[str, Capacity]:
    """Share each machine among its workers, by name: together they stay under its cores and 70 % of its memory.

    Each worker keeps one lane at least. Beyond that the cores go where lanes run or wait; what nobody wants is shared
    too, so that a worker is ready.

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
        wanted = {said.worker: len(said.lanes) + _part_of(said, everyone, waiting) for said in workers}
        lane = max((memory_per_lane or {}).get(said.worker, MEMORY_PER_NODE) for said in workers)
        cores = max(said.cores for said in workers)
        room = int(_budget(workers) / max(1, lane))
        shares = _shares(max(len(workers), min(int(cores), room)), wanted)
        for name, share in shares.items():
            found[name] = Capacity(
                concurrency=share, prefetch=share, wanted=wanted[name], cores=cores, room=room, memory_per_lane=lane
            )
    return found


def _budget(workers: Sequence[Report]) -> float:
    # What the pools hold now is theirs to use again.
    groups = {said.group: said for said in workers}
    total = sum(said.memory_total for said in groups.values())
    machine = max(said.machine_total for said in workers)
    total = min(total, machine) if machine else total
    used = sum(said.memory_total - said.memory_available for said in groups.values())
    own = sum(sum(said.children.values()) for said in workers)
    return max(0.0, MEMORY_SHARE * total - max(0, used - own))


def _part_of(said: Report, everyone: Sequence[Report], waiting: Mapping[str, int]) -> int:
    part = 0.0
    for queue in said.queues:
        if waiting.get(queue, 0) > 0:
            part += waiting[queue] / sum(queue in other.queues for other in everyone)
    return math.ceil(part)


def _shares(number: int, wanted: Mapping[str, int]) -> dict[str, int]:
    # One to each; then to whom it serves most, so that nobody gets more than it wants while others want; then evenly.
    shares = dict.fromkeys(wanted, 1)
    for _ in range(number - len(shares)):
        chosen = min(shares, key=lambda name: (shares[name] >= wanted[name], shares[name], name))
        shares[chosen] += 1
    return shares

"""How many lanes a block gets: the page's formula over the whole cluster, as a pure function of what workers report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from egregore_dist.resources.report import Report

MEMORY_SHARE = 0.70
MEMORY_PER_NODE = 50 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The decision for one block, with the numbers it came from. Memory in bytes."""

    lanes: int
    wanted: int
    slots: int
    memory_available: int
    memory_per_node: int


def plan(
    branches: int,
    *,
    max_concurrent: int | None,
    reports: Iterable[Report],
    memory_per_node: int | None = None,
    cpus: float | None = None,
) -> Plan:
    """``min(max_concurrent or branches, cores available, 0.70 x available memory / memory per node)``, at least one.

    A machine's cores are offered as its workers' pool slots, so an operator who gave a worker more or fewer slots than
    cores is respected. Workers on one machine share its memory, which counts once.

    Args:
        branches: how many branches there are.
        max_concurrent: the block's own limit.
        reports: of the live workers that may serve the block.
        memory_per_node: bytes that one branch was declared to need; 50 MB where nothing is known.
        cpus: cores that one branch was declared to need; one where nothing is known.
    """
    reports = tuple(reports)
    wanted = min(max_concurrent or branches, branches)
    memory: dict[str, int] = {}
    for report in reports:
        memory[report.host] = max(report.memory_available, memory.get(report.host, 0))
    available = sum(memory.values())
    per_node = memory_per_node or MEMORY_PER_NODE
    slots = sum(max(1, int(report.slots / max(1.0, cpus or 1.0))) for report in reports)
    lanes = wanted
    if reports:
        lanes = min(wanted, slots, int(MEMORY_SHARE * available / per_node))
    return Plan(
        lanes=max(1, lanes),
        wanted=wanted,
        slots=slots,
        memory_available=available,
        memory_per_node=per_node,
    )

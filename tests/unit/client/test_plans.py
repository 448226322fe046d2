"""How a plan is told."""

from __future__ import annotations

from typing import Any

import pytest

from egregore_dist.client.plans import BlockPlan
from egregore_dist.resources import needs, router
from egregore_dist.resources.profile import Learned
from egregore_dist.resources.report import Report
from egregore_dist.resources.router import Cluster, Demand, Plan, Widths

GIB = 2**30
KNOWN = Learned(executions=9.0, wall=1.0, cpu=1.0, memory=2 * GIB)


def report(worker: str, memory: int, slots: int, available: int | None = None) -> Report:
    return Report(
        worker=worker,
        host=worker,
        pid=1,
        cores=8.0,
        memory_total=memory,
        memory_available=memory if available is None else available,
        slots=slots,
        queues=("home",),
        gpus=("0",),
    )


LARGE = report("large", 64 * GIB, 8)


@pytest.mark.parametrize(
    ("reports", "demand", "lanes", "numbers"),
    [
        ([LARGE], {}, "8 lanes", "8 slots of 1 worker, 917 in 70% of 68.7 GB of memory; bound by: slots"),
        (
            [LARGE, report("full", GIB, 4, 2**26)],
            {},
            "8 lanes",
            "12 slots of 2 workers, 917 in 70% of 68.8 GB of memory, 8 machine by machine; bound by: memory",
        ),
        (
            [LARGE],
            {"cpus": 4.0},
            "2 lanes",
            "8 slots of 1 worker, 2 with cores, 917 in 70% of 68.7 GB of memory; bound by: cores",
        ),
        (
            [LARGE],
            {"cpus": 4.0, "queue": needs.queue("home", gpus=1)},
            "1 lane",
            "8 slots of 1 worker, 1 with cores and GPUs, 917 in 70% of 68.7 GB of memory; bound by: GPUs",
        ),
        (
            [LARGE, report("small", GIB, 4)],
            {"learned": KNOWN},
            "8 lanes",
            "8 slots of 1 worker, 22 in 70% of 68.7 GB of memory; bound by: slots",
        ),
        (
            [report("small", GIB, 4)],
            {"learned": KNOWN},
            "1 lane",
            "4 slots of 1 worker, 0 in 70% of 1.07 GB of memory, but one at least; bound by: memory",
        ),
    ],
)
def test_what_is_shown_gives_the_lanes(reports: list[Report], demand: dict[str, Any], lanes: str, numbers: str) -> None:
    """The least of the numbers is that of the lanes, and what bounds them is named."""
    asked = Demand(**{"queue": "home", "branches": 100} | demand)
    planned = router.plan([asked], Cluster(reports))
    shown = str(BlockPlan(name="it", path=(), kind="map", branches=100, plan=planned)).splitlines()

    assert f": {lanes} for 100 branches" in shown[1]
    assert shown[2] == f"    the least of 100 branches at a time, {numbers}"


@pytest.mark.parametrize(("branches", "lease"), [(3, ""), (100, ", 25 branches in a lease")])
def test_a_lease_that_is_taken_is_shown(branches: int, lease: str) -> None:
    """Two lanes share a hundred tiny branches; of three each takes one after the other."""
    tiny = Learned(executions=100.0, wall=20e-6, cpu=20e-6, memory=None)
    asked = Demand(queue="home", branches=branches, batched=True, learned=tiny)
    planned = router.plan([asked], Cluster([report("w", 64 * GIB, 2)]))
    shown = str(BlockPlan(name="it", path=(), kind="map", branches=branches, plan=planned)).splitlines()

    assert shown[1] == f"  queue 'home': 2 lanes for {branches} branches{lease}"


BUSY = "4 that keep a process busy, one computing while others wait"
WAITS = Learned(executions=100.0, wall=0.083, cpu=0.02, memory=None, waits=0.063)


@pytest.mark.parametrize(
    ("demand", "width", "told"),
    [
        ({"is_async": True}, 500, "500 on an event loop (EGREGORE_ASYNC_WIDTH)"),
        (
            {"is_async": True, "cpus": 0.5},
            2,
            "the least of 500 on an event loop (EGREGORE_ASYNC_WIDTH), 2 with their cores",
        ),
        (
            {"is_async": True, "memory": 20 * GIB},
            1,
            "the least of 500 on an event loop (EGREGORE_ASYNC_WIDTH), 1 in a lane's part of the memory",
        ),
        (
            {"io": True},
            32,
            "the least of 32 on threads (EGREGORE_THREAD_WIDTH), 125 for each lane to have its part",
        ),
        (
            {"io": True, "learned": WAITS},
            4,
            f"the least of 32 on threads (EGREGORE_THREAD_WIDTH), {BUSY}, 125 for each lane to have its part",
        ),
    ],
)
def test_a_plan_says_where_a_width_comes_from(demand: dict[str, Any], width: int, told: str) -> None:
    """Each number of which it is the least."""
    demands = [Demand(queue="home", branches=1000, batched=True, **demand)]
    found = router.plan(demands, Cluster([LARGE]), widths=Widths(threads=32))

    assert found.tracks[0].width == width
    assert f"\n    width: {told}\n" in f"{_told(found)}\n"


def test_a_plan_without_a_width_says_what_was_seen() -> None:
    """Of branches that compute, or wait for a core, no width comes; what they wait for others is told as well."""
    queued = Learned(executions=100.0, wall=0.083, cpu=0.02, memory=None, waits=0.0)
    found = router.plan([Demand(queue="home", branches=1000, batched=True, learned=queued)], Cluster([LARGE]))

    assert found.tracks[0].width == 1
    assert "width" not in _told(found)
    assert "83 ms a branch, 20 ms of it on a CPU, 0 ms waiting for others" in _told(found)


def _told(found: Plan) -> str:
    return str(BlockPlan(name="it", path=(), kind="map", branches=1000, plan=found))

"""The page's blocks 8 to 10: the cluster's resources decide how many branches run at a time, or the user does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from egregore_dist import LocalCluster, node, parallel
from egregore_dist.client import session
from egregore_dist.resources.report import Report
from tests.examples import room


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """What the nodes get: the room where they meet."""
    return {"room": str(tmp_path)}


@pytest.fixture
def other(tmp_path: Path) -> dict[str, Any]:
    """Another room, for a second block."""
    folder = tmp_path / "other"
    folder.mkdir()
    return {"room": str(folder)}


@node("node1")
def node1(data: dict[str, Any]) -> room.Span:
    return room.work(data, "node1", together=2)


@node("node2")
def node2(data: dict[str, Any]) -> room.Span:
    return room.work(data, "node2", together=2)


@node("node3")
def node3(data: dict[str, Any]) -> room.Span:
    return room.work(data, "node3")


@node("node4")
def node4(data: dict[str, Any]) -> room.Span:
    return room.work(data, "node4")


@node("node5")
def node5(data: dict[str, Any]) -> room.Span:
    return room.work(data, "node5")


def test_block_08_automatic_optimization(local: LocalCluster, data: dict[str, Any], other: dict[str, Any]) -> None:
    """Sync branches run at a time as many as the cluster has lanes, with optimisation and without."""
    # Automatic optimization (default)
    optimized = parallel(
        node1,
        node2,
        node3,
        node4,
        node5,
        # Automatically:
        # - Analyzes available CPU and memory
        # - Calculates optimal worker count
        # - Creates balanced execution batches
        # - Monitors resource usage
    )

    # Disable optimization if needed
    unoptimized = parallel(
        node1,
        node2,
        node3,
        optimization_enabled=False,  # Manual control only
    )

    result = optimized(data)
    assert list(result) == ["node1", "node2", "node3", "node4", "node5"]
    assert room.peak(result.values()) == 2

    result = unoptimized(other)
    assert list(result) == ["node1", "node2", "node3"]
    assert room.peak(result.values()) == 2


def test_block_08_optimization_shares_leases_and_its_absence_does_not(local: LocalCluster) -> None:
    """Optimised, tiny branches are leased many at a time; without optimisation each is leased by itself."""

    @node("tiny")
    def tiny(data: int) -> int:
        return data

    tinies = [tiny.alias(f"tiny{i}") for i in range(60)]

    assert max(_leases(parallel(*tinies), 1)) > 1
    assert set(_leases(parallel(*tinies, optimization_enabled=False), 1)) == {1}


def _leases(block: Any, data: int) -> list[int]:
    # How many branches each lease of the block took; the run itself is a block of one branch. What a lane gives back is
    # leased again.
    run = block.submit(data)
    run.result()
    events = [event for event in run.events() if event.type == "branches.started" and event.block != "0"]
    assert {branch for event in events for branch in event.branches} == set(range(60))
    return [len(event.branches) for event in events]


def test_block_09_resource_allocation(local: LocalCluster) -> None:
    """The plan of a block is the page's formula over what the workers report, and its branches keep to it."""
    reports = [msgspec.msgpack.decode(raw, type=Report) for raw in session.current().ledger.reports().values()]
    branch_count = 20
    max_concurrent: int | None = None
    available_cpu_cores = sum(report.slots for report in reports)
    available_memory = 0.70 * max(report.memory_available for report in reports)
    estimated_memory_per_node = 50 * 2**20

    optimal_workers = min(
        max_concurrent or branch_count, available_cpu_cores, available_memory / estimated_memory_per_node
    )

    assert len(reports) == 2

    @node("process")
    def process(data: int) -> int:
        return os.getpid()

    block = parallel(*(process.alias(f"process{i}") for i in range(branch_count)))
    plan = block.plan()
    assert plan.lanes == max(1, int(optimal_workers))
    assert len(set(block(1).values())) <= plan.lanes


def test_block_10_manual_resource_configuration(
    local: LocalCluster, data: dict[str, Any], other: dict[str, Any]
) -> None:
    """An explicit limit is the number that runs, exactly; without optimisation too."""

    def heavy(name: str) -> Any:
        async def body(data: dict[str, Any]) -> room.Span:
            return await room.awork(data, name, together=4)

        return node(name)(body)

    def plain(name: str) -> Any:
        return node(name)(lambda data: room.work(data, name, together=2))

    heavy_tasks = [heavy(f"heavy{i}") for i in range(8)]
    tasks = [plain(f"task{i}") for i in range(5)]

    # Explicit concurrency limit
    explicit = parallel(
        *heavy_tasks,
        max_concurrent=4,  # Exact worker count
    )

    # Disable optimization for predictable behavior
    predictable = parallel(*tasks, max_concurrent=2, optimization_enabled=False)

    result = explicit(data)
    assert (len(result), room.peak(result.values())) == (8, 4)

    result = predictable(other)
    assert (len(result), room.peak(result.values())) == (5, 2)

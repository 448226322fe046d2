"""The page's blocks 4 and 5: max_concurrent is a window that slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from egregore_dist import LocalCluster, node, parallel
from tests.examples import room


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """What the nodes get: the room where they meet."""
    return {"room": str(tmp_path)}


@node("task1")
def task1(data: dict[str, Any]) -> room.Span:
    # Ends only after task4: with fixed batches of two it would wait for ever.
    return room.work(data, "task1", after=["task4"], ended=True)


@node("task2")
def task2(data: dict[str, Any]) -> room.Span:
    return room.work(data, "task2", after=["task1"])


@node("task3")
def task3(data: dict[str, Any]) -> room.Span:
    return room.work(data, "task3")


@node("task4")
def task4(data: dict[str, Any]) -> room.Span:
    return room.work(data, "task4")


@pytest.mark.usefixtures("cluster")
def test_block_04_the_window_slides(data: dict[str, Any]) -> None:
    """With max_concurrent=2, task3 starts when the first of two has finished, and there are never three."""
    # Limit to 2 concurrent operations
    limited_parallel = parallel(
        task1,
        task2,
        task3,
        task4,
        max_concurrent=2,  # Only 2 run at a time
    )

    result = limited_parallel(data)

    # Execution order:
    # 1. task1 and task2 start
    # 2. When one finishes, task3 starts
    # 3. When another finishes, task4 starts
    started = {name: span["started"] for name, span in result.items()}
    ended = {name: span["ended"] for name, span in result.items()}
    assert room.peak(result.values()) == 2
    assert set(room.order(result.values())[:2]) == {"task1", "task2"}
    assert ended["task2"] < started["task3"] < ended["task1"]
    assert ended["task3"] < started["task4"] < ended["task1"]


def test_block_04_a_waiting_branch_holds_no_slot(local: LocalCluster, data: dict[str, Any]) -> None:
    """Behind the window, another run goes on: what waits for it occupies no worker."""

    @node("holder")
    def holder(data: dict[str, Any]) -> room.Span:
        return room.work(data, "holder", after=["guest"], ended=True)

    @node("waiting")
    def waiting(data: dict[str, Any]) -> room.Span:
        return room.work(data, "waiting")

    @node("guest")
    def guest(data: dict[str, Any]) -> room.Span:
        return room.work(data, "guest", after=["holder"])

    # Were the waiting ones to hold the second slot, the guest could not start, and the holder would not end.
    first = parallel(holder, *(waiting.alias(f"waiting{i}") for i in range(3)), max_concurrent=1).submit(data)
    assert guest.run(data)["name"] == "guest"

    assert room.peak(first.result().values()) == 1


@node("process_large_dataset1")
def process_large_dataset1(data: dict[str, Any]) -> room.Span:
    return room.work(data, "process_large_dataset1", together=2)


@node("process_large_dataset2")
def process_large_dataset2(data: dict[str, Any]) -> room.Span:
    return room.work(data, "process_large_dataset2", together=2)


@node("process_large_dataset3")
def process_large_dataset3(data: dict[str, Any]) -> room.Span:
    return room.work(data, "process_large_dataset3", together=2)


def test_block_05_heavy_memory_operations(local: LocalCluster, data: dict[str, Any]) -> None:
    """Of three heavy operations exactly two run at a time."""
    # Heavy memory operations - limit concurrency
    memory_intensive = parallel(
        process_large_dataset1,
        process_large_dataset2,
        process_large_dataset3,
        max_concurrent=2,  # Prevent memory exhaustion
    )

    assert room.peak(memory_intensive(data).values()) == 2


@node("api_request1")
async def api_request1(data: dict[str, Any]) -> room.Span:
    return await room.awork(data, "api_request1", together=3)


@node("api_request2")
async def api_request2(data: dict[str, Any]) -> room.Span:
    return await room.awork(data, "api_request2", together=3)


@node("api_request3")
async def api_request3(data: dict[str, Any]) -> room.Span:
    return await room.awork(data, "api_request3", together=3)


@node("api_request4")
async def api_request4(data: dict[str, Any]) -> room.Span:
    return await room.awork(data, "api_request4", together=3)


def test_block_05_api_calls_with_rate_limits(local: LocalCluster, data: dict[str, Any]) -> None:
    """Of four requests exactly three run at a time, on two workers of one lane: async nodes share a lane."""
    # API calls with rate limits
    api_calls = parallel(
        api_request1,
        api_request2,
        api_request3,
        api_request4,
        max_concurrent=3,  # Respect rate limits
    )

    assert room.peak(api_calls(data).values()) == 3

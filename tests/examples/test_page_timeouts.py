"""The page's blocks 6 and 7: a timeout of the whole block, and one of a task."""

# mypy: disable-error-code="type-arg"
# ruff: noqa: UP041 - the page says asyncio.TimeoutError

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import LocalCluster, ParallelExecutionError, ParallelTimeoutError, node, parallel
from tests.examples import room


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """What the nodes get: the room where they meet."""
    return {"room": str(tmp_path)}


@node("long_running_task1")
def long_running_task1(data: dict[str, Any]) -> str:
    return "first"


@node("long_running_task2")
def long_running_task2(data: dict[str, Any]) -> room.Span:
    # Waits for what never comes, unless the data says that it may end.
    return room.work(data, "long_running_task2", after=data.get("after", ["nobody"]))


@node("long_running_task3")
def long_running_task3(data: dict[str, Any]) -> room.Span:
    return room.work(data, "long_running_task3", after=data.get("after", ["nobody"]))


def test_block_06_a_block_in_time(
    local: LocalCluster, data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A block that ends within its timeout gives its results."""
    data |= {"after": []}

    # Timeout after 30 seconds
    timed_parallel = parallel(
        long_running_task1,
        long_running_task2,
        long_running_task3,
        timeout=30.0,  # seconds
    )

    try:
        result = timed_parallel(data)
    except ParallelTimeoutError:
        print("Parallel execution timed out")

    assert list(result) == ["long_running_task1", "long_running_task2", "long_running_task3"]
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("cluster")
def test_block_06_a_block_out_of_time(data: dict[str, Any]) -> None:
    """At its timeout a block raises ParallelTimeoutError: what had ended, what ran, what had not started."""
    timed_parallel = parallel(
        long_running_task1, long_running_task2, long_running_task3, max_concurrent=1, timeout=0.5, name="timed"
    )

    started = time.monotonic()
    with pytest.raises(ParallelTimeoutError, match=r"'timed' .* timeout of 0\.5 s") as caught:
        timed_parallel(data)
    took = time.monotonic() - started

    # Long before the nodes would have ended by themselves.
    assert 0.5 <= took < room.PATIENCE / 2
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.block, caught.value.timeout) == ("timed", 0.5)
    assert caught.value.results == {"long_running_task1": "first"}
    assert caught.value.running == ["long_running_task2"]
    assert caught.value.pending == ["long_running_task3"]
    assert room.times(Path(data["room"]), "long_running_task3") == 0


def test_block_06_what_runs_is_stopped(local: LocalCluster, data: dict[str, Any]) -> None:
    """A node that runs at the deadline is stopped, so that the next block has its worker; its ``finally`` runs."""
    with pytest.raises(ParallelTimeoutError):
        parallel(long_running_task2, long_running_task3, timeout=1.5)(data)

    # Both workers are needed at once, soon.
    started = time.monotonic()
    parallel(together1, together2)(data)
    assert time.monotonic() - started < room.PATIENCE / 2
    assert len(list(Path(data["room"]).glob("long_running_task*.ended"))) == 2


@node("together1")
def together1(data: dict[str, Any]) -> room.Span:
    return room.work(data, "together1", after=["together2"])


@node("together2")
def together2(data: dict[str, Any]) -> room.Span:
    return room.work(data, "together2", after=["together1"])


@node("task1")
def task1(data: dict[str, Any]) -> room.Span:
    return room.work(data, "task1")


@node("task2")
def task2(data: dict[str, Any]) -> room.Span:
    return room.work(data, "task2", after=["task1"], ended=True)


@node("task3")
def task3(data: dict[str, Any]) -> room.Span:
    return room.work(data, "task3", after=data.get("after", ["task2"]), ended=True)


async def async_operation(data: dict[str, Any]) -> dict[str, Any]:
    if "never" in data:
        await asyncio.Event().wait()
    return {"status": "done"}


def test_block_07_per_branch_timeout(local: LocalCluster, data: dict[str, Any]) -> None:
    """The timeout covers the block as a whole; a node may return what is to be awaited, with a limit of its own."""
    # All branches must complete within 30 seconds total
    result = parallel(task1, task2, task3, timeout=30.0)(data)

    # If you need per-task timeouts, implement within nodes:
    @node("task_with_timeout")
    def task_with_timeout(data: dict) -> dict:
        import asyncio

        try:
            return asyncio.wait_for(async_operation(data), timeout=10.0)  # type: ignore[return-value]
        except asyncio.TimeoutError:
            return {"status": "timeout"}

    assert [span["name"] for span in result.values()] == ["task1", "task2", "task3"]
    assert parallel(task1, task_with_timeout)(data)["task_with_timeout"] == {"status": "done"}


def test_block_07_the_branches_share_one_timeout(local: LocalCluster, data: dict[str, Any]) -> None:
    """Branches that each stay below the timeout still reach it together."""
    data |= {"after": ["nobody"]}

    with pytest.raises(ParallelTimeoutError) as caught:
        parallel(task1, task2, task3, timeout=1.5)(data)

    assert list(caught.value.results) == ["task1", "task2"]
    assert caught.value.running == ["task3"]


def test_block_07_an_awaitable_that_runs_out_of_time_fails_its_branch(
    local: LocalCluster, data: dict[str, Any]
) -> None:
    """As the page writes it the limit holds, but its ``except`` is left by then: the branch fails with TimeoutError."""

    @node("task_with_timeout")
    def task_with_timeout(data: dict) -> dict:
        import asyncio

        try:
            return asyncio.wait_for(async_operation(data), timeout=0.1)  # type: ignore[return-value]
        except asyncio.TimeoutError:
            return {"status": "timeout"}

    with pytest.raises(ParallelExecutionError) as caught:
        parallel(task1, task_with_timeout)(data | {"never": True})

    assert caught.value.branch == "task_with_timeout"
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_block_07_what_it_means(local: LocalCluster, data: dict[str, Any]) -> None:
    """With ``async def`` and ``await`` the node catches its own timeout, and the block goes on."""

    @node("task_with_timeout")
    async def task_with_timeout(data: dict) -> dict:
        import asyncio

        try:
            return await asyncio.wait_for(async_operation(data), timeout=0.1)
        except asyncio.TimeoutError:
            return {"status": "timeout"}

    result = parallel(task1, task_with_timeout, timeout=30.0)(data | {"never": True})

    assert result["task_with_timeout"] == {"status": "timeout"}
    assert result["task1"]["name"] == "task1"


def test_block_07_a_timeout_given_to_the_node(local: LocalCluster, data: dict[str, Any]) -> None:
    """``@node(timeout=...)`` limits one task from outside, sync code too."""

    @node("stuck", timeout=0.2)
    def stuck(data: dict[str, Any]) -> room.Span:
        return room.work(data, "stuck", after=["nobody"])

    result = parallel(task1, stuck, on_error="collect")(data)

    assert (result["stuck"].kind, result["stuck"].branch) == ("timeout", "stuck")
    assert result["task1"]["name"] == "task1"

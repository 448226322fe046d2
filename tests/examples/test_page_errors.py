"""The page's blocks 11 and 12: a branch that fails, and one that copes."""

# mypy: disable-error-code="type-arg"

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from egregore_dist import LocalCluster, ParallelExecutionError, Sequence, node, parallel
from tests.examples import room


@pytest.mark.usefixtures("cluster")
def test_block_11_individual_branch_failures(capsys: pytest.CaptureFixture[str]) -> None:
    """If a branch fails the block raises ParallelExecutionError, which names it."""
    data = {"order": 1}

    @node("safe_task")
    def safe_task(data: dict) -> dict:
        return {"status": "success"}

    @node("failing_task")
    def failing_task(data: dict) -> dict:
        raise ValueError("Task failed!")

    try:
        result = parallel(safe_task, failing_task)(data)
    except ParallelExecutionError as e:
        print(f"Parallel execution failed: {e}")
        # Error includes which branch failed

    assert "result" not in locals()
    printed = capsys.readouterr().out
    assert printed.startswith("Parallel execution failed: branch 'failing_task' ")
    assert printed.endswith("ValueError: Task failed!\n")

    with pytest.raises(ParallelExecutionError) as caught:
        parallel(safe_task, failing_task)(data)
    assert caught.value.branch == "failing_task"
    assert isinstance(caught.value.__cause__, ValueError)
    assert "in failing_task" in (caught.value.remote_traceback or "")


def test_block_11_the_failing_branch_runs_once(local: LocalCluster, tmp_path: Path) -> None:
    """A branch that fails is not executed again, and nothing of the sequence after it is."""

    @node("bad")
    def bad(data: dict[str, Any]) -> NoReturn:
        room.work(data, "bad")
        raise ValueError("Task failed!")

    @node("later")
    def later(data: dict[str, Any]) -> room.Span:
        return room.work(data, "later")

    inner = parallel(bad >> later, name="inner")
    with pytest.raises(ParallelExecutionError) as caught:
        Sequence(parallel(inner, name="outer"), later)({"room": str(tmp_path)})

    assert (caught.value.block, caught.value.branch) == ("outer", "inner")
    assert isinstance(caught.value.__cause__, ParallelExecutionError)
    assert (caught.value.__cause__.block, caught.value.__cause__.branch) == ("inner", "later")
    assert caught.value.node == "bad"
    assert (room.times(tmp_path, "bad"), room.times(tmp_path, "later")) == (1, 0)


def test_block_11_what_had_ended_is_kept(local: LocalCluster, tmp_path: Path) -> None:
    """The error has the results of the branches that had ended well, and branches that waited never start."""

    @node("first")
    def first(data: dict[str, Any]) -> str:
        return "done"

    @node("bad")
    def bad(data: dict[str, Any]) -> NoReturn:
        raise ValueError("Task failed!")

    @node("waiting")
    def waiting(data: dict[str, Any]) -> room.Span:
        return room.work(data, "waiting")

    with pytest.raises(ParallelExecutionError) as caught:
        parallel(first, bad, waiting, max_concurrent=1)({"room": str(tmp_path)})

    assert caught.value.results == {"first": "done"}
    assert list(caught.value.errors) == ["bad"]
    assert room.times(tmp_path, "waiting") == 0


def risky_operation(data: dict[str, Any]) -> str:
    raise OSError("disk on fire")


def test_block_12_graceful_error_handling(local: LocalCluster) -> None:
    """A node that handles its own error gives a result like any other, and the block completes."""
    data = {"order": 1}
    handled: list[str] = []
    handle_error = handled.append

    @node("another_task")
    def another_task(data: dict) -> dict:
        return {"status": "success"}

    @node("resilient_task")
    def resilient_task(data: dict) -> dict:
        """Task with built-in error handling."""
        try:
            result = risky_operation(data)
            return {"status": "success", "result": result}
        except Exception as e:
            # Log error but don't crash
            return {"status": "error", "error": str(e)}

    # Parallel block completes even if operations fail
    result = parallel(resilient_task, another_task)(data)

    # Check individual results
    if result["resilient_task"]["status"] == "error":
        handle_error(result["resilient_task"]["error"])

    assert handled == ["disk on fire"]
    assert result["another_task"] == {"status": "success"}

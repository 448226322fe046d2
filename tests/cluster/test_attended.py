"""Branches that a lane may not go on with, or is not to blame for."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import BranchError, Context, LocalCluster, ParallelExecutionError, Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.engine import app as apps
from egregore_dist.errors import RunCancelled
from tests.support.waiting import let_pass, until


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalCluster]:
    """One worker of two processes: to be disturbed."""
    with LocalCluster(workers=1, concurrency=2) as cluster:
        yield cluster


def mark(folder: str, name: str) -> None:
    with (Path(folder) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def marks(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().split() if file.exists() else []


@node
def first_dies(folder: str, context: Context) -> str:
    """Wait to be killed the first time, and be done the second."""
    mark(folder, "started")
    while context.attempt == 1:
        time.sleep(0.01)
    return "done"


@node
def holds(folder: str) -> str:
    mark(folder, "started")
    while not (Path(folder) / "gate").exists():
        time.sleep(0.01)
    return "held"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_told_to_end_is_no_failure(pair: LocalCluster, tmp_path: Path, number: int) -> None:
    """A branch whose process gets SIGTERM or SIGKILL runs again, and its run ends well."""
    run = parallel(first_dies).submit(str(tmp_path))
    until(lambda: marks(tmp_path, "started"))
    os.kill(int(marks(tmp_path, "started")[0]), number)

    assert run.result(timeout=60) == {"first_dies": "done"}
    assert len(marks(tmp_path, "started")) == 2


def test_a_message_that_comes_twice_takes_nothing_away(pair: LocalCluster, tmp_path: Path) -> None:
    """A second copy of a lane's message, the same task id, leaves the first lane its lease."""
    run = parallel(holds).submit(str(tmp_path))
    until(lambda: marks(tmp_path, "started"))
    found: list[dict[str, Any]] = []

    def is_shown() -> bool:
        # The worker hears from its pool that it has begun.
        active = session.current().app.control.inspect(timeout=2, limit=1).active() or {}
        found[:] = [task for tasks in active.values() for task in tasks if task["args"][0] == run.id]
        return bool(found)

    until(is_shown, what="the lane among Celery's tasks")
    (task,) = found
    copy = session.current().app.signature(apps.ADVANCE, args=(run.id,), immutable=True)
    copy.apply_async(task_id=task["id"], queue=session.current().settings.queue)
    # Longer than a report and a round of the janitor take.
    let_pass(6)
    (tmp_path / "gate").touch()

    assert run.result(timeout=30) == {"holds": "held"}
    assert len(marks(tmp_path, "started")) == 1
    assert not [event for event in run.events() if event.type == "branch.lost"]


def test_a_branch_of_short_nodes_is_stopped_between_them(pair: LocalCluster, tmp_path: Path) -> None:
    """A cancelled run stops a branch whose nodes are each too short to be attended to alone."""

    @node("short")
    def short(folder: str) -> str:
        mark(folder, "short")
        time.sleep(0.2)
        return folder

    run = parallel(Sequence(*[short] * 40, name="steps")).submit(str(tmp_path))
    until(lambda: marks(tmp_path, "short"))
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=10)
    until(lambda: parallel(node("probe")(lambda _: 1)).run(1) == {"probe": 1})
    seen = len(marks(tmp_path, "short"))
    let_pass(3)

    assert len(marks(tmp_path, "short")) <= seen + 10


def test_a_node_that_is_tried_again_and_again_is_stopped(pair: LocalCluster, tmp_path: Path) -> None:
    """A cancelled run stops a node that waits for its next attempt."""

    @node("stubborn", retries=100)
    def stubborn(folder: str) -> None:
        mark(folder, "tries")
        raise ConnectionError("not yet")

    run = parallel(stubborn).submit(str(tmp_path))
    until(lambda: len(marks(tmp_path, "tries")) >= 3)
    run.cancel()
    let_pass(2)
    seen = len(marks(tmp_path, "tries"))
    let_pass(3)

    assert len(marks(tmp_path, "tries")) == seen


def test_a_lane_that_lost_its_branch_stops(pair: LocalCluster, tmp_path: Path) -> None:
    """After cancel and retry the old execution is stopped, although the block is open again."""

    @node("long")
    def long(folder: str, context: Context) -> str:
        mark(folder, "began")
        try:
            while not (Path(folder) / "gate").exists():
                time.sleep(0.01)
        finally:
            mark(folder, "ended")
        return "long"

    run = parallel(long, max_concurrent=1).submit(str(tmp_path))
    until(lambda: marks(tmp_path, "began"))
    run.cancel()
    run.retry()
    until(lambda: len(marks(tmp_path, "began")) == 2)
    until(lambda: len(marks(tmp_path, "ended")) == 1)
    (tmp_path / "gate").touch()

    assert run.result(timeout=30) == {"long": "long"}


def test_a_node_that_cancels_itself_is_alone_to_blame(pair: LocalCluster) -> None:
    """Its siblings on the same event loop end as they would have."""

    @node("own")
    async def own(item: int) -> int:
        if item == 3:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0.1)
        return item

    value = own.map(on_error="collect").run(list(range(10)))

    assert isinstance(value[3], BranchError)
    assert [item for item in value if not isinstance(item, BranchError)] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    with pytest.raises(ParallelExecutionError):
        own.map().run(list(range(10)))

"""Branches as tasks in Celery's events, where somebody listens; and nothing of them where nobody does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import LocalCluster, errors
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from tests.cluster.celery_flows import deep, holds, hops, knocks, naps
from tests.support.listening import Ear, listening
from tests.support.waiting import until


@pytest.fixture(scope="module")
def empty() -> Iterator[LocalCluster]:
    """A cluster without workers."""
    with LocalCluster(workers=0) as cluster:
        yield cluster


@contextmanager
def worker(cluster: LocalCluster, folder: Path, *options: str) -> Iterator[None]:
    """A worker with these options, until the end."""
    name = f"{folder.name}@here"
    command = [sys.executable, "-m", "egregore_dist", "worker", "--name", name, "--concurrency", "2", *options]
    process = Process.spawn(command, env=cluster.worker_environment(), log=folder / "worker.log")
    try:
        until(lambda: name in session.current().ledger.reports(), seconds=60, what="the worker's report")
        yield
    finally:
        process.stop()
        session.current().ledger.retire(name)


@pytest.fixture
def ear(empty: LocalCluster, tmp_path: Path) -> Iterator[Ear]:
    """Somebody who listens to a worker that sends events from the start."""
    with listening(session.current().app) as ear, worker(empty, tmp_path, "--task-events"):
        yield ear


def last(ear: Ear, uuid: str, kind: str) -> dict[str, Any]:
    """Wait for an event of a task."""
    until(lambda: kind in ear.types(uuid), what=f"{kind} of {uuid}")
    return next(event for event in ear.tasks(uuid) if event["type"] == kind)


def test_each_branch_is_a_task(ear: Ear) -> None:
    """It is received, started and ended under its node's name, with its run, its real time and its real end."""
    run = naps.submit(0.3)
    run.result(timeout=60)
    block = f"{run.id}:0.0-0"
    received = last(ear, f"{block}:1", "task-received")
    ended = last(ear, f"{block}:1", "task-succeeded")
    # Each process sends its own in its time.
    last(ear, f"{block}:0", "task-succeeded")
    failed = last(ear, f"{block}:2", "task-failed")

    assert ear.types(f"{block}:0") == ["task-received", "task-started", "task-succeeded"]
    assert [received["name"], received["args"]] == ["doze", f"(run {run.id}, block beds, branch doze)"]
    assert received["hostname"].endswith("@here")
    assert 0.3 <= ended["runtime"] < 2
    assert failed["exception"] == "ValueError()"
    assert not [event for event in ear.tasks(block) if "secret" in str(event)]


def test_branches_with_blocks_and_those_on_an_event_loop(ear: Ear) -> None:
    """A branch that meets a block is one task, as long as both; async branches are shown too, each once."""
    run = deep.submit(0.2)
    run.result(timeout=60)
    outer = f"{run.id}:0.0-0"
    assert last(ear, f"{outer}:1", "task-succeeded")["runtime"] >= 0.2
    until(lambda: len(ear.types(f"{outer}:1")) >= 3, what="what the process said that began it")
    assert ear.types(f"{outer}:1") == ["task-received", "task-started", "task-succeeded"]
    assert last(ear, f"{outer}:0", "task-received")["name"] == "hop"
    until(lambda: len({event["uuid"] for event in ear.tasks(outer)}) >= 4, what="four tasks")
    assert len({event["uuid"] for event in ear.tasks(outer)}) == 4

    run = hops.submit(list(range(50)))
    run.result(timeout=60)
    until(lambda: len(ear.tasks(f"{run.id}:")) == 150, what="three events of each branch")
    assert {event["name"] for event in ear.tasks(f"{run.id}:") if event["type"] == "task-received"} == {"hop"}


def test_a_limited_node_that_is_tried_again_is_retried(ear: Ear, tmp_path: Path) -> None:
    """Its branch is one task, begun twice and ended once, and nothing is told of what the node said."""
    run = knocks.submit(str(tmp_path / "knocked"))
    run.result(timeout=60)

    begun = ["task-received", "task-started"]
    expected = [*begun, "task-retried", *begun, "task-succeeded"]
    for branch in (0, 1):
        uuid = f"{run.id}:0.0-0:{branch}"
        # Its attempts may have been in two processes, each of which sends its own in its time.
        until(lambda uuid=uuid: len(ear.types(uuid)) >= len(expected), what=f"all of {uuid}")
        assert sorted(ear.types(uuid)) == sorted(expected)
        retries = [event["retries"] for event in ear.tasks(uuid) if event["type"] == "task-received"]
        assert sorted(retries) == [0, 1]
    assert not [event for event in ear.tasks(f"{run.id}:") if "secret" in str(event)]


def test_a_branch_that_is_stopped_is_revoked(ear: Ear, tmp_path: Path) -> None:
    """A branch of a run that is cancelled does not stay as if it ran."""
    run = holds.submit(str(tmp_path / "never"))
    for branch in (0, 1):
        last(ear, f"{run.id}:0.0-0:{branch}", "task-started")
    run.cancel()

    for branch in (0, 1):
        assert last(ear, f"{run.id}:0.0-0:{branch}", "task-revoked")["terminated"] is True
    with pytest.raises(errors.EgregoreError):
        run.result(timeout=10)


def test_s17_nothing_is_sent_unless_the_worker_was_started_for_it(empty: LocalCluster, tmp_path: Path) -> None:
    """A worker without --task-events sends no events of tasks, whoever asks for them by remote control."""
    app = session.current().app

    def is_quiet() -> bool:
        run = naps.submit(0.01)
        run.result(timeout=60)
        heard = len(heartbeats())
        until(lambda: len(heartbeats()) > heard, what="a heartbeat")
        return not ear.tasks(f"{run.id}:")

    def heartbeats() -> list[dict[str, Any]]:
        return [event for event in list(ear.events) if event["type"] == "worker-heartbeat"]

    with listening(app) as ear, worker(empty, tmp_path):
        assert is_quiet()

        answers: list[dict[str, Any]] = app.control.broadcast("enable_events", reply=True, timeout=10, limit=1) or []
        assert "--task-events" in str(answers)
        assert is_quiet()

"""What one of the workers is asked for: to drain, to resume, to run more or fewer lanes at a time, to stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from egregore_dist import Context, LocalCluster, Run, errors, node
from egregore_dist.client import session
from egregore_dist.client.workers import Workers
from egregore_dist.ledger import lanes
from egregore_dist.ledger.lanes import AtBlock
from egregore_dist.resources.report import Report
from tests.support.waiting import let_pass, until


@node
def gated(folder: str) -> str:
    """Leaves a file, and waits for the gate."""
    import os
    import tempfile

    handle, name = tempfile.mkstemp(prefix="begun", dir=folder)
    os.close(handle)
    until(Path(folder, "gate").exists, what="the gate")
    return name


@node("late", retries=1, retry_delay=0.01)
def fails_first(folder: str, context: Context) -> str:
    """Fails, and then waits for the gate."""
    if context.attempt == 1:
        raise ValueError("once")
    return gated(folder)


@node
async def hovers(folder: str) -> None:
    """Leaves a file, and waits beside others until it is stopped."""
    import asyncio
    import os
    import tempfile

    handle, _ = tempfile.mkstemp(prefix="begun", dir=folder)
    os.close(handle)
    await asyncio.sleep(300)


def at_work(workers: Workers, run: Run) -> list[AtBlock]:
    """What the lanes of workers are at that work for a run."""
    found = lanes.at_work(session.current().ledger, workers.list())
    return [lane for each in found.values() for lane in each if lane.run == run.id]


def begun(folder: Path) -> int:
    """How many executions have begun."""
    return len(list(folder.glob("begun*")))


@contextmanager
def as_before(cluster: LocalCluster) -> Iterator[Workers]:
    """The cluster's workers; afterwards all take lanes, one at a time, as before."""
    found = session.current().workers
    yield found
    for worker in cluster.workers:
        found.resume(worker.name)
        if found.find(worker.name).slots != 1:
            found.concurrency(worker.name, 1)
    until(lambda: all(said.slots == said.prefetch == 1 and not said.holds for said in found.list()), what="as before")


def said_of(workers: Workers, name: str) -> Report:
    return workers.find(name)


def reasons(run: Run) -> set[str]:
    return {reason.kind for reason in run.why()}


@pytest.fixture
def workers(cluster: LocalCluster) -> Iterator[Workers]:
    """The workers of each kind of cluster."""
    with as_before(cluster) as found:
        yield found


@pytest.fixture
def local_workers(local: LocalCluster) -> Iterator[Workers]:
    """The workers of the embedded server's cluster."""
    with as_before(local) as found:
        yield found


def test_a_drained_worker_takes_nothing_new(cluster: LocalCluster, workers: Workers, tmp_path: Path) -> None:
    """What it runs ends there, the rest goes to the other worker; with both drained a run waits, and says why."""
    first, second = (worker.name for worker in cluster.workers)
    run = gated.map().submit([str(tmp_path)] * 6)
    until(lambda: begun(tmp_path) == 2, what="a branch on each worker")

    assert workers.drain(first).holds.keys() == {"drained"}
    (tmp_path / "gate").touch()
    run.result(timeout=30, progress=False)

    until(lambda: not said_of(workers, first).lanes, what="its lanes to end")
    assert {part.name: part.executions.ok for part in run.report().workers} == {first: 1, second: 5}
    assert said_of(workers, first).slots == 1
    workers.drain(second)
    waiting = gated.submit(str(tmp_path))
    until(lambda: reasons(waiting) == {"held"}, what="the reason")
    assert begun(tmp_path) == 6
    workers.resume(first)
    waiting.result(timeout=30, progress=False)


def test_a_pool_grows_and_shrinks_under_what_runs(local: LocalCluster, local_workers: Workers, tmp_path: Path) -> None:
    """More lanes begin at once; with fewer what runs goes on, nothing more begins, and its processes end when idle."""
    workers = local_workers
    first, second = (worker.name for worker in local.workers)
    workers.drain(second)
    said = workers.concurrency(first, 3)
    assert (said.slots, said.concurrency_by) == (3, "hand")
    until(lambda: len(said_of(workers, first).children) == 3, what="three processes")
    # Not one block, which may be planned with the report before.
    runs = [gated.submit(str(tmp_path)) for _ in range(3)]
    until(lambda: begun(tmp_path) == 3, what="three branches at a time")
    before = said_of(workers, first).children.keys()

    said = workers.concurrency(first, 1)
    assert said.slots == 1
    other = gated.map().submit([str(tmp_path)])
    until(lambda: said_of(workers, first).prefetch == 1, what="the limit on what is taken")
    assert said_of(workers, first).children.keys() == before
    assert begun(tmp_path) == 3
    (tmp_path / "gate").touch()

    for run in runs:
        run.result(timeout=30, progress=False)
    assert {part.name for run in runs for part in run.report().workers} == {first}
    other.result(timeout=30, progress=False)
    until(lambda: len(said_of(workers, first).children) == 1, what="the end of two processes")
    assert said_of(workers, first).children.keys() < before


def test_a_pool_of_threads_grows_and_shrinks(tmp_path: Path) -> None:
    """Threads begin more at once; with fewer what runs goes on, and no more is taken than they may run."""
    with LocalCluster(workers=1, concurrency=1, pool="threads") as running:
        workers, name = session.current().workers, running.workers[0].name
        workers.concurrency(name, 3)
        many = gated.map().submit([str(tmp_path)] * 3)
        until(lambda: begun(tmp_path) == 3, what="three branches at a time")
        workers.concurrency(name, 1)
        until(lambda: said_of(workers, name).prefetch == 1, what="the limit on what is taken")
        (tmp_path / "gate").touch()
        many.result(timeout=30, progress=False)
        (tmp_path / "gate").unlink()

        few = gated.map().submit([str(tmp_path)] * 3)
        until(lambda: begun(tmp_path) == 4, what="one more branch")
        let_pass(0.5)
        assert begun(tmp_path) == 4
        (tmp_path / "gate").touch()
        few.result(timeout=30, progress=False)
        assert said_of(workers, name).slots == 1


def test_what_lanes_are_at(local: LocalCluster, local_workers: Workers, tmp_path: Path) -> None:
    """A worker's report names the branch that each of its lanes executes, since when, and after the end none."""
    started = session.current().ledger.now() / 1000
    run = fails_first.map(name="lates").submit([str(tmp_path)] * 3)
    until(lambda: begun(tmp_path) == 2, what="a branch on each worker")
    until(lambda: [lane.attempt for lane in at_work(local_workers, run)] == [2, 2], what="both in the reports")
    found = at_work(local_workers, run)
    (tmp_path / "gate").touch()
    run.result(timeout=30, progress=False)

    assert {(lane.workflow, lane.block, lane.name, lane.node, lane.held) for lane in found} == {
        ("lates", "0.0-", "lates", "late", 1)
    }
    assert {lane.branch for lane in found} < {0, 1, 2}
    assert all(lane.since is not None and started - 1 < lane.since < started + 60 for lane in found)
    # At once, though the reports are of before.
    assert at_work(local_workers, run) == []


def test_what_lanes_of_many_are_at(local: LocalCluster, local_workers: Workers, tmp_path: Path) -> None:
    """A lane that executes many branches at a time says how many it holds, and no one of them."""
    run = hovers.map(name="many").submit([str(tmp_path)] * 40)
    until(lambda: begun(tmp_path) == 40, what="all of them")
    until(lambda: sum(lane.held for lane in at_work(local_workers, run)) == 40, what="all in the reports")
    found = at_work(local_workers, run)
    run.cancel()

    assert {(lane.branch, lane.attempt, lane.node, lane.name) for lane in found} == {(None, 0, "", "many")}
    assert all(lane.since is not None for lane in found)


def test_what_lanes_on_threads_are_at(tmp_path: Path) -> None:
    """A worker on threads knows which blocks its lanes were sent for."""
    with LocalCluster(workers=1, concurrency=2, pool="threads"):
        workers = session.current().workers
        run = gated.map(name="threaded").submit([str(tmp_path)] * 2)
        until(lambda: begun(tmp_path) == 2, what="two branches")
        until(lambda: len(at_work(workers, run)) == 2, what="both in the report")
        found = at_work(workers, run)
        (tmp_path / "gate").touch()
        run.result(timeout=30, progress=False)

    assert {lane.name for lane in found} <= {"threaded", "lane"}
    assert all(lane.branch is None and lane.since is not None for lane in found)


def test_how_wide_lanes_on_threads_are(tmp_path: Path) -> None:
    """A worker on threads reports how many branches each of its lanes may run at a time, until they have ended."""
    with LocalCluster(workers=1, concurrency=2, pool="threads"):
        workers = session.current().workers

        def widths() -> list[int]:
            [said] = workers.list()
            assert said.widths.keys() <= {*said.lanes}
            return sorted(said.widths.values())

        wide, narrow = hovers.map().submit([str(tmp_path)] * 3), gated.submit(str(tmp_path))
        until(lambda: widths() == [1, 500], what="both lanes in a report")
        wide.cancel()
        (tmp_path / "gate").touch()
        narrow.result(timeout=30, progress=False)
        until(lambda: not widths(), what="a report without lanes")


def test_who_is_not_there(local: LocalCluster) -> None:
    """A worker that is not there, and a name that two have, are errors that list those that are."""
    name, workers = local.workers[0].name, session.current().workers

    assert workers.find(name.partition("@")[0]).worker == name
    with pytest.raises(errors.WorkerNotFound, match=f"no live worker is called 'nobody'; alive: .*{name}"):
        workers.drain("nobody")

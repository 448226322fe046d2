"""What the cluster does, as it is printed."""

from __future__ import annotations

import io

from rich.console import Console

from egregore_dist.cli import top
from egregore_dist.cli.probe import Worker
from egregore_dist.cli.top import Load
from egregore_dist.ledger import RunRecord
from egregore_dist.ledger.openblocks import Backlog
from egregore_dist.ledger.runlist import Glance
from egregore_dist.resources.report import Report

RECORD = RunRecord(id="order-42", state="running", workflow="nightly", created=5.0, started=6.0, ended=None)


def worker(name: str, *lanes: str) -> Worker:
    """A worker of two slots that has these lanes."""
    said = Report(
        host="h", cores=2.0, memory_available=10**9, memory_total=4 * 10**9, worker=name, pid=1, slots=2, lanes=lanes
    )
    return Worker(report=said, reported=1.0, age=1.2)


def load(*workers: Worker, runs: tuple[Glance, ...] = (), late: float = 0.0) -> Load:
    """What a cluster does."""
    backlog = Backlog(blocks=3, waiting=40, running=3, late=late)
    return Load(at=10.0, workers=list(workers), runs=runs, open=len(runs), backlog=backlog)


def printed(found: Load) -> str:
    """What is shown of it."""
    out = io.StringIO()
    Console(file=out, width=140, markup=False, highlight=False).print(top.view(found))
    return out.getvalue()


def test_a_busy_cluster() -> None:
    """Workers with their busy slots, the busiest first, runs with how far they are, and the backlog."""
    glance = Glance(record=RECORD, block="pages", n=50, done=7, failed=1)

    said = printed(load(worker("w1"), worker("w2", "a", "b", "c"), runs=(glance,)))

    assert "2 workers, 2 of 4 slots busy   1 open run   40 branches wait, 3 run, in 3 blocks" in said
    assert said.index("w2") < said.index("w1")
    assert "2 of 2" in said
    (row,) = (line for line in said.splitlines() if line.startswith("order-42"))
    assert row.split() == ["order-42", "nightly", "running", "5.0", "s", "pages", "7/50", "1"]


def test_a_cluster_without_workers() -> None:
    """It says what to do, and that nobody does the janitor's work."""
    said = printed(load(late=60.0))

    assert "start one with `egregore-dist worker" in said
    assert "the janitor is 60.0 s late" in said
    assert "no run is open" in said


def test_the_load_as_json() -> None:
    """Slots are busy as far as lanes fill them, and runs are those that go on."""
    said = top.as_json(load(worker("w1", "a"), worker("w2", "b", "c", "d"), runs=(Glance(record=RECORD),)))

    assert (said["slots"], said["busy"], said["open"]) == (4, 3, 1)
    assert [entry["busy"] for entry in said["workers"]] == [1, 2]
    assert said["runs"][0]["block"] is None

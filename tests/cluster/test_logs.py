"""What nodes say, from workers to whoever asks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from egregore_dist import LocalCluster, Run, errors
from egregore_dist.client import session
from egregore_dist.client.logs import LogLine
from egregore_dist.ledger import logs
from tests.cluster.log_flows import (
    EVIL,
    before_a_block,
    both,
    breaks,
    dies,
    floods,
    goes_on,
    held,
    murmurs,
    mutters,
    silent,
    stumbles,
)
from tests.support.waiting import until


@pytest.fixture(scope="module")
def own() -> Iterator[LocalCluster]:
    """A cluster whose processes may die."""
    with LocalCluster(workers=1, concurrency=2) as cluster:
        yield cluster


def texts(run: Run, **wanted: object) -> list[str]:
    return [line.text for line in run.logs(**wanted)]  # type: ignore[arg-type]


def test_what_a_node_says_is_kept(cluster: LocalCluster) -> None:
    """Prints and log records of a branch are there when its run has ended, with where, when and how they were said."""
    run = both.submit("x")
    run.result(timeout=60)
    now = session.current().ledger.now() / 1000
    printed, complained, noted, broke, unfinished = run.logs()

    assert [line.text for line in (printed, complained, noted)] == ["printed x", "complained", "noted x"]
    assert broke.text.startswith("broke\nTraceback")
    assert broke.text.endswith("ValueError: of old")
    assert unfinished.text == "unfinished"
    said = [(line.source, line.level) for line in (printed, complained, noted, broke)]
    assert said == [("stdout", "INFO"), ("stderr", "WARNING"), ("flows.logs", "INFO"), ("flows.logs", "ERROR")]
    assert (printed.block_name, printed.branch, printed.branch_name) == ("pair", 0, "talks")
    assert (printed.node, printed.attempt, printed.dropped) == ("talks", 1, 0)
    assert printed.worker in session.current().ledger.reports()
    record = session.current().ledger.run(run.id)
    assert record.created <= printed.time <= broke.time <= now
    # At most a moment lies between what is said and its place.
    assert texts(run, level="ERROR") == [broke.text]
    assert texts(run, block="pair", branch="talks", node="talks") == texts(run, branch=0) == texts(run)
    assert texts(run, branch=1) == texts(run, branch="silent") == texts(run, block="other") == []
    assert [line.text for line in run.logs(after=noted.cursor)] == [broke.text, unfinished.text]


def test_what_was_said_before_a_block(local: LocalCluster) -> None:
    """It is there when the run has ended, wherever its block was served."""
    for _ in range(5):
        run = before_a_block.submit([1, 2, 3])
        run.result(timeout=60)
        first, *_, last = run.logs()
        assert (first.text, last.text) == ("printed [1, 2, 3]", "unfinished")
        assert (first.block, first.branch, first.node) == (None, None, "talks")


@pytest.mark.parametrize("node", [murmurs, mutters], ids=["async", "threads"])
def test_branches_that_run_together_are_told_apart(local: LocalCluster, node: object) -> None:
    """Each line belongs to the branch that said it, where one process runs many at a time."""
    run = node.map().submit(list(range(40)))  # type: ignore[attr-defined]
    run.result(timeout=60)
    of: dict[int | None, list[str]] = {}
    for line in run.logs():
        of.setdefault(line.branch, []).append(line.text)

    assert of == {n: [f"{n}.{i}" for i in range(3)] for n in range(40)}


def test_lines_are_live(local: LocalCluster, tmp_path: Path) -> None:
    """A line is there while its node goes on; who follows gets all lines once, and ends with the run."""
    gate = tmp_path / "gate"
    run = held.submit(str(gate))
    followed: list[LogLine] = []
    reader = threading.Thread(target=lambda: followed.extend(run.logs(follow=True)), daemon=True)
    reader.start()

    async def listen() -> list[str]:
        return [line.text async for line in run.alogs(follow=True, level="INFO")]

    until(lambda: texts(run) == ["before"], seconds=30, what="the line of a node that goes on")
    assert run.status == "running"
    gate.touch()
    heard = asyncio.run(listen())
    reader.join(30)

    assert heard == [line.text for line in followed] == ["before", EVIL]


def test_every_attempt_is_told(own: LocalCluster, tmp_path: Path) -> None:
    """What a retried node said shows with its attempt, and so does what one said whose process was killed."""
    run = stumbles.submit("x")
    assert run.result(timeout=60) == 2
    assert [(line.attempt, line.text) for line in run.logs()] == [(1, "attempt 1"), (2, "attempt 2")]

    gate = tmp_path / "gate"
    run = dies.submit(str(gate))
    until(lambda: texts(run), seconds=30, what="the line of a node that goes on")
    gate.touch()
    assert run.result(timeout=60) == 2
    assert [(line.attempt, line.text) for line in run.logs()] == [(1, "last words 1"), (2, "last words 2")]


def test_a_flood_is_bounded(own: LocalCluster) -> None:
    """Of a million lines the first and the last are kept, the rest is counted, and another run does not wait for it."""
    ledger = session.current().ledger
    run = floods.submit(10**6)
    until(lambda: texts(run), seconds=30, what="the first lines")
    silent.submit("x").result(timeout=30)
    assert run.status == "running"
    run.result(timeout=100)
    lines = list(run.logs())

    assert logs.counts(ledger, run.id) == (10**6, len(lines))
    assert 500 <= len(lines) <= 1000
    assert [line.text for line in lines[:500]] == [f"line {n}" for n in range(500)]
    assert lines[-1].text == "line 999999"
    assert len(lines) + sum(line.dropped for line in lines) == 10**6
    assert int(ledger.redis.memory_usage(ledger.keys.part(run.id, "log"), samples=0) or 0) < 2**20


def test_a_server_that_does_not_answer_holds_up_no_node(own: LocalCluster, tmp_path: Path) -> None:
    """A node says what it says while the ledger is frozen; afterwards its lines are there, within their bounds."""
    assert own.server is not None
    gate, said, end = (tmp_path / name for name in ("gate", "gate.said", "gate.end"))
    run = goes_on.submit(str(gate))
    until(lambda: texts(run) == ["before"], seconds=30, what="the first line")
    os.kill(own.server.pid, signal.SIGSTOP)
    try:
        gate.touch()
        until(said.exists, seconds=30, what="all that the node says")
    finally:
        os.kill(own.server.pid, signal.SIGCONT)
    until(lambda: texts(run)[-1] == "line 19999", seconds=30, what="the last line")
    end.touch()
    assert run.result(timeout=60) == "said"
    lines = list(run.logs())

    assert len(lines) == 1000
    assert len(lines) + sum(line.dropped for line in lines) == 20_001


def test_a_deleted_run_leaves_no_line(local: LocalCluster) -> None:
    """Its lines go with it, and nobody reads them after."""
    run = breaks.submit("x")
    with pytest.raises(errors.RunFailed):
        run.result(timeout=60)
    ledger = session.current().ledger
    assert texts(run) == ["about to break"]
    assert ledger.delete(run.id)

    assert list(ledger.redis.scan_iter(match=f"{ledger.keys.run(run.id)}*")) == []
    with pytest.raises(errors.RunNotFound):
        texts(run)


def test_a_level_that_there_is_not(local: LocalCluster) -> None:
    """It is refused when it is asked for, before anything is read."""
    with pytest.raises(errors.ConfigurationError, match="LOUD"):
        Run("nobody").logs(level="LOUD")

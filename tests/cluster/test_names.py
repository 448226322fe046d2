"""No two workers that live report under one name: each would deny the lanes of the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from egregore_dist import LocalCluster, errors, node
from egregore_dist.cli import codes
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.ledger import Ledger
from egregore_dist.resources.report import Report
from egregore_dist.worker import naming
from tests.support.waiting import until

NAME = "same@here"


@node
def parent(_: None) -> int:
    return os.getppid()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A server and one worker."""
    with LocalCluster(workers=1) as running:
        yield running


@pytest.fixture
def ledger(cluster: LocalCluster) -> Iterator[Ledger]:
    """Its ledger, with nobody under the name when the test is over."""
    found = session.current().ledger
    yield found
    found.retire(NAME)


def start(cluster: LocalCluster, name: str, log: Path) -> Process:
    """A worker of this name."""
    command = [sys.executable, "-m", "egregore_dist", "worker", "--name", name, "-c", "1"]
    return Process.spawn(command, env=cluster.worker_environment(), log=log)


def said(ledger: Ledger, pid: int, life: str) -> bytes:
    """A report as another worker of the name would publish it now."""
    report = Report(
        host="h",
        cores=1.0,
        memory_available=1,
        memory_total=1,
        worker=NAME,
        pid=pid,
        slots=1,
        life=life,
        at=ledger.now(),
    )
    return msgspec.msgpack.encode(report)


def test_a_second_worker_of_a_name_does_not_start(cluster: LocalCluster, tmp_path: Path) -> None:
    """It says so in one line and ends; the first one serves on."""
    (first,) = cluster.workers
    second = start(cluster, first.name, tmp_path / "log")

    assert second.wait(30) == codes.USAGE
    (line,) = [line for line in second.log_tail().splitlines() if line.startswith("egregore-dist: ")]
    assert line.startswith(f"egregore-dist: a worker named {first.name!r} lives already, as process {first.pid}")
    assert parent.run(None) == first.pid


def test_a_worker_that_is_replaced_ends(cluster: LocalCluster, ledger: Ledger, tmp_path: Path) -> None:
    """Where another one reports in its place, as after a partition, it takes no more work and says why."""
    worker = start(cluster, NAME, tmp_path / "log")
    until(lambda: ledger.reported(NAME) is not None, seconds=60, what="its first report")

    def ended() -> bool:
        ledger.report(NAME, said(ledger, 1, "elsewhere"), 60.0)
        return not worker.alive

    until(ended, what="its end")
    assert worker.returncode not in (0, None)
    assert f"reports as worker {NAME} too" in worker.log_tail()
    assert ledger.reported(NAME) is not None


def test_the_name_of_a_dead_worker_is_free_at_once(ledger: Ledger) -> None:
    """A worker that was killed here can be started again under its name, though its report is still there."""
    life = naming.Life.begin()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ledger.report(NAME, said(ledger, dead.pid, f"{life.space}/{dead.pid}/0"), 600.0)
    naming.claim(ledger, NAME, life, ttl=600.0)

    assert ledger.reported(NAME) is not None


def test_the_name_of_a_silent_worker_elsewhere_is_free_with_its_report(ledger: Ledger) -> None:
    """Whether it lives, only its next report tells."""
    life = naming.Life.begin()
    ledger.report(NAME, said(ledger, 1, "elsewhere"), 0.5)
    naming.claim(ledger, NAME, life, ttl=60.0)

    assert ledger.reported(NAME) is None


def test_what_cannot_be_read_holds_no_name(ledger: Ledger) -> None:
    """A report of another release, or of this very process, keeps nobody from its name."""
    life = naming.Life.begin()
    for report in (b"\xc1", said(ledger, os.getpid(), life.word)):
        ledger.report(NAME, report, 600.0)

        assert naming.other(ledger, NAME, life) is None


def test_a_name_that_is_taken(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the process that has it."""
    life = naming.Life.begin()
    monkeypatch.setattr(
        "egregore_dist.worker.naming.time.sleep", lambda _: ledger.report(NAME, said(ledger, 77, "w"), 9.0)
    )
    ledger.report(NAME, msgspec.msgpack.encode(msgspec.msgpack.decode(said(ledger, 77, "w")) | {"at": 1}), 9.0)
    with pytest.raises(errors.ConfigurationError, match=f"{NAME}' lives already, as process 77"):
        naming.claim(ledger, NAME, life, ttl=60.0)

"""F11: the clocks of workers and clients are wrong, or jump."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from egregore_dist import ParallelTimeoutError, Run, Sequence, node, parallel
from egregore_dist.client import server
from egregore_dist.client.server import Server
from egregore_dist.engine.lane import Lane
from egregore_dist.engine.runtime import Runtime
from egregore_dist.settings import load
from tests.support import history, skew
from tests.support.clusters import submitting
from tests.support.secret import secret_of
from tests.support.skew import Clock
from tests.support.trial import Trial
from tests.support.waiting import let_pass, until
from tests.support.work import anap, far_only, join, long_first, nap, quick

TWO_MINUTES, HOUR = 120, 3600
# A deadline is kept within a second; a busy machine is slower than the product.
KEPT = 1.0
SLACK = 2.0
TIMED = 3

CLIENT = """
from egregore_dist import Sequence, connect, parallel
from tests.support.work import join, nap, quick
session = connect()
Sequence(parallel(quick, nap, timeout=30.0), join).submit(0.05, id="skewed")
session.close()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that fakes a process's clock."""
    if why := skew.missing():
        pytest.skip(why)
    return skew.build(tmp_path_factory.mktemp("skew"))


def skewed(trial: Trial, library: Path, seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is so far ahead."""
    return Clock(library, trial.folder / f"clock{seconds}", seconds).env


@pytest.mark.parametrize("skews", [(TWO_MINUTES, -TWO_MINUTES), (HOUR, HOUR), (-HOUR, 0)], ids=str)
def test_workers_may_have_wrong_clocks(
    trial_of: Callable[..., Trial], library: Path, skews: tuple[int, int], figure: Callable[[str], None]
) -> None:
    """Deadlines and leases follow the server's clock alone: blocks with a timeout end well, or at that instant."""
    trial = trial_of(workers=0)
    for seconds in skews:
        trial.add(env=skewed(trial, library, seconds))
    runs = [
        trial.submit(Sequence(parallel(quick, nap, anap, timeout=30.0), join), 0.05),
        trial.submit(Sequence(nap.map(timeout=30.0), join), [0.05] * 20),
        trial.submit(anap.map(timeout=30.0, max_concurrent=5), [0.05] * 50),
    ]
    timed = [trial.submit(parallel(nap, anap, quick, timeout=2.0, name="timed"), 60.0) for _ in range(TIMED)]
    for run in timed:
        assert isinstance(trial.failure(run), ParallelTimeoutError)
    blocks = [it for run in timed for it in history.read_run(trial.ledger, run.id).blocks.values()]
    late = [((it.ended or inf) - it.deadline) / 1000 for it in blocks if it.deadline is not None]
    assert len(late) == TIMED
    figure(f"deadlines were kept {median(late):.2f} s late (median), {max(late):.2f} s at most")
    assert median(late) < KEPT
    assert max(late) < KEPT + SLACK
    found = [trial.result(run) for run in runs]
    assert set(found[0]) == {"quick", "nap", "anap"}
    assert [len(values) for values in found[1:]] == [20, 50]
    assert [run.status for run in runs] == ["succeeded"] * 3


def test_a_skewed_worker_s_death_is_noticed(trial_of: Callable[..., Trial], library: Path) -> None:
    """Whose clock is an hour ahead, is taken for dead when it is, and not for alive an hour longer."""
    trial = trial_of(workers=0)
    victim = trial.add(env=skewed(trial, library, HOUR))
    run = trial.submit(parallel(long_first), 60.0)
    trial.wait_for(node="long_first")
    trial.add(env=skewed(trial, library, -HOUR))
    let_pass(1.0)
    assert len(trial.executions()) == 1
    trial.kill(victim)

    assert trial.result(run).keys() == {"long_first"}


def test_what_a_repair_publishes_never_expires(trial_of: Callable[..., Trial], library: Path) -> None:
    """Messages are lost; the only worker of their queue is an hour ahead, and takes those that replace them."""
    trial = trial_of(workers=1)
    server = trial.ledger.redis
    # Its first node has the worker with the right time publish the rest, and that worker leads.
    run = trial.submit(Sequence(quick, parallel(far_only, far_only.alias("again"), timeout=300.0), join), None)
    until(lambda: server.llen("far"), what="the messages of the block")
    server.delete("far")
    until(lambda: server.llen("far"), seconds=60, what="those of a repair")
    trial.add(env=skewed(trial, library, HOUR), queues=["far"])

    assert set(trial.result(run, timeout=60)) == {"far_only", "again"}


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=str)
def test_a_clock_that_jumps_in_a_run(trial_of: Callable[..., Trial], library: Path, jump: int) -> None:
    """A worker's clock jumps while it holds branches and a deadline: nothing ends early, and nothing late."""
    trial = trial_of(workers=0)
    clock = Clock(library, trial.folder / "clock")
    trial.add(env=clock.env, concurrency=2)
    run = trial.submit(Sequence(nap.map(timeout=30.0), join), [0.2] * 20)
    timed = trial.submit(parallel(anap, quick, timeout=3.0, name="timed"), 60.0)
    trial.wait_for(4)
    clock.jump(jump)

    assert isinstance(trial.failure(timed), ParallelTimeoutError)
    assert len(trial.result(run)) == 20
    # It serves on: new runs, and blocks with a timeout.
    assert set(trial.run(parallel(quick, nap, timeout=30.0), 0.01)) == {"quick", "nap"}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=str)
def test_a_client_may_have_a_wrong_clock(trial: Trial, library: Path, seconds: int) -> None:
    """What a client with a wrong clock submits runs as anything else, at once."""
    subprocess.run(
        [sys.executable, "-c", CLIENT],
        env={
            **trial.cluster.worker_environment(),
            **skewed(trial, library, seconds),
            "TMPDIR": os.fspath(trial.folder),
        },
        check=True,
        timeout=60,
    )
    trial.accepted("skewed")

    assert set(trial.result(Run("skewed"), timeout=30)) == {"quick", "nap"}


@node
def holds(seconds: float) -> None:
    """Runs alone in its lane."""
    time.sleep(seconds)


@node(io=True)
def waits_in_steps(seconds: float) -> None:
    """Runs on a thread, which can be stopped."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)


@node
async def awaits(seconds: float) -> None:
    """Runs on the event loop."""
    await asyncio.sleep(seconds)


@pytest.mark.parametrize("body", [holds, waits_in_steps, awaits], ids=str)
def test_a_server_s_clock_that_is_set_back(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    """A lane that told a deadline too early waits for the server: what it stopped did not fail, and it asks seldom."""
    clock = Clock(library, tmp_path / "clock")
    given = server._environment
    monkeypatch.setattr(server, "_environment", lambda: {**given(), **clock.env})
    with Server.start() as started:
        settings = load(broker_url=started.url, secret=secret_of("clocks"))
        with submitting(settings) as session:
            run = body.map(timeout=1.5).submit([60.0] * 40)
            back = threading.Timer(0.7, clock.jump, (-1,))
            back.start()
            Lane(Runtime(session.app, settings), run.id, worker="here", id="lane").serve("0", 0)
            back.join()
            calls = sum(said["calls"] for said in session.ledger.redis.info("commandstats").values())

            with pytest.raises(ParallelTimeoutError):
                run.result(timeout=10)

    assert calls < 2000

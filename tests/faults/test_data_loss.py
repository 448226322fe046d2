"""F6: the server comes back without its data; handles say so, workers re-register, and new runs work."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest

from egregore_dist import Run, RunLost, RunNotFound, Sequence, parallel
from tests.support.trial import Trial
from tests.support.waiting import until
from tests.support.work import anap, join, nap, quick

KNOWN_WITHIN = 10.0


def lose(trial: Trial, how: str) -> None:
    """Have the server lose its data: under connections that stay, or with a restart."""
    server = trial.cluster.server
    assert server is not None
    if how == "flush":
        trial.ledger.redis.flushall()
        return
    server.kill()
    for folder in server.directory.glob("appendonly*"):
        shutil.rmtree(folder)
    server.restart()


async def awaited(run: Run) -> Any:
    """Its value."""
    return await run


async def iterated(run: Run) -> list[Any]:
    """Its events, up to its end."""
    return [event async for event in run]


WAITS: dict[str, Callable[[Run], Any]] = {
    "result": lambda run: run.result(timeout=60, progress=False),
    "result with progress": lambda run: run.result(timeout=60, progress=True),
    "await": lambda run: asyncio.run(awaited(run)),
    "events": lambda run: list(run.events()),
    "async for": lambda run: asyncio.run(iterated(run)),
}
ASKS: dict[str, Callable[[Run], Any]] = {
    "status": lambda run: run.status,
    "events so far": lambda run: list(run.events(follow=False)),
    **{verb: lambda run, verb=verb: getattr(run, verb)() for verb in ("cancel", "pause", "resume", "retry")},
}


def lost_at(ask: Callable[[Run], Any], run: Run) -> float:
    """When a handle was told that its run is lost."""
    with pytest.raises(RunLost) as caught:
        ask(run)
    assert caught.value.run_id == run.id
    assert "without its data" in str(caught.value)
    return time.monotonic()


def readers(trial: Trial) -> int:
    """How many wait for a run: workers wait otherwise, for messages."""
    return sum("b" in each["flags"] and each["cmd"] in ("blmove", "xread") for each in trial.ledger.redis.client_list())


@pytest.mark.parametrize("how", ["flush", "restart"])
def test_an_empty_server(trial_of: Callable[..., Trial], figure: Callable[[str], None], how: str) -> None:
    """Every way to wait for or ask about a run that is lost says so in time, its nodes stop, and new runs work."""
    trial = trial_of(workers=2, concurrency=2)
    before = trial.submit(quick, 1)
    assert trial.result(before).startswith("quick#")
    run = trial.submit(Sequence(parallel(nap, anap, nap.alias("b"), max_concurrent=2), join), 60.0)
    trial.wait_for(2)
    paused = trial.submit(parallel(nap), 60.0)
    paused.pause()
    elsewhere = Run(run.id)
    assert elsewhere.status == "running"
    trial.notes.lost |= {run.id, before.id, paused.id}

    with futures.ThreadPoolExecutor(len(WAITS) + 1) as threads:
        # Of these, two know the run by its id alone.
        handles = [elsewhere, run, Run(run.id), run, run]
        told = [threads.submit(lost_at, wait, of) for wait, of in zip(WAITS.values(), handles, strict=True)]
        until(lambda: readers(trial) == len(WAITS), what="the readers")
        lose(trial, how)
        back = time.monotonic()
        asked = [lost_at(ask, run) for ask in ASKS.values()]
        late = max([*asked, *(one.result(60) for one in told)]) - back
    figure(f"every handle knew after {late:.2f} s")
    assert late < KNOWN_WITHIN
    for ended in (before, paused):
        with pytest.raises(RunLost):
            ended.result(timeout=10)
    with pytest.raises(RunNotFound):
        Run(run.id).result(timeout=10)

    # Before anything new was submitted: what runs is nobody's any more.
    until(lambda: all(it.end is not None for it in trial.executions()), seconds=15, what="the end of what ran")
    until(lambda: len(trial.ledger.reports()) == 2, seconds=15, what="the workers' reports")
    started = time.monotonic()
    new = [
        trial.submit(flow, 0.1)
        for flow in (quick, parallel(nap, anap), Sequence(parallel(nap, parallel(quick, nap, name="inner")), join))
    ]
    single, block, joined = (trial.result(one) for one in new)
    assert single.startswith("quick#")
    assert block.keys() == {"nap", "anap"}
    assert {name: type(value) for name, value in joined.items()} == {"nap": str, "inner": dict}
    assert len(trial.run(nap.map(), [0.3] * 4)) == 4
    figure(f"new runs ended {time.monotonic() - started:.2f} s after their submission")


def test_workers_serve_again_without_any_client(trial: Trial) -> None:
    """What is submitted as the very first thing to an empty server is served, and soon by every worker."""
    assert trial.run(quick, 1).startswith("quick#")
    lose(trial, "flush")
    trial.notes.lost |= trial.notes.accepted

    assert len(trial.run(nap.map(), [0.1] * 4)) == 4
    until(lambda: len(trial.ledger.reports()) == 2, seconds=15, what="the workers' reports")
    before = len(trial.executions())
    assert len(trial.run(nap.map(), [0.5] * 8)) == 8
    assert len({it.pid for it in trial.executions()[before:]}) == 2

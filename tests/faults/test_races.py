"""F22 with real workers: cancel, the last branch, the deadline, retry and pause at about the same moment."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any

import pytest

from egregore_dist import ParallelTimeoutError, Run, RunCancelled, Sequence, parallel
from tests.support import history
from tests.support.trial import Trial
from tests.support.waiting import let_pass
from tests.support.work import anap, join, nap

RACES, AT_A_TIME = 30, 6


def flow_of(rng: random.Random, length: float) -> Any:
    """Branches that take so long, in a block whose deadline is near their end."""
    timeout = rng.choice([length + rng.uniform(-0.15, 0.25), 30.0])
    shape = rng.choice(["flat", "nested", "async"])
    if shape == "flat":
        block = parallel(nap, nap.alias("b"), timeout=timeout, name="racing")
    elif shape == "async":
        block = parallel(anap, anap.alias("b"), anap.alias("c"), timeout=timeout, name="racing")
    else:
        block = parallel(parallel(nap, nap.alias("b"), name="inner"), anap, timeout=timeout, name="racing")
    return rng.choice([block, Sequence(block, join, name="joined")])


def told(ask: Callable[[], Any]) -> tuple[str, Any]:
    """What a reader learned of a run: its state, and value."""
    try:
        return "succeeded", ask()
    except RunCancelled:
        return "cancelled", None
    except ParallelTimeoutError:
        return "failed", None


def by_thread(run: str) -> tuple[str, Any]:
    """A reader that blocks."""
    return told(lambda: Run(run).result(timeout=60, progress=False))


def by_loop(run: str) -> tuple[str, Any]:
    """A reader that awaits."""

    async def wait() -> Any:
        return await Run(run)

    return told(lambda: asyncio.run(wait()))


def by_events(run: str) -> tuple[str, Any]:
    """A reader of events, until there is an end; the state that the last of the ends before it stopped had."""
    ends = [event.detail["state"] for event in Run(run).events() if event.type == "run.ended"]
    return ends[-1], None


def race(trial: Trial, rng: random.Random) -> tuple[Run, list[tuple[str, Any]]]:
    """Meddle with a run around its end while others wait for it; returns what those were told."""
    length = rng.uniform(0.2, 0.5)
    run = trial.submit(flow_of(rng, length), length)
    due = time.monotonic() + length
    acts = [rng.choice([run.cancel, run.pause, run.pause, run.resume, run.retry]) for _ in range(rng.randint(1, 5))]

    def meddle(act: Callable[[], str], at: float) -> None:
        let_pass(max(0.0, at - time.monotonic()))
        act()

    with futures.ThreadPoolExecutor(len(acts) + 3) as threads:
        readers = [threads.submit(read, run.id) for read in (by_thread, by_loop, by_events)]
        # A retry finds something to do only after an end.
        at = [due + rng.gauss(0.25 if act == run.retry else 0.05, 0.15) for act in acts]
        for done in [threads.submit(meddle, *one) for one in zip(acts, at, strict=True)]:
            done.result(60)
        # Whatever the others did, it goes on to an end.
        run.resume()
        return run, [reader.result(60) for reader in readers]


def starts_while_paused(events: Iterable[history.Happened]) -> int:
    """How many branches were leased between a pause and its end."""
    paused, found = False, 0
    for event in events:
        paused = event.type == "run.paused" or (paused and event.type not in ("run.resumed", "run.ended"))
        found += len(event.branches) if paused and event.type == "branches.started" else 0
    return found


@pytest.mark.timeout(180)
def test_races(trial_of: Callable[..., Trial], seed: str, figure: Callable[[str], None]) -> None:
    """There is one end at a time, whoever waits is told it, and a paused run starts nothing."""
    trial = trial_of(workers=2, concurrency=2)
    with futures.ThreadPoolExecutor(AT_A_TIME) as threads:
        races = list(threads.map(race, [trial] * RACES, [random.Random(f"{seed}/{it}") for it in range(RACES)]))

    happened: Counter[str] = Counter()
    for run, readers in races:
        final = trial.outcome(run)
        events = history.read_run(trial.ledger, run.id).events
        ends = [event.state for event in events if event.type == "run.ended"]
        assert "succeeded" not in ends[:-1], ends
        assert {state for state, _ in readers} <= set(ends)
        assert all(value == final for state, value in readers if state == "succeeded" and value is not None)
        assert starts_while_paused(events) == 0
        happened.update(event.type for event in events if event.type in ("run.paused", "run.resumed", "run.retried"))
        happened[ends[-1]] += 1
    figure(", ".join(f"{count} {what}" for what, count in sorted(happened.items())))

"""F21: two hundred blocks reach their deadline in the same second."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from statistics import median, quantiles
from typing import Any

import pytest

from egregore_dist import BranchError, Run, Sequence, node, parallel
from tests.support import history
from tests.support.trial import Trial
from tests.support.waiting import until
from tests.support.work import anap, minute, nap, quick, spin

RUNS, BLOCKS = 20, 10
# Seconds from the first submission until the storm: enough to open every block, on a busy machine too.
UNTIL_THEN = 20.0
# Seconds that a deadline may be kept late.
KEPT = 1.0
# Seconds within which the middle half of the deadlines are; and all of them, on a busy machine.
HALF, ALL = 1.0, 5.0


def far(step: Any) -> Any:
    """The same on another queue: what opens the blocks does not wait for a slot that their branches hold."""
    return node(step.name, queue="far")(step.fn)


fast, sleeps, asleep, computes = far(quick), far(nap), far(anap), far(spin)
inner = parallel(asleep, parallel(asleep, sleeps, name="innermost"), name="inner")
deep = Sequence(fast, far(minute), inner).alias("deep")

KINDS: list[Callable[[float], Any]] = [
    lambda timeout: parallel(asleep, asleep.alias("other"), fast, timeout=timeout, name="flat"),
    lambda timeout: parallel(deep, fast.alias("beside"), timeout=timeout, name="deeper"),
    lambda timeout: parallel(computes, sleeps, fast, max_concurrent=1, timeout=timeout, name="limited"),
]


def opened(trial: Trial, run: Run) -> int:
    """How many blocks of a run have a deadline."""
    return sum(bool(it.timeout) for it in trial.ledger.blocks(run.id))


@pytest.mark.timeout(180)
@pytest.mark.long
def test_a_storm_of_deadlines(trial_of: Callable[..., Trial], figure: Callable[[str], None]) -> None:
    """Each ends at its own deadline with all that it holds, waiting and running branches, and the slots are free."""
    trial = trial_of(workers=1, concurrency=2)
    trial.add(queues=["far"], concurrency=2)
    then, runs = time.monotonic() + UNTIL_THEN, []
    for _ in range(RUNS):
        left = max(1.0, then - time.monotonic())
        blocks = [trial.rng.choice(KINDS)(left).alias(f"b{number}") for number in range(BLOCKS)]
        run = trial.submit(parallel(*blocks, on_error="collect", name="storm"), 60.0)
        until(lambda run=run: opened(trial, run) == BLOCKS, what="its blocks")
        runs.append(run)
    for run in runs:
        found = trial.result(run)
        assert all(isinstance(it, BranchError) and it.kind == "timeout" for it in found.values()), found

    timed = [it for run in runs for it in history.read_run(trial.ledger, run.id).blocks.values() if it.deadline]
    deadlines = [(it.deadline or inf) / 1000 for it in timed]
    late = [((it.ended or inf) - (it.deadline or 0)) / 1000 for it in timed]
    assert len(late) == RUNS * BLOCKS
    first, _, third = quantiles(deadlines)
    apart = max(deadlines) - min(deadlines)
    figure(
        f"{len(late)} deadlines within {apart:.2f} s, half of them within {third - first:.2f} s: {median(late):.2f} s "
        f"late (median), {max(late):.2f} s at most"
    )
    assert third - first < HALF
    assert apart < ALL
    assert median(late) < KEPT
    # The slots are free: these need every one of them.
    assert [len(trial.run(step.map(), [0.2] * 2)) for step in (nap, sleeps)] == [2, 2]

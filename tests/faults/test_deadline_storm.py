"""F21: two hundred blocks reach their deadline in the same second."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from statistics import median

import pytest

from egregore_dist import BranchError, Sequence, parallel
from tests.support import history
from tests.support.trial import Trial
from tests.support.work import anap, minute, nap, quick, spin

BLOCKS, RUNS = 200, 4
TIMEOUT = 6.0
# Seconds that a deadline may be kept late.
KEPT = 1.0

flat = parallel(anap, anap.alias("other"), quick, timeout=TIMEOUT, name="flat")
deep = parallel(
    Sequence(quick, minute, parallel(anap, parallel(anap, nap, name="innermost"), name="inner")).alias("deep"),
    quick.alias("beside"),
    timeout=TIMEOUT,
    name="deeper",
)
limited = parallel(spin, nap, quick, max_concurrent=1, timeout=TIMEOUT, name="limited")


@pytest.mark.timeout(180)
def test_a_storm_of_deadlines(trial_of: Callable[..., Trial], figure: Callable[[str], None]) -> None:
    """Each ends at its own deadline with all that it holds, waiting and running branches, and the slots are free."""
    trial = trial_of(workers=2, concurrency=2)
    kinds = [flat, deep, limited]
    branches = [trial.rng.choice(kinds).alias(f"b{number}") for number in range(BLOCKS // RUNS)]
    runs = [trial.submit(parallel(*branches, on_error="collect", name="storm"), 30.0) for _ in range(RUNS)]
    for run in runs:
        found = trial.result(run)
        assert all(isinstance(it, BranchError) and it.kind == "timeout" for it in found.values()), found

    blocks = [it for run in runs for it in history.read_run(trial.ledger, run.id).blocks.values()]
    deadlines = [it.deadline / 1000 for it in blocks if it.deadline is not None]
    late = [((it.ended or inf) - it.deadline) / 1000 for it in blocks if it.deadline is not None]
    apart = max(deadlines) - min(deadlines)
    figure(f"{len(late)} deadlines within {apart:.1f} s: {median(late):.2f} s late (median), {max(late):.2f} s at most")
    assert median(late) < KEPT
    # The slots are free: this needs every one of them.
    assert len(trial.run(nap.map(), [0.2] * 4)) == 4

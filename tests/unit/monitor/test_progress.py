"""How far a run is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egregore_dist.ledger import RunRecord
from egregore_dist.monitor import progress
from tests.support import glances

RUN = RunRecord(id="order-1", state="running", workflow="flow", created=1.0, started=1.0, ended=None)
OUTER = glances.block((0,), name="fetch", n=10, done=4, failed=1, opened=2000)


def test_branches_of_all_blocks_are_counted() -> None:
    """Those of the blocks that are open and of those that have ended, outer ones and nested ones."""
    inner = glances.block((0, 1), parent="0.0-0", branch=1, n=5, done=5, state="ok")

    found = progress.of(RUN, [OUTER, inner], 10.0)

    assert (found.n, found.done, found.failed) == (15, 9, 1)


def test_what_is_left_is_estimated_from_what_has_ended() -> None:
    """Four took eight seconds, so six take twelve; of a nested block nobody asks."""
    inner = glances.block((0, 1), name="inner", parent="0.0-0", branch=1, n=100, done=50, opened=3000)

    found = progress.of(RUN, [inner, OUTER], 10.0)

    assert (found.block, found.left) == ("fetch", 12.0)


@pytest.mark.parametrize(
    ("run", "block"),
    [
        (RUN, replace(OUTER, done=2)),
        (RUN, replace(OUTER, reopened=3000)),
        (RUN, replace(OUTER, state="ok")),
        (replace(RUN, state="paused"), OUTER),
        (replace(RUN, state="failed"), OUTER),
    ],
    ids=["too few have ended", "a retry has opened it again", "it has ended", "paused", "the run has ended"],
)
def test_what_is_left_is_not_always_known(run: RunRecord, block: glances.BlockGlance) -> None:
    """Then nothing is said of it."""
    assert progress.of(run, [block], 10.0).left is None
    assert progress.of(RUN, [], 10.0) == progress.Progress(n=0, done=0, failed=0)

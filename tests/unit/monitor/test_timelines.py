"""What is told of a branch and its times, also where a run's events are not all kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egregore_dist.client.events import Spent
from egregore_dist.client.timeline import Attempt, Timeline
from egregore_dist.ledger.browse import Branch
from egregore_dist.monitor.timelines import times
from tests.support import glances
from tests.unit.client.stories import STORY, event, timeline
from tests.unit.monitor.tables import first_row
from tests.unit.monitor.test_escaping import page

BLOCK = glances.block((1,), n=3, opened=102_000)
ROW = Branch(position=0, state="ok", holder="", attempt=1, result=3, failure=0, at="")


def ran(*, number: int = 1) -> Timeline:
    """Branch 0 has run once, in a block that may have lost events."""
    made = timeline(*STORY[:4])
    made.miss()
    made.add(event(105.0, "branches.started", "0.0-1", branches=(0,), worker="w", attempts={0: number}))
    made.add(event(107.0, "branches.ended", "0.0-1", branches=(0,), worker="w", attempts={0: number}))
    return made


def test_what_is_known_is_told() -> None:
    """The wait of a branch whose first attempt was seen, and that attempt."""
    waited, last = times(ran(), BLOCK, ROW)

    assert waited == 3.0
    assert last is not None
    assert (last.start, last.end) == (105.0, 107.0)


@pytest.mark.parametrize(
    ("made", "block", "row"),
    [
        (ran(number=2), BLOCK, ROW),
        (ran(), replace(BLOCK, reopened=104_000), ROW),
    ],
    ids=["not the first attempt", "a retry has opened the block again"],
)
def test_a_wait_that_is_not_known(made: Timeline, block: glances.BlockGlance, row: Branch) -> None:
    """How long a branch waited for an attempt that may not be its first is not told."""
    waited, last = times(made, block, row)

    assert waited is None
    assert last is not None


@pytest.mark.parametrize(
    "row",
    [replace(ROW, state="error"), replace(ROW, state="running"), replace(ROW, at="0.0-1.0-0")],
    ids=["it has ended otherwise since", "it runs again", "it went on after a block"],
)
def test_an_attempt_that_may_not_be_the_last(row: Branch) -> None:
    """An attempt that does not fit what the ledger says of the branch now is not taken for its last."""
    assert times(ran(), BLOCK, row) == (None, None)


def test_a_block_of_which_all_is_known() -> None:
    """Nothing is held back where no event is missing."""
    made = timeline(*STORY)

    waited, last = times(made, BLOCK, replace(ROW, position=1, at="0.0-1.1-0"))

    assert waited == 1.0
    assert last is made.attempts["0.0-1", 1][-1]


def test_all_that_is_told_of_a_branch() -> None:
    """Each column of its row in the block, and of its attempt on its own page, has what its head says."""
    spent = Spent(cpu=1.5, memory=3_000_000)
    attempt = Attempt(105.0, 107.0, "error", "w1", number=2, size=40, spent=spent)

    row = first_row(page("block.html", rows=[(replace(ROW, result=30), "shop", 3.0, attempt)]))
    alone = first_row(page("branch.html", attempts=[attempt]))

    both = {"Worker": "w1", "CPU": "1.5 s", "Peak memory": "+3.0 MB"}
    first = {"#": "0", "Branch": "shop", "State": "ok", "Attempt": "2", "Waited": "3.0 s", "Ran": "2.0 s"}
    assert row == {**both, **first, "Result": "30 B"}
    times = {"Began": "1970-01-01 00:01:45 UTC", "Ended": "1970-01-01 00:01:47 UTC", "Took": "2.0 s"}
    assert alone == {**both, **times, "#": "2", "How": "error", "Result": "40 B"}

"""How far the blocks of a run are, and how fast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egregore_dist.cli.levels import WINDOW, Level, Pace, every, levels
from egregore_dist.ledger.browse import BlockGlance, Blocks
from tests.support import glances

BLOCK = glances.block((1,), name="pages", n=10, done=4, failed=1, running=2)
NESTED = replace(BLOCK, id="0.0-1.3-1,0", path=(1, 0), name="images", state="ok", n=3, done=3, failed=0, ended=2000)


def of(*blocks: BlockGlance, unread: int = 0) -> tuple[Level, ...]:
    """The levels of a run with these blocks, and some more like the last."""
    counts: dict[tuple[int, ...], int] = {}
    live: dict[tuple[int, ...], int] = {}
    for block in blocks:
        counts[block.path] = counts.get(block.path, 0) + 1
        live[block.path] = live.get(block.path, 0) + (block.state == "open")
    counts[blocks[-1].path] += unread
    return levels(Blocks(shown=blocks, counts=counts, open=live))


def test_blocks_of_one_place_are_one_level() -> None:
    """Nested blocks are added up below the place that they are nested in."""
    other = replace(NESTED, id="0.0-1.4-1,0", state="open", done=1, ended=None, opened=1500)

    (outer,) = of(BLOCK, NESTED, other, unread=5)

    assert (outer.name, outer.n, outer.done, outer.failed, outer.running) == ("pages", 10, 4, 1, 2)
    (inner,) = outer.inside
    assert (inner.name, inner.blocks, inner.n, inner.done, inner.state) == ("images", 7, 6, 4, "open")
    assert (inner.opened, inner.ended) == (1.0, None)
    assert [level.name for level in every([outer])] == ["pages", "images"]


def test_a_level_that_has_ended() -> None:
    """It ended when its last block did, and as the one that did not end well."""
    bad = replace(NESTED, id="0.0-1.4-1,0", state="timeout", ended=3000)

    (outer,) = of(BLOCK, NESTED, bad)

    assert [(level.state, level.ended) for level in outer.inside] == [("timeout", 3.0)]


def test_a_workflow_that_is_one_block() -> None:
    """Its block has the path of the run, and is the outermost level all the same."""
    whole = replace(BLOCK, id="0.0-", path=())
    inner = replace(NESTED, id="0.0-.2-0", path=(0,))

    (outer,) = of(whole, inner)

    assert (outer.path, [level.path for level in outer.inside]) == ((), [(0,)])


def test_the_rate_is_that_of_late() -> None:
    """What ended lately tells the rate and what is left; before, all that has ended since the level was opened."""
    pace = Pace()
    at = [of(replace(BLOCK, done=done))[0] for done in (2, 4, 8)]

    pace.look(5.0, at[:1])
    assert pace.rate(at[0]) == pytest.approx(0.5)
    pace.look(7.0, at[1:2])
    assert pace.rate(at[1]) == pytest.approx(1.0)
    assert pace.left(at[1]) == pytest.approx(6.0)
    pace.look(7.0 + WINDOW, at[2:])
    assert pace.rate(at[2]) == pytest.approx(4 / WINDOW)


def test_no_rate_where_there_is_none() -> None:
    """Before the first end, and after the last, there is no rate and nothing to be told of the rest."""
    pace = Pace()
    (new,) = of(replace(BLOCK, done=0))
    (over,) = of(replace(BLOCK, state="ok", done=10, ended=9000))

    pace.look(5.0, [new])
    assert (pace.rate(new), pace.left(new)) == (None, None)
    pace.look(9.0, [over])
    assert (pace.rate(over), pace.left(over)) == (None, None)


def test_a_retry_takes_back_what_had_failed() -> None:
    """A level that has fewer ended branches than before does not have a rate below nothing."""
    pace = Pace()
    before, after = (of(replace(BLOCK, done=done))[0] for done in (9, 3))

    pace.look(5.0, [before])
    pace.look(7.0, [after])

    assert pace.rate(after) == pytest.approx(0.5)

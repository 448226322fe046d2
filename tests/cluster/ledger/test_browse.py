"""Looking at the blocks and branches of a run."""

from __future__ import annotations

import pytest

from egregore_dist import errors
from egregore_dist.ledger import browse
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import Play, bad, numbers, ok


def test_blocks(play: Play) -> None:
    """The blocks are there by path, open ones first; of those that are not read the number is known."""
    outer = play.block(12)
    token = play.lane()
    leases = numbers(play.serve(outer, token, want=12))
    inner = [play.nest(outer, branch, token, 1, path=(0, 1)) for branch in leases]
    play.finish(inner[0])

    found = browse.blocks(play.ledger, play.run, limit=3)

    assert found.counts == {(0,): 1, (0, 1): len(inner)}
    assert found.open == {(0,): 1, (0, 1): len(inner) - 1}
    assert [block.id for block in found.shown] == [outer, *inner[1:3]]
    assert [block.id for block in browse.blocks(play.ledger, play.run, limit=99, path=(0,)).shown] == [outer]
    assert [block.id for block in browse.blocks(play.ledger, play.run, limit=99, offset=1).shown][-1] == inner[0]


def test_branches(play: Play) -> None:
    """A branch waits, runs, is parked at a block, has ended well or badly, or was stopped; its values are not read."""
    block = play.block(6, on_error="collect")
    token = play.lane()
    assert numbers(play.serve(block, token, want=1)) == [0]
    play.serve(block, token, ok(0), want=1)
    other, third = play.lane(), play.lane()
    assert numbers(play.serve(block, other, want=1)) == [2]
    play.nest(block, 2, other, 3)
    assert numbers(play.serve(block, third, want=1)) == [3]
    play.serve(block, third, bad(3), want=1)

    of = browse.block(play.ledger, play.run, block)
    found = browse.branches(play.ledger, play.run, of, range(6))

    assert [branch.state for branch in found] == ["ok", "running", "parked", "error", "running", "waiting"]
    assert (found[0].result, found[3].failure) == (1, 11)
    assert (found[1].worker, found[2].worker) == ("w1@here", "")
    assert found[2].at == f"{block}.2-0"
    assert browse.failed(play.ledger, play.run, block) == [3]
    play.ledger.cancel(play.run)
    of = browse.block(play.ledger, play.run, block)
    assert [branch.state for branch in browse.branches(play.ledger, play.run, of, [1, 5])] == ["stopped", "stopped"]


def test_what_is_not_there(play: Play) -> None:
    """A block that is not there is named."""
    with pytest.raises(errors.RunNotFound, match=r"no block '0\.0-9'"):
        browse.block(play.ledger, play.run, "0.0-9")


def test_ids_tell_paths() -> None:
    """A block's path is in its id."""
    assert browse.path_in("0.3-1,2.10-0,4") == (0, 4)
    assert browse.path_in("0.3-") == ()
    assert browse.path_in(ROOT) == ()

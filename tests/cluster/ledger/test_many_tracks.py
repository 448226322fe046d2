"""A block of very many tracks: each branch begins with a node that has a limit of its own."""

from __future__ import annotations

import pytest

from egregore_dist.ledger import Ledger
from egregore_dist.ledger.keys import ROOT
from egregore_dist.workflow.limits import Rule
from tests.cluster.ledger.play import Play, bad, limited, numbers, ok

TRACKS = 20_000


@pytest.fixture
def block(play: Play) -> str:
    """A block of as many tracks as branches, all open."""
    rule = Rule(concurrent=1)
    return play.block(TRACKS, tracks=[limited(1, f"limit{at}", rule, of=[at]) for at in range(TRACKS)])


def test_it_is_served_fails_is_retried_and_deleted(play: Play, block: str, ledger: Ledger) -> None:
    """Every transition that goes through the tracks of a block takes as many as there are."""
    first, last = play.lane(), play.lane()
    assert numbers(play.serve(block, first, track=0)) == [0]
    assert numbers(play.serve(block, last, track=TRACKS - 1)) == [TRACKS - 1]
    assert len(play.sweep("hint", block)) > 0

    play.serve(block, first, ok(0), track=0, want=-1)
    play.serve(block, last, bad(TRACKS - 1), track=TRACKS - 1)
    assert play.state == "failed"
    ledger.retry(play.run)
    assert play.record(block).state == "open"
    ledger.cancel(play.run)
    assert play.record(ROOT).state == "cancelled"
    assert all(ledger.redis.pttl(key) > 0 for key in play.written())
    ledger.delete(play.run)

    assert play.written() == set()

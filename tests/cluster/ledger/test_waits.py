"""What of a run waits, as the ledger has it."""

from __future__ import annotations

import msgspec
import pytest

from egregore_dist import errors
from egregore_dist.ledger import Ledger, Waiting, waits
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.waits import Again, Look, OpenBlock
from tests.cluster.ledger.play import WORKER, Play, ok, track


def look(play: Play) -> Look:
    found = waits.look(play.ledger, play.run)
    assert found is not None
    return found


def block(play: Play, id: str) -> OpenBlock:
    (found,) = (block for block in look(play).blocks if block.id == id)
    return found


def test_a_run_that_nobody_has_begun(play: Play) -> None:
    """Its one branch waits, and its message is asked for again two seconds after the submission."""
    found = block(play, ROOT)

    assert (found.name, found.waiting, found.tracks[0].queue, found.holders) == ("flow", 1, "q", ())
    assert found.asks_at is not None
    assert 0 < found.asks_at - look(play).now <= 2000


def test_what_is_leased_waits_no_more(play: Play) -> None:
    """Of a block's branches those that nobody has leased wait, and its lanes are named."""
    first, second = play.lane(), play.lane()
    id = play.block(10, limit=2)
    play.serve(id, first)
    play.serve(id, second)

    found = block(play, id)
    assert (found.waiting, found.running, found.limit, set(found.holders)) == (8, 2, 2, {first, second})
    assert (found.tracks[0].serving, found.tracks[0].planned) == (2, 2)
    play.serve(id, first, ok(0), want=-1)
    found = block(play, id)
    assert (found.waiting, found.done, found.holders) == (8, 1, (second,))


def test_tracks_are_told_apart(play: Play) -> None:
    """Each track has its own queue, branches and lanes."""
    id = play.block(5, tracks=[track(2, of=[0, 3]), track(3, queue="gpu", of=[1, 2, 4])])
    play.serve(id, play.lane(), track=1)

    found = [(track.queue, track.waiting, track.serving) for track in block(play, id).tracks]

    assert found == [("q", 2, 0), ("gpu", 2, 1)]


def test_a_branch_that_lost_its_process(play: Play) -> None:
    """It waits again, and says for which attempt and what happened to those before."""
    lane = play.lane()
    id = play.block(3)
    play.serve(id, lane)
    play.sweep("hint", id, dead=[f"{WORKER}/1"])

    found = block(play, id)
    assert found.waiting == 3
    assert found.tracks[0].again == (Again(branch=0, attempt=2, most=3, why="its process ended", node="", calls=0),)


def test_lost_messages_are_asked_for(play: Play) -> None:
    """How often a janitor has asked is told, and when it does so again."""
    id = play.block(3)
    play.sweep("hint", id)

    found = block(play, id)
    assert found.asked == 1
    assert found.asks_at is not None
    assert 2000 < found.asks_at - look(play).now <= 4000


def test_a_nested_block(play: Play) -> None:
    """A block says which branch of which block waits for it."""
    outer, lane = play.block(3), play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 2, timeout=5.0)

    found = look(play)
    assert [(block.id, block.parent, block.branch) for block in found.blocks] == [
        (ROOT, None, None),
        (outer, ROOT, 0),
        (inner, outer, 0),
    ]
    assert found.open == 3
    assert found.blocks[2].timeout == 5.0
    assert 0 < (found.blocks[2].deadline or 0) - found.now <= 5000


def test_the_deepest_blocks_are_among_those_looked_at(play: Play) -> None:
    """Of more blocks than are looked at, some of every depth are: the outer ones wait for them."""
    outer, lane = play.block(200, tracks=[track(200, width=200, lanes=1)]), play.lane()
    middle = [play.nest(outer, lease.branch, lane, 1) for lease in play.serve(outer, lane).leases]
    for id in middle[:60]:
        play.serve(id, lane)
        play.nest(id, 0, lane, 1)

    found = look(play)
    assert found.open == 2 + 200 + 60
    depths = [block.id.count(".") for block in found.blocks]
    assert [depths.count(depth) for depth in range(4)] == [1, 1, 24, 24]


def test_paused_and_ended(play: Play) -> None:
    """A paused run says since when; one that has ended has nothing to look at, and one that is not there raises."""
    assert look(play).paused is None
    play.ledger.pause(play.run)
    paused = look(play)
    assert paused.paused is not None
    assert paused.record.state == "paused"
    assert paused.now >= paused.paused
    play.ledger.cancel(play.run)

    assert waits.look(play.ledger, play.run) is None
    with pytest.raises(errors.RunNotFound):
        waits.look(play.ledger, "none")


def test_who_else_has_lanes(ledger: Ledger) -> None:
    """The lanes of other runs are told by run."""
    mine, theirs, idle = (Play.submit(ledger) for _ in range(3))
    first, second = theirs.lane(), theirs.lane()
    id = theirs.block(4)
    theirs.serve(id, first)
    theirs.serve(id, second)
    mine.serve(ROOT, mine.lane())

    found = waits.others(ledger, mine.run)

    assert {run: set(lanes) for run, lanes in found.items()} == {theirs.run: {first, second}}
    assert idle.run not in found


def test_what_waits_to_be_tried_again(play: Play) -> None:
    """A branch in back-off is told of while its lane holds it, until it is over; what no lane holds never is."""
    id, mine = play.block(3), play.lane("one of several words")
    play.serve(id, mine)

    def waits_for(branch: int, token: str, seconds: float) -> Waiting:
        return Waiting(block=id, branch=branch, token=token, seconds=seconds, call=2, most=4, node="a node")

    assert play.ledger.backoff(play.run, [waits_for(1, mine, 30), waits_for(0, play.lane(), 30)]) == 0
    assert play.ledger.backoff(play.run, [waits_for(0, mine, 0.0), waits_for(0, mine, 30)]) == 2
    (found,) = look(play).retries
    assert (found.block, found.name, found.branch) == (id, "block", 0)
    assert (found.call, found.most, found.node) == (2, 4, "a node")
    assert 29_000 < found.at - look(play).now <= 30_000
    assert play.ledger.backoff(play.run, []) == 0
    assert play.ledger.redis.zcard(play.ledger.keys.part(play.run, "waits")) == 1

    play.serve(id, mine, ok(0), want=-1)
    assert look(play).retries == ()
    play.ledger.cancel(play.run)
    assert play.ledger.backoff(play.run, [waits_for(0, mine, 30)]) == 0


FORGED = (
    b"",
    b"\xff",
    b"\x96" + b"\xa1\xff" * 6,
    *map(
        msgspec.msgpack.encode,
        (1, ["0"], ["0", "one", "t", 1, 2, "n"], ["0", 0, 1, 1, 2, "n"], [b"0", 0, "t", 1, 2, "n"]),
    ),
)


@pytest.mark.parametrize("seconds", [30.0, float("inf")])
def test_unreadable_waits_are_passed_over(play: Play, seconds: float) -> None:
    """Members that something else has written are no error, and the branches that wait are shown."""
    id, mine = play.block(3), play.lane()
    play.serve(id, mine)
    play.ledger.backoff(play.run, [Waiting(block=id, branch=0, token=mine, seconds=60, call=2, most=4, node="n")])
    at = play.ledger.now() + seconds * 1000
    play.ledger.redis.zadd(play.ledger.keys.part(play.run, "waits"), dict.fromkeys(FORGED, at))

    found = look(play)

    assert [(retry.branch, retry.call, retry.most) for retry in found.retries] == [(0, 2, 4)]
    assert found.more == 0

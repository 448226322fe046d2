"""Pausing a run, and letting it go on."""

from __future__ import annotations

import pytest

from egregore_dist import errors
from egregore_dist.ledger import Ledger, Message, Presence
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import QUEUE, WORKER, Play, bad, numbers, ok, track


def test_what_runs_is_committed_and_nothing_is_leased(play: Play) -> None:
    """A lane of a paused run commits, is leased nothing, and leaves; a new one finds nothing."""
    block, lane = play.block(3), play.lane()
    play.serve(block, lane)
    assert play.ledger.pause(play.run) == "paused"
    served = play.serve(block, lane, ok(0))

    assert (served.state, served.leases, served.late, served.messages) == ("open", (), 0, ())
    assert play.serve(block, play.lane()).leases == ()
    assert play.ledger.results(play.run, block) == {0: b"0"}
    assert (play.record(block).running, play.record(block).done) == (0, 1)
    assert play.state == "paused"


def test_a_run_goes_on_where_it_stood(play: Play) -> None:
    """Resume asks for as many lanes as were planned, for each block where branches wait."""
    outer, lane = play.block(2), play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 5, tracks=[track(5, queue="gpu", lanes=3)])
    play.ledger.pause(play.run)
    state, messages = play.ledger.resume(play.run)

    assert (state, play.state) == ("running", "running")
    assert sorted(messages, key=lambda message: message.block) == [
        Message("lane", outer, 0, QUEUE),
        *[Message("lane", inner, 0, "gpu")] * 3,
    ]
    assert numbers(play.serve(inner, play.lane())) == [0]


def test_a_run_may_be_paused_before_it_starts(play: Play) -> None:
    """Its first message finds nothing, and it is pending again when it is resumed."""
    play.ledger.pause(play.run)
    assert play.serve(ROOT, play.lane()).leases == ()
    assert (play.state, play.ledger.run(play.run).started) == ("paused", None)

    assert play.ledger.resume(play.run) == ("pending", [Message("lane", ROOT, 0, QUEUE)])
    assert numbers(play.serve(ROOT, play.lane())) == [0]
    assert play.state == "running"


def test_what_a_nested_block_leads_to_waits(play: Play) -> None:
    """The commit that completes a nested block of a paused run does not resume the branch that it hangs on."""
    block, lane = play.block(1), play.lane()
    play.serve(block, lane)
    play.ledger.pause(play.run)
    served = play.serve(block, lane, ok(0))

    assert (served.state, served.resumed, served.messages) == ("ok", None, ())
    assert play.serve(block, lane).resumed is None
    assert play.ledger.resume(play.run) == ("running", [Message("lane", ROOT, 0, QUEUE)])
    assert play.serve(ROOT, lane).leases[0].after == block


def test_a_branch_that_runs_may_still_meet_a_block(play: Play) -> None:
    """Its block is opened, and nothing of it starts until the run is resumed."""
    lane = play.lane()
    play.serve(ROOT, lane)
    play.ledger.pause(play.run)
    block = play.nest(ROOT, 0, lane, 2)

    assert play.serve(block, lane).leases == ()
    assert [message.block for message in play.ledger.resume(play.run)[1]] == [block] * 2


@pytest.mark.parametrize("end", ["ok", "error", "timeout", "cancel"])
def test_a_paused_run_may_end(play: Play, end: str) -> None:
    """By the last branch that ran, one that fails, its deadline, or its user; it is not paused any more then."""
    block, lane = play.block(1, timeout=60.0), play.lane()
    play.serve(block, lane)
    if end == "ok":
        assert play.serve(block, lane, ok(0)).resumed is not None
    play.ledger.pause(play.run)
    if end == "ok":
        play.serve(ROOT, lane, ok(0))
    elif end == "error":
        play.serve(block, lane, bad(0))
    elif end == "timeout":
        assert play.sweep("deadline", block) == []
    else:
        assert play.ledger.cancel(play.run) == "cancelled"

    state = {"ok": "succeeded", "cancel": "cancelled"}.get(end, "failed")
    assert play.state == state
    assert play.ledger.pause(play.run) == state
    assert play.ledger.resume(play.run) == (state, [])
    if end != "ok":
        assert play.ledger.retry(play.run)[1] != []
        assert play.state == "running"


def test_a_lane_at_the_deadline_ends_a_paused_block(play: Play) -> None:
    """A lane that comes after the deadline ends the block, paused or not."""
    block = play.block(1, timeout=60.0)
    play.ledger.pause(play.run)
    play.make_due("deadline", block)

    assert play.serve(block, play.lane()).state == "timeout"


def test_pausing_twice_is_pausing_once(play: Play) -> None:
    """Each of them changes something once, and retry nothing."""
    play.block(2)
    assert [play.ledger.pause(play.run) for _ in range(2)] == ["paused"] * 2
    assert play.ledger.retry(play.run) == ("paused", [])
    first, second = (play.ledger.resume(play.run) for _ in range(2))

    assert (first[0], len(first[1])) == ("running", 2)
    assert second == ("running", [])
    assert [len(play.events(f"run.{kind}")) for kind in ("paused", "resumed", "retried")] == [1, 1, 0]


def test_a_janitor_repairs_a_paused_run_and_asks_for_nothing(play: Play) -> None:
    """The leases of the dead are given back; lanes are asked for when it is resumed, and its blocks seen to soon."""
    block = play.block(3)
    play.serve(block, play.lane("gone@there"))
    play.ledger.pause(play.run)
    for _ in range(3):
        assert play.sweep("hint", block) == []
    later = play.agenda()["hint", block]

    assert play.ledger.running(play.run, block) == []
    assert later > play.now() + 30_000, "it is asked about every minute only"
    assert [message.block for message in play.ledger.resume(play.run)[1]] == [block] * 2
    assert play.agenda()["hint", block] < play.now() + 3000


def test_what_fails_in_a_paused_run_asks_for_nothing(play: Play) -> None:
    """A child that fails gives back a slot of a block that collects errors, and another of its branches waits."""
    outer, lane = play.block(2, on_error="collect", limit=1), play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 1, timeout=60.0)
    play.ledger.pause(play.run)

    assert play.sweep("deadline", inner) == []
    assert play.record(outer).done == 1
    assert play.ledger.resume(play.run) == ("running", [Message("lane", outer, 0, QUEUE)])


def test_a_wide_lane_goes_on_with_what_it_holds(play: Play) -> None:
    """It commits and holds the rest; one whose answer was lost is told all that it holds."""
    block, lane = play.block(4, tracks=[track(4, width=2, lanes=1)]), play.lane()
    assert numbers(play.serve(block, lane)) == [0, 1]
    play.ledger.pause(play.run)
    served = play.serve(block, lane, ok(0), held=1)
    assert (served.leases, served.resync, play.record(block).running) == ((), False, 1)

    again = play.serve(block, lane)
    assert (numbers(again), again.resync) == ([1], True)


@pytest.mark.parametrize("verb", ["pause", "resume", "retry", "cancel"])
def test_a_run_that_is_not_there(ledger: Ledger, verb: str) -> None:
    """Each names the run."""
    with pytest.raises(errors.RunNotFound, match="'absent'"):
        getattr(ledger, verb)("absent")
    assert not ledger.redis.exists(ledger.keys.run("absent"))


def test_a_janitor_that_comes_after_the_resume_asks_as_before(play: Play) -> None:
    """A message that was lost after the resume is asked for again."""
    block = play.block(1)
    play.ledger.pause(play.run)
    play.sweep("hint", block)
    play.ledger.resume(play.run)
    workers = {WORKER: Presence(at=0)}
    play.make_due("hint", block)

    assert play.ledger.sweep(play.run, "hint", block, workers=workers) == [Message("lane", block, 0, QUEUE)]

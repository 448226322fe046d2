"""Blocks inside blocks: a branch is parked at its child, and goes on after it, once."""

from __future__ import annotations

import pytest

from egregore_dist.ledger import Lease, Message, Resumed
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import QUEUE, Play, bad, numbers, ok, track


def test_a_block_is_opened_where_its_branch_stands(play: Play) -> None:
    """The new block knows its place, its options and its input, and the branch is parked."""
    block = play.block(5, limit=3, timeout=60.0, on_error="collect", path=(1, 0), input=b"all of it")
    record = play.record(block)

    assert block == "0.0-1,0"
    assert (record.state, record.n, record.limit, record.done, record.running) == ("open", 5, 3, 0, 0)
    assert (record.parent, record.branch, record.track, record.path) == (ROOT, 0, 0, (1, 0))
    assert (record.timeout, record.on_error, record.input) == (60.0, "collect", block)
    assert record.deadline == record.opened + 60_000
    assert play.ledger.input(play.run, block) == b"all of it"
    assert play.record().running == 1
    assert play.ledger.running(play.run, ROOT) == [0]


def test_a_block_may_refer_to_the_input_of_another(play: Play) -> None:
    """The input of an ancestor is stored once."""
    block = play.block(2, input=ROOT)

    assert play.record(block).input == ROOT
    assert not play.ledger.redis.exists(play.ledger.keys.block(play.run, "i", block))


def test_opening_again_after_a_lost_reply_changes_nothing(play: Play) -> None:
    """The same lane that opens the same block again gets the same answer; the block goes on."""
    token = play.lane()
    play.serve(ROOT, token)
    deadline = play.open(ROOT, 0, token, 3, timeout=60.0)
    other = play.lane()
    play.serve("0.0-0", other)
    play.serve("0.0-0", other, ok(0))
    again = play.open(ROOT, 0, token, 3, timeout=60.0)

    assert again == deadline
    assert play.record("0.0-0").done == 1
    assert play.record().running == 1


def test_a_block_ends_by_the_first_deadline_around_it(play: Play) -> None:
    """Its lanes know when they have to stop: at its own deadline, or at that of a block that it is nested in."""
    outer = play.block(3, timeout=60.0)
    token = play.lane()
    play.serve(outer, token, want=1)
    inner = play.nest(outer, 0, token, 3)
    play.serve(inner, token, want=1)
    sooner = play.nest(inner, 0, token, 2, timeout=1.0)
    other = play.lane()
    play.serve(inner, other, want=1)
    later = play.nest(inner, 1, other, 2, timeout=90.0)

    record = play.record(outer)
    assert record.ends_by == record.deadline
    assert [play.record(id).ends_by for id in (ROOT, inner, later)] == [None, record.ends_by, record.ends_by]
    assert play.record(sooner).ends_by == play.record(sooner).deadline
    assert play.record(sooner).deadline < record.deadline < play.record(later).deadline  # type: ignore[operator]


def test_a_lane_finds_that_the_deadline_around_its_block_has_passed(play: Play) -> None:
    """It ends the block whose deadline that is, without waiting for a janitor; a retry gives all of them a new one."""
    outer = play.block(2, timeout=60.0)
    token = play.lane()
    play.serve(outer, token)
    inner = play.nest(outer, 0, token, 3)
    play.serve(inner, token)
    play.pass_deadline(outer)

    assert play.serve(inner, token, ok(0)).state == "cancelled"
    assert (play.record(outer).state, play.record(inner).state) == ("timeout", "cancelled")
    assert play.state == "failed"

    play.ledger.retry(play.run)
    assert play.record(outer).ends_by == play.record(inner).ends_by == play.record(outer).deadline
    assert play.record(outer).deadline > play.record(outer).ready  # type: ignore[operator]
    assert len(play.serve(inner, play.lane()).leases) == 1


def test_only_the_holder_of_the_branch_opens_a_block(play: Play) -> None:
    """A lane that lost the branch is told so, and no block is written."""
    token, other = play.lane("gone@there"), play.lane()
    play.serve(ROOT, token)
    assert play.open(ROOT, 0, other, 3) is None

    play.sweep("hint", ROOT)
    play.serve(ROOT, other)

    assert play.open(ROOT, 0, token, 3) is None
    assert [record.id for record in play.ledger.blocks(play.run)] == [ROOT]
    assert play.ledger.running(play.run, ROOT) == [0]


def test_no_block_opens_in_one_that_has_ended(play: Play) -> None:
    """A branch of a cancelled run that meets a block is told that it is gone."""
    token = play.lane()
    play.serve(ROOT, token)
    play.ledger.cancel(play.run)
    keys = play.written()

    assert play.open(ROOT, 0, token, 3) is None
    assert play.written() == keys


def test_a_parked_branch_counts_against_the_limit(play: Play) -> None:
    """A branch that waits for its block keeps its slot, and its lane may take another where there is one."""
    block = play.block(4, limit=2)
    first, second = play.lane(), play.lane()
    play.serve(block, first)
    play.nest(block, 0, first, 2)

    assert numbers(play.serve(block, first)) == [1]
    assert numbers(play.serve(block, second)) == []
    assert play.record(block).running == 2


def test_the_last_commit_of_a_block_goes_on_in_place(play: Play) -> None:
    """The lane that makes a block complete is leased the parent's branch, and nobody else is."""
    block = play.block(2)
    first, second = play.lane(), play.lane()
    play.serve(block, first)
    play.serve(block, second)
    before = play.serve(block, first, ok(0))
    last = play.serve(block, second, ok(1))

    assert (before.state, before.resumed) == ("open", None)
    assert (last.state, last.messages) == ("ok", ())
    assert last.resumed == Resumed(ROOT, 0, Lease(0, attempt=1, after=block))
    assert numbers(play.serve(ROOT, play.lane())) == []
    assert play.serve(ROOT, second, ok(0)).state == "ok"
    assert play.state == "succeeded"


def test_the_last_commit_asks_for_a_collect_on_another_queue(play: Play) -> None:
    """Where the parent's branch may run elsewhere only, a message to there is asked for; one lane gets the branch."""
    block = play.block(1, tracks=[track(1, queue="gpu")])
    lane = play.lane()
    play.serve(block, lane)
    last = play.serve(block, lane, ok(0))

    assert (last.state, last.resumed) == ("ok", None)
    assert last.messages == (Message("collect", block, 0, QUEUE),)
    assert play.serve(ROOT, play.lane()).leases == (Lease(0, after=block),)
    assert play.serve(ROOT, play.lane()).leases == ()


def test_a_lost_reply_that_resumed_is_told_again(play: Play) -> None:
    """The lane asks again, and learns that its commits count and where it goes on."""
    block, lane = play.block(1), play.lane()
    play.serve(block, lane)
    told = play.serve(block, lane, ok(0))
    again = play.serve(block, lane, ok(0))

    assert again.resumed == told.resumed
    assert again.state == "ok"
    assert play.record().running == 1
    play.serve(ROOT, lane, ok(0))
    assert play.serve(block, lane, ok(0)).resumed is None


def test_a_branch_meets_one_block_after_another(play: Play) -> None:
    """After each block the branch goes on after that one."""
    first = play.block(1)
    lane = play.lane()
    play.serve(first, lane)
    resumed = play.serve(first, lane, ok(0)).resumed
    assert resumed is not None
    assert resumed.lease.after == first
    second = play.nest(ROOT, 0, lane, 1, path=(2,))
    play.serve(second, lane)
    resumed = play.serve(second, lane, ok(0)).resumed

    assert resumed is not None
    assert resumed.lease.after == second
    assert play.record().running == 1


def test_a_branch_whose_lane_died_goes_on_after_its_last_block(play: Play) -> None:
    """What lies behind a branch is not done again in its next attempt."""
    block, lane = play.block(1), play.lane("gone@there")
    play.serve(block, lane)
    play.serve(block, lane, ok(0))
    play.sweep("hint", ROOT)

    assert play.serve(ROOT, play.lane()).leases == (Lease(0, attempt=2, after=block),)


@pytest.mark.parametrize("depth", [1, 5])
def test_any_depth_carries_on_to_the_end(play: Play, depth: int) -> None:
    """One lane alone opens blocks in blocks and carries each on, up to the end of the run."""
    block, lane = ROOT, play.lane()
    for _ in range(depth):
        play.serve(block, lane)
        block = play.nest(block, 0, lane, 1)
    served = play.serve(block, lane)
    commits = ok(0)
    while served.state == "open":
        served = play.serve(block, lane, commits)
        if served.resumed is not None:
            block = served.resumed.block
            served = play.serve(block, lane, commits)
            while served.resumed is not None:
                block = served.resumed.block
                served = play.serve(block, lane, commits)

    assert play.state == "succeeded"
    assert play.ends() == 1
    assert [record.state for record in play.ledger.blocks(play.run)] == ["ok"] * (depth + 1)


def test_a_failing_branch_ends_its_ancestors(play: Play) -> None:
    """An error ends the block, its parent's branch fails with it, and so on up to the run."""
    outer = play.block(2)
    lane, other = play.lane(), play.lane()
    play.serve(outer, lane)
    play.serve(outer, other)
    inner = play.nest(outer, 0, lane, 2)
    play.serve(inner, lane)
    served = play.serve(inner, lane, bad(0))

    assert (served.state, served.resumed) == ("error", None)
    assert [play.record(block).state for block in (inner, outer, ROOT)] == ["error"] * 3
    assert [play.record(block).failed for block in (inner, outer, ROOT)] == [0, 0, 0]
    assert list(play.ledger.failures(play.run, outer)) == [0]
    assert inner.encode() in play.ledger.failures(play.run, outer)[0]
    assert play.state == "failed"
    assert play.serve(outer, other, ok(1)).late == 1


def test_a_failing_branch_ends_what_is_below_its_siblings(play: Play) -> None:
    """Every block under the one that fails is cancelled, however deep; blocks elsewhere go on."""
    top = play.block(2, on_error="collect")
    lane, other = play.lane(), play.lane()
    play.serve(top, lane)
    play.serve(top, other)
    failing = play.nest(top, 0, lane, 2)
    elsewhere = play.nest(top, 1, other, 1)
    play.serve(failing, lane)
    play.serve(failing, other)
    below = play.nest(failing, 1, other, 1)
    play.serve(below, other)
    deepest = play.nest(below, 0, other, 1)
    play.serve(failing, lane, bad(0))

    states = {record.id: record.state for record in play.ledger.blocks(play.run)}
    assert states == {
        ROOT: "open", top: "open", elsewhere: "open", failing: "error", below: "cancelled", deepest: "cancelled"
    }  # fmt: skip
    assert {block for _, block in play.agenda()} == {ROOT, top, elsewhere}


def test_a_block_that_collects_errors_goes_on(play: Play) -> None:
    """A failed branch counts as done, its siblings are served, and the block ends well."""
    block, lane = play.block(3, on_error="collect"), play.lane()
    play.serve(block, lane)
    served = play.serve(block, lane, bad(0))
    assert (served.state, numbers(served)) == ("open", [1])
    play.serve(block, lane, bad(1))
    last = play.serve(block, lane, ok(2))

    assert last.state == "ok"
    assert last.resumed is not None
    assert list(play.ledger.failures(play.run, block)) == [0, 1]
    assert list(play.ledger.results(play.run, block)) == [2]


def test_a_failed_child_is_one_error_of_a_block_that_collects(play: Play) -> None:
    """The failure stops at the block that collects; its free slot is offered to a lane."""
    outer = play.block(2, on_error="collect", limit=1)
    lane = play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 2)
    play.serve(inner, lane)
    served = play.serve(inner, lane, bad(0))

    assert served.state == "error"
    assert served.messages == (Message("lane", outer, 0, QUEUE),)
    assert (play.record(outer).state, play.record(outer).done, play.record(outer).running) == ("open", 1, 0)
    last = play.finish(outer)
    assert last.resumed is not None
    assert last.resumed.lease == Lease(0, after=outer)


def test_the_last_child_of_a_block_that_collects_may_fail(play: Play) -> None:
    """A block that is complete by the failure of a child is collected by message."""
    outer = play.block(1, on_error="collect")
    lane = play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 1)
    play.serve(inner, lane)
    served = play.serve(inner, lane, bad(0))

    assert served.messages == (Message("collect", outer, 0, QUEUE),)
    assert play.record(outer).state == "ok"
    assert play.serve(ROOT, play.lane()).leases == (Lease(0, after=outer),)


def test_reading_a_block_costs_the_same_however_many_children_it_met(play: Play) -> None:
    """A block's record does not grow with its branches, since every lane that comes to it reads all of it."""
    block, lane = (
        play.block(40, tracks=[track(20, of=range(20)), track(20, queue="gpu", of=range(20, 40))]),
        play.lane(),
    )
    size = play.ledger.redis.hlen(play.ledger.keys.block(play.run, "b", block))
    for branch in range(20):
        play.serve(block, lane)
        play.nest(block, branch, lane, 1)

    assert play.ledger.redis.hlen(play.ledger.keys.block(play.run, "b", block)) <= size

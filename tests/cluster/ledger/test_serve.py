"""A lane commits what it holds, and is leased what it may have."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from egregore_dist.client.events import Event
from egregore_dist.ledger import LEAVE, Commit, FailedCall, Lease, Loss, Message, Spent
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import QUEUE, Play, bad, numbers, ok, track


def test_branches_are_leased_in_order(play: Play) -> None:
    """Each call commits the branch before and leases the next."""
    block, lane = play.block(3), play.lane()

    assert play.serve(block, lane).leases == (Lease(0),)
    assert play.serve(block, lane, ok(0)).leases == (Lease(1),)
    assert play.serve(block, lane, ok(1)).leases == (Lease(2),)
    assert play.ledger.results(play.run, block) == {0: b"0", 1: b"1"}
    assert play.record(block).done == 2
    assert play.ledger.running(play.run, block) == [2]


def test_two_lanes_never_get_the_same_branch(play: Play) -> None:
    """A leased branch is not offered to others."""
    block = play.block(4)
    leased = [numbers(play.serve(block, play.lane())) for _ in range(5)]

    assert leased == [[0], [1], [2], [3], []]


def test_a_second_commit_is_refused(play: Play) -> None:
    """What a lane commits twice counts once, with the value that came first."""
    block, lane = play.block(3), play.lane()
    play.serve(block, lane)
    play.serve(block, lane, ok(0))
    again = play.serve(block, lane, [*bad(0)], held=1)

    assert again.late == 1
    assert play.record(block).done == 1
    assert play.ledger.failures(play.run, block) == {}
    assert play.record(block).state == "open"


def test_a_foreign_commit_is_refused(play: Play) -> None:
    """Only the lane that leases a branch can commit it."""
    block, holder, other = play.block(2), play.lane(), play.lane()
    play.serve(block, holder)
    refused = play.serve(block, other, ok(0, 1))

    assert refused.late == 2
    assert numbers(refused) == [1]
    assert play.record(block).done == 0
    assert play.serve(block, holder, ok(0)).late == 0


def test_a_late_commit_is_refused(play: Play) -> None:
    """A lane whose lease was given to another cannot settle the branch any more."""
    block, slow, quick = play.block(2), play.lane("gone@there"), play.lane()
    play.serve(block, slow)
    play.sweep("hint", block)
    leased = play.serve(block, quick)
    late = play.serve(block, slow, ok(0))

    assert leased.leases == (Lease(0, attempt=2),)
    assert late.late == 1
    assert numbers(late) == [1]
    assert play.serve(block, quick, ok(0)).late == 0
    assert [event["count"] for event in play.events("branches.late")] == [b"1"]


def test_the_limit_holds_across_lanes(play: Play) -> None:
    """However many lanes come, no more run than the limit; a branch that ends makes room for one."""
    block = play.block(6, limit=2)
    lanes = [play.lane() for _ in range(4)]
    first = [numbers(play.serve(block, lane)) for lane in lanes]
    next_one = numbers(play.serve(block, lanes[0], ok(0)))

    assert first == [[0], [1], [], []]
    assert next_one == [2]
    assert numbers(play.serve(block, lanes[2])) == []
    assert play.record(block).running == 2


@pytest.mark.parametrize(("width", "limit", "expected"), [(4, 6, [4, 2, 0]), (4, 3, [3, 0, 0]), (8, 100, [8, 8, 4])])
def test_the_limit_holds_for_wide_lanes(play: Play, width: int, limit: int, expected: list[int]) -> None:
    """Lanes that run many branches at a time share the limit."""
    block = play.block(20, limit=limit, tracks=[track(20, width=width, lanes=1)])
    leased = [len(play.serve(block, play.lane()).leases) for _ in range(3)]

    assert leased == expected
    assert play.record(block).running == sum(expected)


def test_a_wide_lane_is_refilled_as_its_branches_end(play: Play) -> None:
    """A lane of width 3 that commits one branch gets one."""
    block, lane = play.block(9, tracks=[track(9, width=3, lanes=1)]), play.lane()

    assert numbers(play.serve(block, lane)) == [0, 1, 2]
    assert numbers(play.serve(block, lane, ok(1), held=2)) == [3]
    assert numbers(play.serve(block, lane, held=3)) == []
    assert numbers(play.serve(block, lane, ok(0, 2, 3))) == [4, 5, 6]


def test_wide_lanes_take_equal_parts(play: Play) -> None:
    """A lane as planned takes its part of the branches, even if it could hold all of them."""
    block = play.block(10, tracks=[track(10, width=100, lanes=2)])

    assert [len(play.serve(block, play.lane()).leases) for _ in range(2)] == [5, 5]


def test_a_batch_is_a_fair_share_of_what_is_left(play: Play) -> None:
    """A lane that wants many gets ever fewer of what is left, and one at the end."""
    block, lane = play.block(64, tracks=[track(64, lanes=2)]), play.lane()
    sizes = []
    served = play.serve(block, lane, want=1000)
    while served.leases:
        sizes.append(len(served.leases))
        served = play.serve(block, lane, ok(*numbers(served)), want=1000)

    assert sum(sizes) == 64
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (16, 1)


def test_who_opened_a_block_may_take_all_of_it_at_first(play: Play) -> None:
    """That lane is alone with the block when it comes; later it takes a share, and so do others at any time."""
    opener = play.lane()
    play.serve(ROOT, opener)
    block = play.nest(ROOT, 0, opener, 8, tracks=[track(8, lanes=2)])

    assert numbers(play.serve(block, opener, want=6)) == [0, 1, 2, 3, 4, 5]
    play.serve(block, opener, releases=[1, 2, 3, 4, 5], held=1, want=1)
    assert len(play.serve(block, play.lane(), want=6).leases) == 2
    assert len(play.serve(block, opener, ok(0), want=6).leases) == 2


def test_who_opened_a_block_of_several_tracks_takes_a_share(play: Play) -> None:
    """Its branches are listed one by one, and it is not alone with them for long."""
    opener = play.lane()
    play.serve(ROOT, opener)
    tracks = [track(8, lanes=2, of=range(8)), track(1, of=[8])]
    block = play.nest(ROOT, 0, opener, 9, tracks=tracks)

    assert len(play.serve(block, opener, want=6).leases) == 2


def test_a_lane_of_many_takes_its_part_of_a_block_that_it_opened(play: Play) -> None:
    """It begins all that it takes at once, so it leaves the others their part."""
    opener = play.lane()
    play.serve(ROOT, opener)
    block = play.nest(ROOT, 0, opener, 10, tracks=[track(10, width=100, lanes=2)])

    assert len(play.serve(block, opener).leases) == 5


def test_a_batch_takes_one_slot(play: Play) -> None:
    """A lane of width 1 executes its batch one by one, so it counts once against the limit."""
    block = play.block(64, limit=2, tracks=[track(64, lanes=2)])
    play.serve(block, play.lane(), want=8)
    play.serve(block, play.lane(), want=8)

    assert play.record(block).running == 2
    assert len(play.ledger.running(play.run, block)) == 16
    assert play.serve(block, play.lane(), want=8).leases == ()


def test_branches_given_back_are_leased_next(play: Play) -> None:
    """What a lane releases goes to whoever comes next, still on its first attempt."""
    block, lane = play.block(40, tracks=[track(40, lanes=2)]), play.lane()
    held = numbers(play.serve(block, lane, want=4))
    play.serve(block, lane, ok(held[0]), want=1, releases=held[1:])

    assert held == [0, 1, 2, 3]
    assert play.record(block).running == 1
    other = play.serve(block, play.lane(), want=2)
    assert len(other.leases) == 2
    assert {lease.branch for lease in other.leases} | set(play.ledger.running(play.run, block)) <= {0, 1, 2, 3}
    assert all(lease.attempt == 1 for lease in other.leases)


def test_a_lane_is_asked_for_where_one_gives_back_and_stays_away(play: Play) -> None:
    """Where it goes on at once it serves the rest itself: were others asked for each time, the queue would fill with
    lanes for which those at work give up their slots."""
    block, lane = play.block(40, tracks=[track(40, lanes=2)]), play.lane()
    held = numbers(play.serve(block, lane, want=4))
    served = play.serve(block, lane, ok(held[0]), want=4, releases=held[1:])
    assert len(served.leases) == 4
    assert served.messages == ()

    first, *rest = numbers(served)
    away = play.serve(block, lane, want=1, held=1, releases=rest)
    assert away.leases == ()
    assert [message.kind for message in away.messages] == ["lane"]
    assert play.ledger.running(play.run, block) == [first]


def test_only_a_holder_gives_back(play: Play) -> None:
    """A release by a lane that does not hold the branch changes nothing."""
    block, lane, other = play.block(3), play.lane(), play.lane()
    play.serve(block, lane)

    assert numbers(play.serve(block, other, releases=[0, 2])) == [1]
    assert play.ledger.running(play.run, block) == [0, 1]


def test_a_complete_run_has_its_value(play: Play) -> None:
    """The commit of the one branch of a run ends the run."""
    lane = play.lane()
    play.serve(ROOT, lane)
    served = play.serve(ROOT, lane, ok(0))

    assert (served.state, served.leases, served.resumed, served.messages) == ("ok", (), None, ())
    assert play.state == "succeeded"
    assert play.ledger.results(play.run, ROOT) == {0: b"0"}
    assert play.ledger.wait(play.run, 0.001)
    assert play.ends() == 1


def test_a_lane_comes_to_a_block_that_has_ended(play: Play) -> None:
    """A message that was delivered late or twice finds nothing to do, and writes nothing."""
    play.finish()
    keys = play.written()
    served = play.serve(ROOT, play.lane())

    assert (served.state, served.leases, served.messages) == ("ok", (), ())
    assert play.serve("0.0-9", play.lane()).state == "gone"
    assert play.written() == keys


def test_a_message_about_a_track_that_is_not_there_finds_nothing(play: Play) -> None:
    """A malformed track number is answered like a block that is gone."""
    served = play.serve(ROOT, play.lane(), track=7)

    assert (served.state, served.leases) == ("gone", ())
    assert play.state == "pending"


def test_several_tracks_are_served_apart(play: Play) -> None:
    """A lane gets only branches of its own track, in the order in which they are listed."""
    tracks = [track(2, queue="q", of=[0, 3]), track(1, queue="gpu", of=[1]), track(1, width=4, of=[2])]
    block = play.block(4, tracks=tracks)
    record = play.record(block)
    leased = [numbers(play.serve(block, play.lane(), track=number)) for number in range(3)]

    assert record.queues == ("q", "gpu", "q")
    assert record.widths == (1, 1, 4)
    assert leased == [[0], [1], [2]]


def test_many_branches_of_several_tracks(play: Play) -> None:
    """A track lists thousands of branches, more than one command of the server takes at once."""
    n = 6000
    tracks = [track(n // 2, of=range(0, n, 2)), track(n // 2, queue="gpu", of=range(1, n, 2))]
    block = play.block(n, tracks=tracks)
    lane = play.lane()
    first = play.serve(block, lane, track=1, want=1024)
    second = play.serve(block, lane, ok(*numbers(first)), track=1, want=1024)

    assert numbers(first) == list(range(1, 1500, 2))
    assert numbers(second)[0] == 1501
    assert play.record(block).done == 750


def test_the_limit_holds_across_tracks(play: Play) -> None:
    """The limit is the block's, not a track's."""
    tracks = [track(2, of=[0, 1]), track(2, queue="gpu", of=[2, 3])]
    block = play.block(4, limit=2, tracks=tracks)
    leased = [numbers(play.serve(block, play.lane(), track=number)) for number in (0, 1, 0, 1)]

    assert leased == [[0], [2], [], []]


def test_a_slot_that_a_track_does_not_need_goes_to_another(play: Play) -> None:
    """Lanes that found no room have left, so the one that gives a slot up asks for a lane where branches wait."""
    tracks = [track(1, of=[0]), track(2, queue="gpu", of=[1, 2])]
    block, lane = play.block(3, limit=1, tracks=tracks), play.lane()
    play.serve(block, lane)
    assert play.serve(block, play.lane(), track=1).leases == ()
    last = play.serve(block, lane, ok(0))

    assert last.leases == ()
    assert last.messages == (Message("lane", block, 1, "gpu"),)
    assert play.serve(block, play.lane(), track=0).messages == ()


def test_a_wide_lane_gives_up_its_slots_one_by_one(play: Play) -> None:
    """Each branch that ends makes room for another track, while the rest of the lane goes on."""
    tracks = [track(3, width=3, lanes=1, of=[0, 1, 2]), track(2, queue="gpu", of=[3, 4])]
    block, lane = play.block(5, limit=3, tracks=tracks), play.lane()
    play.serve(block, lane)

    assert play.serve(block, lane, ok(1), held=2).messages == (Message("lane", block, 1, "gpu"),)
    assert numbers(play.serve(block, play.lane(), track=1)) == [3]
    assert play.record(block).running == 3


def test_a_slot_that_is_needed_asks_for_nobody(play: Play) -> None:
    """A lane that goes on, or whose block has no limit, publishes nothing."""
    tracks = [track(2, of=[0, 1]), track(2, queue="gpu", of=[2, 3])]
    limited, lane = play.block(4, limit=1, tracks=tracks), play.lane()
    play.serve(limited, lane)
    assert play.serve(limited, lane, ok(0)).messages == ()

    other = Play.submit(play.ledger)
    free = other.block(4, tracks=tracks)
    other.serve(free, lane, want=4)
    other.serve(free, lane, ok(0))
    assert other.serve(free, lane, ok(1)).messages == ()


def test_a_lane_that_leaves_is_leased_nothing_and_replaced(play: Play) -> None:
    """It commits and gives back what it holds; another is asked for only where it leaves some waiting."""
    block, lane, other = play.block(3, tracks=[track(3, lanes=1)]), play.lane(), play.lane()
    held = numbers(play.serve(block, lane, want=2))
    some = play.serve(block, lane, ok(0), want=LEAVE, held=1)
    left = play.serve(block, lane, want=LEAVE, releases=[1])
    come = play.serve(block, play.lane(), want=LEAVE)
    for branch in (1, 2):
        assert numbers(play.serve(block, other)) == [branch]
        last = play.serve(block, other, ok(branch), want=LEAVE)

    assert held == [0, 1]
    assert (some.leases, some.messages) == ((), ())
    assert (left.leases, left.messages) == ((), (Message("lane", block, 0, QUEUE),))
    assert come == left
    assert (last.state, last.messages) == ("ok", ())


CALLS = (FailedCall("crünch", 3_500_000, 1_000_000, 500_000), FailedCall("crunch", 1, 0, 0))


def test_events_tell_attempts_sizes_times_and_what_was_measured(play: Play) -> None:
    """What ends says how large its value is, and what the lane knows of it."""
    block, lane = play.block(6, tracks=[track(6, width=6, lanes=1)], on_error="collect"), play.lane()
    assert numbers(play.serve(block, lane, want=6)) == [0, 1, 2, 3, 4, 5]
    commits = [
        Commit(0, "ok", b"v"),
        Commit(1, "ok", b"v" * 300, (5, 5), Spent(attempt=3, cpu=70_000, memory=0, calls=CALLS[:1])),
        Commit(2, "error", b"\x80", (250_000, 5), Spent(cpu=9, node="crunch", calls=CALLS)),
        Commit(3, "again", b"1 a node", spent=Spent(attempt=2)),
        # It is not the lane's.
        Commit(9, "ok", b"v", spent=Spent(attempt=7)),
    ]
    play.ledger.serve(play.run, block, 0, lane, want=LEAVE, held=2, commits=commits)
    play.ledger.lost(play.run, block, lane, Loss(verdict="lost", branch=4, why="killed", node="burn"))
    events = [Event.of(cursor, fields) for cursor, fields in play.ledger.events(play.run, "0", 0)]

    (ended,) = [event for event in events if event.type == "branches.ended"]
    assert (ended.branches, ended.failed, ended.sizes, ended.attempts) == ((0, 1), (2,), {0: 1, 1: 300}, {1: 3})
    assert {branch: (spent.cpu, spent.memory) for branch, spent in ended.spent.items()} == {
        1: (0.07, 0),
        2: (0.000009, None),
    }
    assert ended.took == {1: 0.000005, 2: 0.25}
    assert {branch: [astuple(call) for call in calls] for branch, calls in ended.calls.items()} == {
        1: [("crünch", 3.5, 1.0, 0.5)],
        2: [("crünch", 3.5, 1.0, 0.5), ("crunch", 0.000001, 0.0, 0.0)],
    }
    (again,) = [event for event in events if event.type == "branch.again"]
    assert (again.branches, again.attempts, again.nodes) == ((3,), {3: 2}, {3: "a node"})
    assert ended.nodes == {2: "crunch"}
    (lost,) = [event for event in events if event.type == "branch.lost"]
    assert (lost.branches, lost.nodes) == ((4,), {4: "burn"})


def test_a_branch_that_is_leased_again_says_its_attempt(play: Play) -> None:
    """A loss says which attempt was lost, and the next lease which one it is."""
    block, lane = play.block(2), play.lane()
    for _ in range(2):
        play.serve(block, lane)
        play.ledger.lost(play.run, block, lane, Loss(verdict="lost", branch=0, why="killed"))
        lane = play.lane()
    play.serve(block, lane)
    events = [Event.of(cursor, fields) for cursor, fields in play.ledger.events(play.run, "0", 0)]

    told = [
        (event.type, dict(event.attempts))
        for event in events
        if event.type.startswith("branch") and event.block == block
    ]
    assert told == [
        ("branches.started", {}),
        ("branch.lost", {}),
        ("branches.started", {0: 2}),
        ("branch.lost", {0: 2}),
        ("branches.started", {0: 3}),
    ]

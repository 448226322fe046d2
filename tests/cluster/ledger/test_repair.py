"""Deadlines, cancelling, dead processes and lost messages."""

from __future__ import annotations

import msgspec
import pytest

from egregore_dist.ledger import Lease, Loss, Message, Presence
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import ATTEMPTS
from tests.cluster.ledger.play import QUEUE, WORKER, Play, bad, numbers, ok, track

LANE = Message("lane", ROOT, 0, QUEUE)


@pytest.mark.parametrize("by", ["serve", "sweep"])
def test_a_block_ends_at_its_deadline(play: Play, by: str) -> None:
    """Whoever comes first after the deadline ends the block, and with it the run; nothing is taken any more."""
    block, lane = play.block(3, timeout=60.0), play.lane()
    play.serve(block, lane)
    if by == "sweep":
        assert play.sweep("deadline", block) == []
        served = play.serve(block, lane, ok(0))
    else:
        play.make_due("deadline", block)
        served = play.serve(block, lane, ok(0))

    assert (served.state, served.late, served.leases) == ("timeout", 1, ())
    assert play.record(block).state == "timeout"
    assert play.record().state == "error"
    assert play.state == "failed"
    assert play.ledger.results(play.run, block) == {}
    assert play.ledger.running(play.run, block) == [0]
    assert play.agenda() == {}


def test_a_deadline_that_has_not_come_ends_nothing(play: Play) -> None:
    """A janitor that is early does nothing."""
    block = play.block(3, timeout=60.0)

    assert play.ledger.sweep(play.run, "deadline", block, workers={}) == []
    assert play.record(block).state == "open"
    assert ("deadline", block) in play.agenda()


def test_a_deadline_ends_the_blocks_inside(play: Play) -> None:
    """The children of a block that times out are cancelled."""
    block, lane = play.block(2, timeout=60.0), play.lane()
    play.serve(block, lane)
    inner = play.nest(block, 0, lane, 2)
    play.sweep("deadline", block)

    assert play.record(inner).state == "cancelled"
    assert play.serve(inner, lane).state == "cancelled"


def test_the_deadline_of_a_child_is_an_error_to_collect(play: Play) -> None:
    """Where the parent collects errors, the time-out of a child is one of them."""
    outer, lane = play.block(2, on_error="collect"), play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 2, timeout=60.0)

    assert play.sweep("deadline", inner) == [Message("lane", outer, 0, QUEUE)]
    assert (play.record(inner).state, play.record(outer).state) == ("timeout", "open")
    assert play.finish(outer).resumed is not None


@pytest.mark.parametrize(("timeout", "at_most"), [(0.0004, 1), (1e300, 10**13)])
def test_an_extreme_timeout_is_still_one(play: Play, timeout: float, at_most: int) -> None:
    """A time-out below a millisecond does not mean none, and an enormous one does not break the record."""
    record = play.record(play.block(1, timeout=timeout))

    assert record.deadline is not None
    assert 0 < record.deadline - record.opened <= at_most


def test_cancelling_ends_every_block(play: Play) -> None:
    """No lane gets anything any more, and what still runs is refused."""
    block, lane = play.block(2), play.lane()
    play.serve(block, lane)
    inner = play.nest(block, 0, lane, 2)
    play.serve(inner, lane)

    assert play.ledger.cancel(play.run) == "cancelled"
    assert [record.state for record in play.ledger.blocks(play.run)] == ["cancelled"] * 3
    served = play.serve(inner, lane, ok(0))
    assert (served.state, served.late, served.leases) == ("cancelled", 1, ())
    assert play.agenda() == {}
    assert play.ends() == 1


def test_a_run_that_was_never_started_can_be_cancelled(play: Play) -> None:
    """A pending run ends as cancelled, and its late message finds nothing to do."""
    assert play.ledger.cancel(play.run) == "cancelled"
    assert play.serve(ROOT, play.lane()).leases == ()


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_an_end_is_final(play: Play, state: str) -> None:
    """Cancelling a run that has ended changes nothing."""
    lane = play.lane()
    play.serve(ROOT, lane)
    play.serve(ROOT, lane, ok(0) if state == "succeeded" else bad(0))
    ended = play.ledger.run(play.run)

    assert play.ledger.cancel(play.run) == state
    assert play.ledger.run(play.run) == ended
    assert play.ends() == 1


# Dead processes


@pytest.mark.parametrize("kind", ["worker", "process"])
def test_the_leases_of_the_dead_are_given_back(play: Play, kind: str) -> None:
    """A worker without a heartbeat, or a process that its worker names as dead, holds nothing any more."""
    block = play.block(3, limit=2)
    dying, other = play.lane("gone@there", 7), play.lane("gone@there", 8)
    play.serve(block, dying)
    play.serve(block, other)
    if kind == "worker":
        play.sweep("hint", block, alive=[WORKER])
        left = []
    else:
        play.sweep("hint", block, alive=[WORKER, "gone@there"], dead=["gone@there/7"])
        left = [1]

    assert play.ledger.running(play.run, block) == left
    assert play.record(block).running == len(left)
    assert {int(event["branch"]) for event in play.events("branch.lost")} == {0, 1} - set(left)
    again = play.serve(block, play.lane())
    assert again.leases[0].attempt == 2
    assert again.leases[0].branch in {0, 1} - set(left)


def test_a_batch_of_the_dead_is_given_back(play: Play) -> None:
    """Every branch of a batch is leased anew, and its slot is free."""
    block = play.block(64, limit=1)
    play.serve(block, play.lane("gone@there"), want=8)
    play.sweep("hint", block)

    assert play.record(block).running == 0
    assert play.ledger.running(play.run, block) == []
    lane = play.lane()
    again = play.serve(block, lane, want=8).leases
    assert sorted((lease.branch, lease.attempt) for lease in again) == [(branch, 2) for branch in range(8)]
    held = [lease.branch for lease in again]
    assert {lease.attempt for lease in play.serve(block, lane, ok(*held), want=8).leases} == {1}


def test_a_branch_that_lost_its_process_runs_alone(play: Play) -> None:
    """A lane of many takes it only when it holds nothing, and nothing with it, however often it asks or asks again."""
    block = play.block(6, tracks=[track(6, width=4, lanes=1)])
    dying, lane = play.lane(), play.lane()
    play.serve(block, dying, want=1)
    play.ledger.lost(play.run, block, dying, Loss(verdict="lost", branch=0, why="killed", node="crunch"))

    assert play.serve(block, lane).leases == (Lease(0, attempt=2),)
    for _ in range(3):
        assert play.serve(block, lane, held=1).leases == ()
    assert play.serve(block, lane).leases == (Lease(0, attempt=2),)  # a lost reply
    assert play.serve(block, lane, held=1).leases == ()
    assert numbers(play.serve(block, lane, ok(0))) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("lanes", "at", "keeps"),
    [
        pytest.param(("mine",), 10**15, True, id="the lane is there"),
        pytest.param(("other",), 10**15, False, id="the lane has ended"),
        pytest.param(("other",), 1, True, id="said before the lane began"),
        pytest.param(None, 10**15, True, id="did not say"),
    ],
)
def test_a_lane_that_its_worker_does_not_have_holds_nothing(
    play: Play, lanes: tuple[str, ...] | None, at: int, keeps: bool
) -> None:
    """A lane that ended without giving back its leases, though its process lives, loses them."""
    block = play.block(3)
    play.serve(block, f"{WORKER}/7/mine")
    play.make_due("hint", block)
    play.ledger.sweep(play.run, "hint", block, workers={WORKER: Presence(at=at, lanes=lanes)})

    assert play.ledger.running(play.run, block) == ([0] if keeps else [])


@pytest.mark.parametrize(
    ("pids", "at", "keeps"),
    [
        pytest.param((7, 8), 10**15, True, id="its process lives"),
        pytest.param((8,), 10**15, False, id="it does not"),
        pytest.param((8,), 1, True, id="said before the lane began"),
        pytest.param(None, 10**15, True, id="did not say"),
    ],
)
def test_a_lane_of_its_worker_s_former_life_holds_nothing(
    play: Play, pids: tuple[int, ...] | None, at: int, keeps: bool
) -> None:
    """A worker that was killed, and started under the same name, may be given the very message again from a broker."""
    block = play.block(3)
    play.serve(block, f"{WORKER}/7/mine")
    play.make_due("hint", block)
    play.ledger.sweep(play.run, "hint", block, workers={WORKER: Presence(at=at, pids=pids, lanes=("mine",))})

    assert play.ledger.running(play.run, block) == ([0] if keeps else [])


def test_a_branch_is_leased_on_its_own_track_again(play: Play) -> None:
    """What a dead lane of one track held is not given to another track."""
    block = play.block(4, tracks=[track(2, of=[0, 1]), track(2, queue="gpu", of=[2, 3])])
    play.serve(block, play.lane("gone@there"), track=1)
    play.sweep("hint", block)

    assert numbers(play.serve(block, play.lane(), track=0)) == [0]
    assert play.serve(block, play.lane(), track=1).leases == (Lease(2, attempt=2),)


@pytest.mark.parametrize("on_error", ["cancel", "collect"])
def test_a_branch_that_kills_its_process_ends_as_lost(play: Play, on_error: str) -> None:
    """After three attempts the branch fails, named; the block ends with it, or goes on where it collects errors."""
    block = play.block(2, on_error=on_error)
    for attempt in range(1, ATTEMPTS + 1):
        assert play.serve(block, play.lane("gone@there")).leases == (Lease(0, attempt),)
        play.sweep("hint", block)

    failure = msgspec.msgpack.decode(play.ledger.failures(play.run, block)[0])
    assert (failure["kind"], failure["type"], failure["attempt"]) == ("lost", "WorkerLost", ATTEMPTS)
    if on_error == "cancel":
        assert play.record(block).failed == 0
        assert play.state == "failed"
    else:
        assert numbers(play.serve(block, play.lane())) == [1]
        assert play.record(block).done == 1


def test_the_last_branch_may_be_lost(play: Play) -> None:
    """A block that is complete by a lost branch is collected by message."""
    block = play.block(1, on_error="collect")
    for _ in range(ATTEMPTS):
        play.serve(block, play.lane("gone@there"))
        asked = play.sweep("hint", block)

    assert asked == [Message("collect", block, 0, QUEUE)]
    assert play.serve(ROOT, play.lane()).leases == (Lease(0, after=block),)


def test_a_parked_branch_has_no_process(play: Play) -> None:
    """A branch that waits for its block is not lost when the lane that opened it dies."""
    block, lane = play.block(1), play.lane("gone@there")
    play.serve(block, lane)
    inner = play.nest(block, 0, lane, 1)
    play.sweep("hint", block)

    assert play.ledger.running(play.run, block) == [0]
    assert play.events("branch.lost") == []
    assert play.finish(inner).resumed is not None


@pytest.mark.parametrize("worker", ["a/1@host", "a b@host", "@", "ünï@host", "x/2/", "a%d@h.-+*[]"])
def test_a_worker_may_have_any_name(play: Play, worker: str) -> None:
    """Signs that mean something in tokens or patterns do not confuse who is alive."""
    block = play.block(2)
    play.serve(block, play.lane(worker, 7))
    play.sweep("hint", block, alive=[worker])
    assert play.ledger.running(play.run, block) == [0]
    play.sweep("hint", block, alive=[worker], dead=["a/7", f"{worker}/70"])
    assert play.ledger.running(play.run, block) == [0]
    play.sweep("hint", block, alive=[worker], dead=[f"{worker}/7"])

    assert play.ledger.running(play.run, block) == []


def test_failed_branches_that_no_lane_committed_are_in_the_events(play: Play) -> None:
    """Who follows the events learns of the end of a lost branch and of one that failed with its block."""
    outer, lane = play.block(2, on_error="collect"), play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 1, timeout=60.0)
    play.sweep("deadline", inner)
    for _ in range(ATTEMPTS):
        play.serve(outer, play.lane("gone@there"))
        play.sweep("hint", outer)

    ended = [event for event in play.events("branches.ended") if event["block"] == outer.encode()]
    assert [msgspec.msgpack.decode(event["error"]) for event in ended] == [[0], [1]]


# Lost messages


def test_a_branch_that_is_to_go_on_is_asked_for_soon(play: Play) -> None:
    """Its block is complete, and the message that asks for a collect may be lost: its parent is looked at soon."""
    block, lane = play.block(2), play.lane()
    play.serve(block, lane)
    inner = play.nest(block, 0, lane, 1, tracks=[track(1, queue="elsewhere")])
    play.ledger.redis.zadd(play.ledger.keys.agenda, {f"{play.run} hint {block}": play.now() + 60_000})
    served = play.finish(inner)

    assert [message.kind for message in served.messages] == ["collect"]
    assert play.agenda()["hint", block] <= play.now() + 2000
    assert Message("lane", block, 0, QUEUE) in play.sweep("hint", block)


def test_a_run_whose_first_message_was_lost_is_asked_for_again(play: Play) -> None:
    """Work that nobody serves asks for a lane."""
    assert play.sweep("hint", ROOT) == [LANE]


def test_hints_come_at_growing_intervals(play: Play) -> None:
    """While nobody comes, the next look is twice as late each time, up to a minute."""
    waits = []
    for _ in range(8):
        play.sweep("hint", ROOT)
        waits.append(round((play.agenda()["hint", ROOT] - play.now()) / 1000))

    assert waits == [4, 8, 16, 32, 60, 60, 60, 60]


def test_two_janitors_ask_once(play: Play) -> None:
    """An entry that another janitor has dealt with is not due any more."""
    asked = play.sweep("hint", ROOT)
    again = play.ledger.sweep(play.run, "hint", ROOT, workers={WORKER: Presence(at=0)})

    assert (asked, again) == ([LANE], [])


def test_as_many_lanes_are_asked_for_as_are_missing(play: Play) -> None:
    """Those that serve the block already are not asked for."""
    block = play.block(50, tracks=[track(50, lanes=5)])
    first = play.sweep("hint", block)
    play.serve(block, play.lane())
    rest = play.sweep("hint", block)

    assert first == [Message("lane", block, 0, QUEUE)] * 5
    assert rest == [Message("lane", block, 0, QUEUE)] * 4


def test_a_queue_where_messages_wait_is_asked_patiently(play: Play) -> None:
    """The lanes of a block are most likely among those messages: one more is asked for soon, and others later."""
    block = play.block(50, tracks=[track(50, lanes=5)])
    asked = [len(play.sweep("hint", block, backed_up=QUEUE)) for _ in range(6)]

    assert asked == [0, 1, 0, 0, 1, 1]
    assert len(play.sweep("hint", block, backed_up="another")) == 5


def test_what_was_asked_for_in_vain_is_asked_for_again_soon(play: Play) -> None:
    """A broker that took no message for minutes is no reason to wait for more; of a block that has ended none are."""
    block, other = play.block(50, tracks=[track(50, lanes=5)]), Play.submit(play.ledger)
    over = other.block(1)
    other.finish(over)
    for _ in range(6):
        play.sweep("hint", block)
    assert play.agenda()["hint", block] - play.now() > 50_000

    play.ledger.ask_again(play.run, [block])
    play.ledger.ask_again(other.run, [over])

    assert play.agenda()["hint", block] - play.now() <= 2000
    assert ("hint", over) not in other.agenda()
    assert len(play.sweep("hint", block)) == 5
    assert play.agenda()["hint", block] - play.now() <= 4000


def test_the_queues_of_blocks(play: Play) -> None:
    """Those of all their tracks; a block that is not there has none."""
    block = play.block(4, tracks=[track(2, queue="gpu", of=[0, 1]), track(2, queue="q@memory:1", of=[2, 3])])

    assert play.ledger.queues_of([(play.run, block), (play.run, ROOT), ("none", ROOT)]) == {"gpu", "q@memory:1", QUEUE}


def test_what_a_dead_worker_had_begun_runs_as_wide_as_before(play: Play) -> None:
    """Its branches are not to blame; those of one that die with a second one may be, and run one at a time."""
    block = play.block(100, tracks=[track(100, width=40, lanes=2)])
    for attempt in (1, 2):
        lane = play.lane(f"gone-{attempt}@there")
        leases = play.serve(block, lane).leases
        assert (len(leases), {lease.attempt for lease in leases}) == (40, {attempt})
        play.sweep("hint", block, alive=[WORKER])

    assert [lease.attempt for lease in play.serve(block, play.lane()).leases] == [3]


def test_a_branch_that_goes_on_has_lost_nothing(play: Play) -> None:
    """However often workers die under a run of many blocks: each time it has come further."""
    for step in range(5):
        lane = play.lane(f"gone-{step}@there")
        (lease,) = play.serve(ROOT, lane).leases
        assert lease.attempt == (1 if step == 0 else 2)
        block = play.nest(ROOT, 0, lane, 1, path=(step,))
        assert play.serve(block, lane).leases
        resumed = play.serve(block, lane, ok(0)).resumed
        assert resumed is not None
        assert resumed.lease.attempt == 1
        play.sweep("hint", ROOT, alive=[WORKER])

    assert play.state == "running"
    assert numbers(play.serve(ROOT, play.lane())) == [0]


def test_a_lane_that_is_gone_is_replaced_at_once(play: Play) -> None:
    """Its message will not come, so neither the next round nor the messages that wait are waited for."""
    block = play.block(50, tracks=[track(50, lanes=5)])
    asked = [len(play.sweep("hint", block, backed_up=QUEUE)) for _ in range(6)]
    for process in (7, 8):
        play.serve(block, play.lane("gone@there", process))
    again = play.sweep("hint", block, alive=[WORKER], backed_up=QUEUE)

    assert asked[-1] == 1
    assert again == [Message("lane", block, 0, QUEUE)] * 2


def test_a_hint_asks_for_a_bounded_number_of_lanes(play: Play) -> None:
    """A block planned with a lane for each of its thousands of branches is not published anew at once."""
    block = play.block(5000, tracks=[track(5000, lanes=5000)])
    play.serve(block, play.lane())

    assert len(play.sweep("hint", block)) == 100


def test_each_track_is_asked_for(play: Play) -> None:
    """Busy lanes of one track do not hide that nobody serves another."""
    tracks = [track(4, lanes=2, of=range(4)), track(2, lanes=2, queue="gpu", of=[4, 5])]
    block = play.block(6, tracks=tracks)
    for _ in range(2):
        play.serve(block, play.lane(), track=0)

    assert play.sweep("hint", block) == [Message("lane", block, 1, "gpu")] * 2


def test_nothing_is_asked_for_where_the_limit_is_reached(play: Play) -> None:
    """Waiting branches without a free slot need no lane."""
    block = play.block(5, limit=1, tracks=[track(5, lanes=1)])
    play.serve(block, play.lane())

    assert play.sweep("hint", block) == []


def test_lanes_that_work_are_looked_after_every_two_seconds(play: Play) -> None:
    """Where a lane holds leases its death is found soon, however long other lanes have been missing."""
    block = play.block(50, tracks=[track(50, lanes=5)])
    for _ in range(5):
        play.sweep("hint", block)
    play.serve(block, play.lane())
    came = play.agenda()["hint", block] - play.now()
    play.sweep("hint", block)
    worked = play.agenda()["hint", block] - play.now()

    assert came <= 2000
    assert worked <= 2000


def test_a_block_whose_children_end_one_after_another_is_still_looked_after(play: Play) -> None:
    """The end of a child may bring the next look forward, never put it off."""
    block, lane = play.block(3), play.lane()
    for branch in range(2):
        play.serve(block, lane)
        play.nest(block, branch, lane, 1)
    soon = play.now() + 300
    play.ledger.redis.zadd(play.ledger.keys.agenda, {f"{play.run} hint {block}": soon})
    for branch in range(2):
        play.finish(f"{block}.{branch}-0")

    assert play.agenda()["hint", block] <= soon


def test_deadlines_are_due_before_hints(play: Play) -> None:
    """Many blocks to look after do not put off the end of one."""
    block = play.block(1, timeout=60.0)
    play.make_due("hint", ROOT)
    play.make_due("hint", block)
    play.ledger.redis.zadd(play.ledger.keys.agenda, {f"{play.run} deadline {block}": 2})

    assert play.ledger.due("me", 60.0).entries == [
        (play.run, "deadline", block),
        (play.run, "hint", ROOT),
        (play.run, "hint", block),
    ]


@pytest.mark.parametrize("state", ["ended", "deleted"])
def test_an_entry_about_what_is_no_more_is_dropped(play: Play, state: str) -> None:
    """A stale entry of the agenda does not come back; of a run that is not there, whatever is left goes with it."""
    ledger = play.ledger
    play.finish()
    if state == "deleted":
        ledger.delete(play.run)
    ledger.redis.zadd(ledger.keys.agenda, {f"{play.run} hint {ROOT}": 1})

    assert ledger.due("me", 60.0).entries == [(play.run, "hint", ROOT)]
    asked = ledger.sweep(play.run, "hint", ROOT, workers={})
    assert [message.kind for message in asked] == (["lost"] if state == "deleted" else [])
    if asked:
        ledger.forget({play.run: 0})
    assert play.agenda() == {}
    assert ledger.is_idle()


def test_a_lost_run_is_forgotten_beside_names_that_are_no_utf8(play: Play) -> None:
    """The keys and entries of the run are searched for among those of all runs."""
    ledger = play.ledger
    mine, other = f"{ledger.keys.run(play.run)}:b:".encode() + b"\xff", ledger.keys.run("").encode() + b":\xff"
    ledger.redis.mset({mine: 1, other: 1})
    ledger.redis.zadd(ledger.keys.agenda, {b"\xff hint 0": 1})
    ledger.forget({play.run: ledger.work(play.run).created})

    assert not ledger.redis.exists(mine, ledger.keys.run(play.run))
    assert ledger.redis.exists(other)
    assert ledger.redis.zrange(ledger.keys.agenda, 0, -1) == [b"\xff hint 0"]

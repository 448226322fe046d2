"""Limits by name in the ledger: who has places, who waits, and who is called when one comes free."""

from __future__ import annotations

import time
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from egregore_dist.ledger import LEAVE, OTHERS, Commit, Ledger, Loss, Message, Overrun, Presence, waits
from egregore_dist.ledger import limits as records
from egregore_dist.ledger.keys import ROOT
from egregore_dist.workflow.limits import Rule
from tests.cluster.ledger.play import QUEUE, Play, bad, limited, numbers, ok, track

TWO = Rule(concurrent=2)
AGAIN = Commit(0, "again", b"1 call")


def opened(ledger: Ledger, n: int, bucket: str = "call", rule: Rule = TWO, **options: object) -> tuple[Play, str]:
    """A new run whose block has one limited track."""
    play = Play.submit(ledger)
    return play, play.block(n, tracks=[limited(n, bucket, rule, **options)])


def holders(ledger: Ledger, bucket: str = "call") -> int:
    return cast(int, ledger.redis.zcard(ledger.keys.limit("h", bucket)))


def asked(messages: tuple[Message, ...] | list[Message]) -> list[tuple[str, str]]:
    return [(message.run, message.block) for message in messages]


def test_two_runs_share_the_places(ledger: Ledger) -> None:
    """No more are leased than there are, whichever run comes; who gives one back calls a lane of who waits."""
    (a, a_block), (b, b_block) = opened(ledger, 3), opened(ledger, 3)
    one, two, three = a.lane(), a.lane(), b.lane()

    assert [numbers(a.serve(a_block, one)), numbers(a.serve(a_block, two))] == [[0], [1]]
    assert numbers(b.serve(b_block, three)) == []
    assert holders(ledger) == 2
    # Its own run waits before.
    kept = a.serve(a_block, one, ok(0))
    assert (numbers(kept), kept.messages) == ([2], ())
    given_up = a.serve(a_block, two, ok(1))
    assert numbers(given_up) == []
    assert given_up.messages == (Message("lane", b_block, 0, QUEUE, run=b.run),)
    assert numbers(b.serve(b_block, b.lane())) == [0]
    assert holders(ledger) == 2


def test_runs_take_turns(ledger: Ledger) -> None:
    """A run that goes on does not keep the others from their turn."""
    one = Rule(concurrent=1)
    (a, a_block), (b, b_block) = opened(ledger, 3, rule=one), opened(ledger, 3, rule=one)
    mine, theirs = a.lane(), b.lane()
    assert numbers(a.serve(a_block, mine)) == [0]
    assert numbers(b.serve(b_block, theirs)) == []

    # It is behind the other now: it leaves, and a lane of the other is called.
    assert numbers(a.serve(a_block, mine, ok(0))) == [1]
    left = a.serve(a_block, mine, ok(1))
    assert (numbers(left), asked(left.messages)) == ([], [(b.run, b_block)])
    assert numbers(b.serve(b_block, b.lane())) == [0]


@pytest.mark.parametrize("how", ["ok", "error", "again", "release", "cancel", "lost", "overrun", "sweep", "deadline"])
def test_a_place_is_given_back(ledger: Ledger, how: str) -> None:
    """By whatever ends the lease; of a block that has ended when its lane has left."""
    a, (b, b_block) = Play.submit(ledger), opened(ledger, 1, rule=Rule(concurrent=1))
    a_block = a.block(2, tracks=[limited(1, "call", Rule(concurrent=1), of=[0]), track(1, of=[1])])
    lane = a.lane()
    assert numbers(a.serve(a_block, lane)) == [0]
    assert numbers(b.serve(b_block, b.lane())) == []

    match how:
        case "ok":
            found = a.serve(a_block, lane, ok(0), want=-1).messages
        case "error":
            found = a.serve(a_block, lane, bad(0)).messages
        case "again":
            found = a.serve(a_block, lane, [AGAIN], want=-1).messages
        case "release":
            found = a.serve(a_block, lane, releases=[0], want=-1).messages
        case "cancel":
            ledger.cancel(a.run)
            assert holders(ledger) == 1, "what runs still has its place"
            found = a.serve(a_block, lane).messages
        case "deadline":
            a.pass_deadline(a_block)
            a.serve(a_block, a.lane())
            assert holders(ledger) == 1
            found = a.serve(a_block, lane).messages
        case "lost":
            found = tuple(ledger.lost(a.run, a_block, lane, Loss(verdict="lost", branch=0, why="killed")))
        case "overrun":
            over = Overrun(branch=0, node="call", calls=1, most=2, failure=b"")
            found = tuple(ledger.lost(a.run, a_block, lane, Loss(verdict="stopped", overruns=(over,))))
        case _:
            found = tuple(a.sweep("hint", a_block, alive=()))
    assert holders(ledger) == 0
    assert [one for one in asked(found) if one[0] == b.run] == [(b.run, b_block)]
    assert numbers(b.serve(b_block, b.lane())) == [0]


def test_a_branch_that_is_tried_again_counts_its_calls(ledger: Ledger) -> None:
    """It waits for a place like any other, and is not taken for one that has lost its process."""
    play, block = opened(ledger, 2, width=4, lanes=1)
    lane = play.lane()
    play.serve(block, lane)
    (again,) = play.serve(block, lane, [AGAIN], held=1).leases

    assert (again.branch, again.attempt, again.tried, again.node) == (0, 2, 1, "call")
    assert play.record(block).running == 2
    assert holders(ledger) == 2


def test_a_limited_branch_that_is_over_its_timeout_runs_among_its_like(ledger: Ledger) -> None:
    """With a place like any other, beside none that was not, and its calls are those of before and that one."""
    play, block = opened(ledger, 4, rule=Rule(concurrent=3), width=4, lanes=1)
    lane = play.lane()
    assert numbers(play.serve(block, lane)) == [0, 1, 2]
    play.serve(block, lane, [AGAIN], held=2)
    overruns = [Overrun(branch=branch, node="call", calls=2, most=9, failure=b"") for branch in (0, 1)]
    ledger.lost(play.run, block, lane, Loss(verdict="stopped", overruns=tuple(overruns)))
    assert holders(ledger) == 0

    again = play.lane()
    leases = play.serve(block, again).leases
    assert sorted((lease.branch, lease.attempt, lease.tried) for lease in leases) == [(0, 3, 2), (1, 3, 2)]
    assert holders(ledger) == 2
    assert numbers(play.serve(block, again, ok(0, 1))) == [2, 3]


def test_a_lane_of_many_takes_as_many_as_there_are(ledger: Ledger) -> None:
    """And asks again soon; one of width one takes one."""
    play, block = opened(ledger, 20, rule=Rule(concurrent=5), width=50, lanes=1)
    lane = play.lane()
    served = play.serve(block, lane)

    assert numbers(served) == [0, 1, 2, 3, 4]
    assert 0 < served.ask_after <= 0.1
    assert numbers(play.serve(block, lane, ok(0, 1), held=3)) == [5, 6]
    narrow, other = opened(ledger, 20, bucket="other", rule=Rule(concurrent=5))
    assert numbers(narrow.serve(other, narrow.lane(), want=8)) == [0]


def test_a_branch_that_goes_on_without_its_place_gives_it_back(ledger: Ledger) -> None:
    """When its lane says so, or when it meets a block; resumed, it takes none."""
    play, block = opened(ledger, 3, rule=Rule(concurrent=1))
    first, second = play.lane(), play.lane()
    play.serve(block, first)
    assert numbers(play.serve(block, second)) == []

    tended = ledger.give_place(play.run, block, 0, first)
    assert asked(tended.messages) == [("", block)]
    assert ledger.give_place(play.run, block, 0, first).messages == ()
    assert numbers(play.serve(block, second)) == [1]
    inner = play.nest(block, 1, second, 1, path=(1,))
    assert holders(ledger) == 0
    third = play.lane()
    assert numbers(play.serve(block, third)) == [2]
    # The branch after its block is leased though no place is free.
    play.finish(inner)
    assert numbers(play.serve(block, play.lane())) in ([1], [])
    assert holders(ledger) == 1


def test_a_track_that_is_called_and_does_not_come_keeps_nobody_waiting(ledger: Ledger) -> None:
    """After a while the next one is called, and the agenda sees to it that it is not forgotten."""
    one = Rule(concurrent=1)
    (a, a_block), (b, b_block), (c, c_block) = (opened(ledger, 1, rule=one) for _ in range(3))
    lane = a.lane()
    a.serve(a_block, lane)
    for play, block in ((b, b_block), (c, c_block)):
        play.serve(block, play.lane())
    assert asked(a.serve(a_block, lane, ok(0)).messages) == [(b.run, b_block)]
    assert ledger.tend("call", "janitor").messages == ()

    called = ledger.keys.limit("c", "call")
    ledger.redis.hset(called, f"{b.run} {b_block} 0", "1 1")
    assert asked(ledger.tend("call", "janitor").messages) == [(c.run, c_block)]
    assert b.agenda()["hint", b_block] <= b.now()
    assert asked(b.sweep("hint", b_block, due=False)) == [("", b_block)]


def test_a_janitor_asks_for_no_lane_of_what_waits_for_a_place(ledger: Ledger) -> None:
    """Who gives one back does."""
    (a, a_block), (b, b_block) = opened(ledger, 1, rule=Rule(concurrent=1)), opened(ledger, 9, rule=Rule(concurrent=1))
    a.serve(a_block, a.lane())
    b.serve(b_block, b.lane())

    assert b.sweep("hint", b_block) == []
    assert a.sweep("hint", a_block) == []


def test_a_place_without_a_lease_is_taken_back(ledger: Ledger) -> None:
    """Of a run that was deleted, of a lane whose worker died while its block ended, of nobody."""
    (a, a_block), (b, b_block) = opened(ledger, 1), opened(ledger, 1)
    a.serve(a_block, a.lane(worker="gone@there"))
    stays = b.lane()
    b.serve(b_block, stays)
    ledger.cancel(a.run)
    ledger.cancel(b.run)
    ledger.redis.zadd(ledger.keys.limit("h", "call"), {"nobody 0.0-0 3 x/1/2": 1})
    assert holders(ledger) == 3

    ledger.tend("call", "janitor", workers=None)
    assert holders(ledger) == 2
    alive = {"w1@here": Presence(at=1)}
    ledger.tend("call", "janitor", workers=alive)
    assert holders(ledger) == 1
    ledger.delete(b.run)
    ledger.tend("call", "janitor", workers=alive)
    assert holders(ledger) == 0
    assert ledger.redis.exists(ledger.keys.limits_due) == 0


def test_a_place_in_a_block_that_ended_badly_is_looked_after(ledger: Ledger) -> None:
    """Nobody waits for one, so nobody asks: a janitor does, until the lane has left or its worker is gone."""
    (a, a_block), (b, b_block) = opened(ledger, 1), opened(ledger, 1)
    a.serve(a_block, a.lane(worker="gone@there"))
    ledger.cancel(a.run)
    assert ledger.redis.zrange(ledger.keys.limits_due, 0, -1) == [b"call"]

    ledger.tend("call", "janitor", workers=None)
    assert ledger.redis.zrange(ledger.keys.limits_due, 0, -1) == [b"call"]
    ledger.tend("call", "janitor", workers={"w1@here": Presence(at=1), OTHERS: Presence(at=10**15)})
    assert (holders(ledger), ledger.redis.exists(ledger.keys.limits_due)) == (0, 0)

    lane = b.lane()
    b.serve(b_block, lane)
    ledger.cancel(b.run)
    b.serve(b_block, lane, want=LEAVE)
    ledger.tend("call", "janitor", workers=None)
    assert (holders(ledger), ledger.redis.exists(ledger.keys.limits_due)) == (0, 0)


def test_a_place_of_a_lane_that_is_gone_is_taken_back(ledger: Ledger) -> None:
    """Its run ended with it, so nobody leaves: its worker says that it has no such process, or no such lane."""
    (a, a_block), (b, b_block), (c, c_block) = (opened(ledger, 1, rule=Rule(concurrent=3)) for _ in range(3))
    for play, block, token in ((a, a_block, "w/7/a"), (b, b_block, "w/8/gone"), (c, c_block, "w/8/c")):
        play.serve(block, token)
        ledger.cancel(play.run)
    assert holders(ledger) == 3

    ledger.tend("call", "janitor", workers={"w": Presence(at=1, pids=(8,), lanes=("a", "c"))})
    assert holders(ledger) == 3
    ledger.tend("call", "janitor", workers={"w": Presence(at=10**15, pids=(8,), lanes=("a", "c"))})
    assert holders(ledger) == 1


def test_a_worker_of_any_name_gives_its_place_back(ledger: Ledger) -> None:
    """Celery lets a worker have a name of several words, in an app of the user's own."""
    play, block = opened(ledger, 2, rule=Rule(concurrent=1))
    token = "my worker@here/7/lane"
    play.serve(block, token)
    ledger.tend("call", "janitor", workers={"my worker@here": Presence(at=1)})
    assert holders(ledger) == 1

    play.serve(block, token, ok(0), want=LEAVE)
    assert holders(ledger) == 0


def test_a_paused_run_is_not_waited_for(ledger: Ledger) -> None:
    """A place goes to the next; resumed, the run gets its turn."""
    one = Rule(concurrent=1)
    (a, a_block), (b, b_block), (c, c_block) = (opened(ledger, 1, rule=one) for _ in range(3))
    lane = a.lane()
    a.serve(a_block, lane)
    for play, block in ((b, b_block), (c, c_block)):
        play.serve(block, play.lane())
    ledger.pause(b.run)

    assert asked(a.serve(a_block, lane, ok(0)).messages) == [(c.run, c_block)]
    assert [message.block for message in ledger.resume(b.run)[1] if message.block == b_block] == [b_block]


def test_a_limit_is_changed_while_runs_go_on(ledger: Ledger) -> None:
    """More places are taken at once; fewer let what runs go on, and nothing new begin; cleared, the code's holds."""
    play, block = opened(ledger, 20, lanes=8)
    lanes = [play.lane() for _ in range(3)]
    assert [len(play.serve(block, lane).leases) for lane in lanes] == [1, 1, 0]

    known, buckets = ledger.edit_limit("call", records.text_of(Rule(concurrent=4), None))
    assert (known, buckets) == (True, ["call"])
    assert asked(ledger.tend("call", "edit").messages) == [(play.run, block)] * 2
    assert [len(play.serve(block, play.lane()).leases) for _ in range(3)] == [1, 1, 0]
    ledger.edit_limit("call", records.text_of(Rule(concurrent=1), None))
    assert numbers(play.serve(block, lanes[0], ok(0))) == []
    assert holders(ledger) == 3
    ledger.edit_limit("call", "")
    found = records.one(ledger, "call")
    assert found is not None
    assert (found.rule, found.is_set, found.held, found.waiting) == (TWO, False, 3, 1)


def test_what_is_cleared_while_idle_is_forgotten(ledger: Ledger) -> None:
    """And is there again with the next lane, though its block was opened before."""
    play, block = opened(ledger, 3)
    assert [known.name for known in records.every(ledger)] == ["call"]
    assert ledger.edit_limit("call", "") == (True, [])
    assert records.every(ledger) == []
    assert ledger.edit_limit("call", "") == (False, [])

    assert [len(play.serve(block, play.lane()).leases) for _ in range(3)] == [1, 1, 0]


def test_values_of_a_key_are_apart(ledger: Ledger) -> None:
    """Each has its own places; both are told of under the limit's name."""
    play = Play.submit(ledger)
    one = Rule(concurrent=1)
    block = play.block(4, tracks=[limited(2, f"call/{v}", one, of=(i, i + 2)) for i, v in enumerate("ab")])

    assert [numbers(play.serve(block, play.lane(), track=i)) for i in (0, 0, 1, 1)] == [[0], [], [1], []]
    found = records.one(ledger, "call")
    assert found is not None
    assert sorted((b.value, b.held, b.waiting) for b in found.buckets) == [("a", 1, 1), ("b", 1, 1)]


def test_values_are_bounded(ledger: Ledger) -> None:
    """Those that are too many share one bucket, until that is idle; idle ones make room."""
    registry = ledger.keys.limit("k", "call")
    now = ledger.now()
    ledger.redis.zadd(registry, {f"call/{i}": now for i in range(1000)})
    _, block = over = opened(ledger, 2, bucket="call/new")

    assert over[0].record(block).limits[0].startswith("call/* ")
    # While others are there, a value that comes is one of them, though there is room.
    ledger.redis.zrem(registry, *[f"call/{i}" for i in range(500)])
    play, block = opened(ledger, 2, bucket="call/new")
    assert play.record(block).limits[0].startswith("call/* ")
    ledger.redis.zadd(registry, {"call/*": 1, "call/700": 1})
    play, block = opened(ledger, 2, bucket="call/new")
    assert play.record(block).limits[0].startswith("call/new ")
    assert ledger.redis.zscore(registry, "call/700") is None
    # One that is known stays its own.
    assert opened(ledger, 2, bucket="call/800")[0].record("0.0-0").limits[0].startswith("call/800 ")


def test_what_waits_says_so(ledger: Ledger) -> None:
    """A look at the run tells the limit, its places, and how many have a turn before."""
    one = Rule(concurrent=1, starts=2, seconds=3600)
    (a, a_block), (b, b_block), (c, c_block) = (opened(ledger, 2, rule=one) for _ in range(3))
    for play, block in ((a, a_block), (b, b_block), (c, c_block)):
        play.serve(block, play.lane())

    look = waits.look(ledger, c.run)
    assert look is not None
    (found,) = (block.tracks[0].limit for block in look.blocks if block.id == c_block)
    assert found is not None
    assert (found.limit, found.held, found.ahead, found.waiting) == ("call", 1, 2, 3)
    assert 1700 < found.starts_in <= 1800


def test_without_a_limit_no_command_is_new(ledger: Ledger) -> None:
    """No key of any limit is written, and none is read by the lease of a track that has none."""
    play = Play.submit(ledger)
    block = play.block(3)
    play.finish(block)

    assert ledger.redis.keys(f"{ledger.keys.prefix}:limit*") == []


def test_an_alarm_is_set_once(ledger: Ledger) -> None:
    """The first lane that finds no start left has it; it rings when there is one, and calls who waits."""
    # One start at a time, however late somebody comes.
    rate = Rule(starts=4, seconds=1)
    (a, a_block), (b, b_block) = opened(ledger, 5, rule=rate), opened(ledger, 5, rule=rate)
    lane, other = a.lane(), a.lane()
    served = [a.serve(a_block, lane), a.serve(a_block, other), *(b.serve(b_block, b.lane()) for _ in range(3))]
    (alarm,) = [alarm for one in served for alarm in one.alarms]

    assert alarm.bucket == "call"
    assert 0 < alarm.seconds <= 0.25
    time.sleep(alarm.seconds)
    assert len(ledger.tend("call").messages) == 1


def starts_of(ledger: Ledger, play: Play, block: str, seconds: float) -> tuple[list[float], list[float]]:
    """Server milliseconds at which branches were leased, by lanes that ask as quickly as they can.

    And for how many of them none had been when a lane was told to wait.
    """
    found: list[float] = []
    waited: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        token = play.lane()
        asked = ledger.now()
        served = play.serve(block, token)
        key = ledger.keys.limit("h", "call")
        scores = cast(list[tuple[bytes, float]], ledger.redis.zrange(key, 0, -1, withscores=True))
        found += [score for name, score in scores if name.decode().endswith(token)]
        if served.leases:
            play.serve(block, token, ok(*numbers(served)), want=-1)
        else:
            waited.append(asked - max(found))
    return found, waited


@pytest.mark.parametrize("width", [1, 50])
@given(starts=some.integers(5, 400))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_rate_is_never_exceeded(ledger: Ledger, width: int, starts: int) -> None:
    """In any window no more start than come in its time and the burst, and one that may start does."""
    for key in ledger.redis.scan_iter(match=f"{ledger.keys.prefix}:limit*"):
        ledger.redis.delete(key)
    rate = Rule(starts=starts, seconds=1)
    play, block = opened(ledger, 1000, rule=rate, width=width, lanes=1)
    found, waited = starts_of(ledger, play, block, 0.6)
    found.sort()

    for first in range(len(found)):
        for last in range(first, len(found)):
            # The server's milliseconds are cut off.
            window = found[last] - found[first] + 1
            assert last - first + 1 <= rate.burst + window * starts / 1000
    assert max(waited, default=0.0) <= 1000 / starts + 1


def test_a_new_rate_holds_at_once(ledger: Ledger) -> None:
    """What a slow one had to wait for does not bind a fast one."""
    play, block = opened(ledger, 9, rule=Rule(starts=1, seconds=3600))
    assert [len(play.serve(block, play.lane()).leases) for _ in range(2)] == [1, 0]

    ledger.edit_limit("call", records.text_of(Rule(starts=100, seconds=1), None))
    ledger.tend("call", "edit")
    time.sleep(0.12)
    assert asked(ledger.tend("call", "edit").messages)[:1] == [(play.run, block)]
    assert numbers(play.serve(block, play.lane())) == [1]


def test_the_first_block_has_none(play: Play) -> None:
    """The whole run is a block whose one branch has no limit: what it begins with is met as one that may."""
    assert play.record(ROOT).limits == ("",)
    assert track(1).limit == ""

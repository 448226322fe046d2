"""What is left of a run that has ended, and of one that is deleted, retried or expired."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import pytest
from redis.connection import AbstractConnection

from egregore_dist.ledger import Lease, Ledger, Message, Work, logs
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import QUEUE, Play, bad, numbers, ok, track
from tests.support.waiting import let_pass, until


def busy(play: Play) -> tuple[str, str]:
    """A run with every kind of key: tracks, values, failures, leases, parked branches; returns two of its blocks."""
    tracks = [track(3, of=[0, 2, 4]), track(3, queue="gpu", of=[1, 3, 5])]
    block = play.block(6, on_error="collect", timeout=60.0, tracks=tracks)
    first, second = play.lane(), play.lane("gone@there")
    play.serve(block, first)
    play.serve(block, first, ok(0))
    play.serve(block, first, bad(2))
    inner = play.nest(block, 4, first, 3)
    play.serve(inner, first, want=2)
    play.serve(block, second, track=1)
    play.sweep("hint", block)
    logs.write(play.ledger, play.run, "w", 1, [b"line"], said=1, most=1000, created=play.ledger.work(play.run).created)
    return block, inner


def ttls(play: Play) -> dict[str, int]:
    """Milliseconds that each key of the run has left; -1 for ever."""
    return {key: int(play.ledger.redis.pttl(key)) for key in play.written()}


def test_a_run_that_goes_on_never_expires(play: Play) -> None:
    """No key of a running run has a time to live."""
    busy(play)

    assert set(ttls(play).values()) == {-1}


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "timeout"])
def test_every_key_of_an_ended_run_expires(play: Play, end: str) -> None:
    """Whichever way it ends, each key goes after the retention, and late calls make no new ones."""
    if end == "succeeded":
        lane = play.lane()
        block = play.block(1)
        play.serve(block, lane)
        play.serve(block, lane, ok(0))
        play.serve(ROOT, lane, ok(0))
    else:
        block, inner = busy(play)
        if end == "cancelled":
            play.ledger.cancel(play.run)
        elif end == "timeout":
            play.sweep("deadline", block)
            lane = play.lane()
            play.serve(ROOT, lane)
        else:
            play.make_due("deadline", block)
            play.serve(inner, play.lane())
            play.serve(block, play.lane())
    keys = play.written()
    play.serve(block, play.lane(), ok(0, 1), releases=[2])
    play.open(block, 0, play.lane(), 3, path=(9,))
    play.ledger.wait(play.run, 0.001)

    left = ttls(play)
    assert play.ledger.run(play.run).ended is not None
    assert set(left) == keys
    assert all(0 < ttl <= 60_000 for ttl in left.values()), left


def test_waiting_for_the_end_does_not_keep_it(play: Play) -> None:
    """Several who waited while the run ended all learn of it, and its keys expire as if nobody had."""
    with futures.ThreadPoolExecutor(3) as threads:
        waits = [threads.submit(play.ledger.wait, play.run, 20.0) for _ in range(3)]
        until(lambda: int(play.ledger.redis.info("clients")["blocked_clients"]) >= 3)
        play.ledger.cancel(play.run)
        assert [wait.result() for wait in waits] == [True] * 3

    assert play.ends() == 1
    assert all(0 < ttl <= 60_000 for ttl in ttls(play).values())


def test_delete_leaves_nothing(play: Play) -> None:
    """Every key of the run, its entries in the agenda and in the list of runs go; the epoch and the counts stay."""
    busy(play)
    assert not play.ledger.delete(play.run)
    play.ledger.cancel(play.run)

    assert play.ledger.delete(play.run)
    assert not play.ledger.delete(play.run)
    left = {key.decode() for key in play.ledger.redis.scan_iter(match=f"{play.ledger.keys.prefix}*")}
    keys = play.ledger.keys
    assert left == {keys.epoch, keys.counts, keys.counts_of("flow"), keys.counts_of_cluster}


def test_runs_that_expired_are_forgotten(ledger: Ledger) -> None:
    """The list of runs drops those whose keys are gone, and keeps those that still run however old they are."""
    old, new = Play.submit(ledger), Play.submit(ledger)
    ledger.redis.zadd(ledger.keys.runs, {old.run: 1, new.run: 1})
    old.ledger.cancel(old.run)
    for key in old.written():
        ledger.redis.delete(key)
    assert [record.id for record in ledger.runs()] == [new.run]
    ledger.forget_expired()

    assert ledger.redis.zrange(ledger.keys.runs, 0, -1) == [new.run.encode()]


def test_a_run_may_be_submitted_again_after_it_was_deleted(play: Play) -> None:
    """An id is free once its run is deleted."""
    play.finish()
    play.ledger.delete(play.run)

    assert play.ledger.submit(play.run, Work("w", b"", b""), code={}, input=b"", queue="q").new
    assert numbers(play.serve(ROOT, play.lane())) == [0]


def test_a_retried_run_does_not_expire_until_it_ends_again(play: Play) -> None:
    """Its keys live, lanes are asked for, and what ended well is not run again."""
    block, lane = play.block(3), play.lane()
    play.serve(block, lane)
    play.serve(block, lane, ok(0))
    play.serve(block, lane, bad(1))
    before, messages = play.ledger.retry(play.run)

    assert (before, play.state) == ("failed", "running")
    assert {message.block for message in messages} == {block}
    assert set(ttls(play).values()) == {-1}
    assert sorted(numbers(play.serve(block, play.lane(), want=1)) + numbers(play.serve(block, play.lane()))) == [1, 2]
    assert play.serve(block, lane, ok(1)).late == 1
    assert play.ledger.wait(play.run, 0.001) is False


def test_a_retried_run_has_not_run_in_between(play: Play) -> None:
    """What lay between an end and a retry counts for nothing, however often it was."""
    play.block(1)
    for _ in range(2):
        play.ledger.cancel(play.run)
        let_pass(0.3)
        play.ledger.retry(play.run)
    play.ledger.cancel(play.run)
    found = play.ledger.run(play.run)

    assert found.started is not None
    assert found.ended is not None
    # Each is told to the millisecond.
    assert 0.59 <= found.rested <= found.ended - found.started + 0.002
    assert found.ran(found.ended + 100) == pytest.approx(found.ended - found.started - found.rested, abs=0.002)


def test_a_run_that_never_began_has_not_rested(play: Play) -> None:
    """It has waited all the time."""
    play.ledger.cancel(play.run)
    let_pass(0.1)
    play.ledger.retry(play.run)

    assert (play.ledger.run(play.run).rested, play.ledger.run(play.run).ran(10**10)) == (0, 0)


def test_a_retried_branch_has_all_its_attempts_again(play: Play) -> None:
    """Leases lost before do not count any more, also those of a branch that had not been leased again."""
    block = play.block(3)
    play.serve(block, play.lane("gone@there"))
    play.sweep("hint", block)
    play.ledger.cancel(play.run)
    play.ledger.retry(play.run)

    assert play.serve(block, play.lane()).leases == (Lease(0, attempt=1),)


def test_retry_leaves_alone_what_ended_well_with_an_error(play: Play) -> None:
    """A failed child of a block that collected its error is not opened again: that block has its value."""
    first, lane = play.block(1, on_error="collect"), play.lane()
    play.serve(first, lane)
    failed = play.nest(first, 0, lane, 1)
    play.serve(failed, lane)
    play.serve(failed, lane, bad(0))
    play.serve(ROOT, lane)
    second = play.nest(ROOT, 0, lane, 1, path=(1,))
    play.serve(second, lane)
    play.serve(second, lane, bad(0))
    assert play.state == "failed"
    _, messages = play.ledger.retry(play.run)

    assert [message.block for message in messages] == [second]
    assert (play.record(failed).state, play.record(first).state, play.record(second).state) == ("error", "ok", "open")
    last = play.finish(second)
    assert last.resumed is not None
    assert last.resumed.lease.after == second
    assert {block for _, block in play.agenda()} == {ROOT}


def test_the_limit_holds_for_children_that_are_opened_again(play: Play) -> None:
    """Of the children that run again, only as many are open at a time as the limit of their parent says."""
    block, lane = play.block(3, limit=1, on_error="collect", timeout=60.0), play.lane()
    for branch in range(2):
        assert numbers(play.serve(block, lane)) == [branch]
        inner = play.nest(block, branch, lane, 1)
        play.serve(inner, lane)
        if branch == 0:
            play.serve(inner, lane, bad(0))
    play.sweep("deadline", block)
    play.ledger.retry(play.run)

    states = [play.record(f"{block}.{branch}-0").state for branch in range(2)]
    assert (sorted(state == "open" for state in states), play.record(block).running) == ([False, True], 1)
    assert play.serve(block, play.lane()).leases == ()

    first = states.index("open")
    opened, other = (f"{block}.{branch}-0" for branch in (first, 1 - first))
    play.serve(opened, lane)
    assert play.serve(opened, lane, ok(0)).resumed is not None
    served = play.serve(block, lane, ok(first))
    assert (served.leases, served.messages) == ((), (Message("lane", other, 0, QUEUE),))
    assert (play.record(other).state, play.record(block).running) == ("open", 1)
    play.serve(other, lane)
    assert play.serve(other, lane, ok(0)).resumed is not None
    assert numbers(play.serve(block, lane, ok(1 - first))) == [2]
    assert play.record(block).done == 2


@pytest.mark.parametrize("state", ["pending", "running", "succeeded"])
def test_only_a_run_that_failed_or_was_cancelled_is_retried(play: Play, state: str) -> None:
    """Other runs are left as they are."""
    lane = play.lane()
    if state != "pending":
        play.serve(ROOT, lane)
    if state == "succeeded":
        play.serve(ROOT, lane, ok(0))

    assert play.ledger.retry(play.run) == (state, [])
    assert play.state == state


def test_very_many_expired_runs_are_dropped_in_few_round_trips(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A janitor that clears the list keeps its deadlines meanwhile; what is there stays."""
    ledger = play.ledger
    ledger.redis.zadd(ledger.keys.runs, {f"gone-{number}": number for number in range(2500)})
    ledger.redis.zadd(ledger.keys.runs, {play.run: 1})
    sent = 0
    send = AbstractConnection.send_packed_command

    def count(self: Any, *args: Any, **options: Any) -> None:
        nonlocal sent
        sent += 1
        send(self, *args, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", count)

    ledger.forget_expired()

    assert sent < 20
    assert ledger.redis.zrange(ledger.keys.runs, 0, -1) == [play.run.encode()]

"""A server that evicts keys although it was fit when workers started: nothing is leased until it has stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from egregore_dist.ledger import Ledger, Message
from egregore_dist.ledger.waits import look
from tests.cluster.ledger.play import QUEUE, Play, numbers, ok
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import until

LEASE = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server whose policy a test may change."""
    with redis_server(tmp_path_factory.mktemp("evictions")) as running:
        yield running


@pytest.fixture
def ledger(server: RedisServer) -> Iterator[Ledger]:
    """An empty ledger on it."""
    with closing(Ledger(server.url, prefix="p", retries=0)) as ledger:
        yield ledger
    server.client.flushall()
    stop(server)


def evict(server: RedisServer) -> None:
    """Have the server evict keys that expire."""
    room = int(server.client.info("memory")["used_memory"]) + 2**20
    server.client.config_set("maxmemory-policy", "volatile-lru")
    server.client.config_set("maxmemory", room)
    before, filled = int(server.client.info("stats")["evicted_keys"]), 0
    while int(server.client.info("stats")["evicted_keys"]) == before:
        server.client.set(f"filler {filled}", b"x" * 100_000, ex=600)
        filled += 1


def stop(server: RedisServer) -> None:
    """Have it evict nothing any more."""
    server.client.config_set("maxmemory-policy", "noeviction")
    server.client.config_set("maxmemory", 0)


def goes_on(server: RedisServer, ledger: Ledger) -> None:
    """The time has passed for which nothing is leased."""
    server.client.hset(ledger.keys.evictions, "until", int(time.time() * 1000) - 1)


def held_until(play: Play) -> int | None:
    """Until when nothing of a run is leased."""
    seen = look(play.ledger, play.run)
    assert seen is not None
    return seen.held_until


def test_nothing_is_leased_until_evictions_have_stopped(server: RedisServer, ledger: Ledger) -> None:
    """What runs is committed, nothing more begins, and janitors ask for lanes when half a minute has passed."""
    play = Play.submit(ledger)
    block, lane = play.block(3), play.lane()
    before = ledger.due("me", LEASE).evicted
    assert numbers(play.serve(block, lane)) == [0]
    evict(server)
    assert before < ledger.due("me", LEASE).evicted <= ledger.evicted()
    stop(server)
    ledger.due("me", LEASE)
    held = play.serve(block, lane, ok(0))

    assert (held.state, held.leases, held.late) == ("open", (), 0)
    assert play.serve(block, play.lane()).leases == ()
    seen = look(ledger, play.run)
    assert seen is not None
    assert seen.held_until is not None
    assert 25_000 < seen.held_until - seen.now <= 30_000
    # Nobody is asked to come in vain, and the block is looked at again just then.
    entry = f"{play.run} hint {block}"
    server.client.zadd(ledger.keys.agenda, {entry: 1})
    assert ledger.sweep(play.run, "hint", block, workers={}) == []
    assert server.client.zscore(ledger.keys.agenda, entry) == seen.held_until

    # Evictions that have not grown do not prolong it.
    ledger.due("me", LEASE)
    assert held_until(play) == seen.held_until
    goes_on(server, ledger)
    server.client.zadd(ledger.keys.agenda, {entry: 1})
    assert set(ledger.sweep(play.run, "hint", block, workers={})) == {Message("lane", block, 0, QUEUE)}
    assert numbers(play.serve(block, play.lane())) == [1]
    assert held_until(play) is None


def test_what_was_evicted_before_is_forgiven(server: RedisServer, ledger: Ledger) -> None:
    """A ledger that is new on a server which has evicted keys once, or which was started anew, is served."""
    evict(server)
    stop(server)
    play = Play.submit(ledger)
    ledger.due("me", LEASE)
    assert numbers(play.serve(play.block(1), play.lane())) == [0]


def test_the_first_eviction_that_a_janitor_of_many_sees_counts(server: RedisServer, ledger: Ledger) -> None:
    """Whoever leads next compares with what the last leader was told, and followers change nothing."""
    play = Play.submit(ledger)
    block = play.block(1)
    ledger.due("leads", LEASE)
    evict(server)
    ledger.due("follows", LEASE)
    assert held_until(play) is None
    server.client.delete(ledger.keys.janitor)
    until(lambda: ledger.due("follows", LEASE).leads)
    assert play.serve(block, play.lane()).leases == ()

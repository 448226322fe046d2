"""Which janitor leads, and what it is told."""

from __future__ import annotations

import pytest

from egregore_dist.client.server import Server
from egregore_dist.ledger import Ledger, Message
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import QUEUE, WORKER, Play
from tests.cluster.ledger.test_costs import alone as alone
from tests.cluster.ledger.test_costs import commands
from tests.support.waiting import until


def test_one_janitor_leads(play: Play) -> None:
    """Who asks first leads for as long as it asks in time; the others are told nothing."""
    play.make_due("hint", ROOT)
    ledger = play.ledger

    assert ledger.due("first", 60.0).entries == [(play.run, "hint", ROOT)]
    assert not ledger.due("second", 60.0).leads
    assert ledger.due("first", 60.0).entries == [(play.run, "hint", ROOT)]


def test_a_janitor_that_does_not_ask_is_replaced(ledger: Ledger) -> None:
    """Its lease ends by itself, and when it comes back it follows."""
    assert ledger.due("first", 0.05).entries == []
    until(lambda: ledger.due("second", 60.0).leads, seconds=5)

    assert not ledger.due("first", 60.0).leads


def test_a_leader_keeps_its_lease(ledger: Ledger) -> None:
    """Each question prolongs it."""
    ledger.due("first", 0.2)
    ledger.due("first", 60.0)

    assert ledger.redis.pttl(ledger.keys.janitor) > 50_000


def test_an_idle_round_is_one_call(alone: Ledger) -> None:
    """Leading or not, a janitor with nothing to do asks once, and a follower changes nothing."""
    alone.due("first", 60.0)
    leads = commands(alone, lambda: alone.due("first", 60.0))
    follows = commands(alone, lambda: alone.due("second", 60.0))

    assert (leads["evalsha"], sum(leads.values())) == (1, 7)
    assert (follows["evalsha"], follows.keys(), sum(follows.values())) == (1, {"evalsha", "get", "setnx", "time"}, 4)


def test_at_most_so_many_are_told(ledger: Ledger) -> None:
    """The oldest come first."""
    for number in range(5):
        ledger.redis.zadd(ledger.keys.agenda, {f"run{number} hint 0": number})

    assert ledger.due("me", 60.0, limit=2).entries == [("run0", "hint", "0"), ("run1", "hint", "0")]


def test_a_deadline_does_not_wait_behind_hints(ledger: Ledger) -> None:
    """Of a cluster that was away more is due than is told at once: the deadlines among that are told all the same."""
    for number in range(50):
        ledger.redis.zadd(ledger.keys.agenda, {f"run{number} hint 0": number})
    ledger.redis.zadd(ledger.keys.agenda, {"late deadline 0": 60})

    assert ledger.due("me", 60.0, limit=2).entries == [
        ("late", "deadline", "0"),
        ("run0", "hint", "0"),
        ("run1", "hint", "0"),
    ]


@pytest.mark.parametrize("entry", [b"\xff hint 0", b"x hint \xff", b"hint", b"x deadline 0 0"])
def test_an_unreadable_entry_of_the_agenda_is_removed(ledger: Ledger, entry: bytes) -> None:
    """Otherwise it would stay due for ever, ahead of entries that can be dealt with."""
    ledger.redis.zadd(ledger.keys.agenda, {entry: 1, "run hint 0": 2})

    assert ledger.due("me", 60.0, limit=1).entries == []
    assert ledger.due("me", 60.0, limit=1).entries == [("run", "hint", "0")]
    assert ledger.redis.zrange(ledger.keys.agenda, 0, -1) == [b"run hint 0"]


def test_each_life_of_a_server_is_told_from_the_others() -> None:
    """By leaders and by those who follow."""
    lives = []
    for _ in range(2):
        with Server.start() as server:
            ledger = Ledger(server.url)
            found = {ledger.due(janitor, 60.0).server for janitor in ("first", "second", "first")}
            ledger.close()
        assert len(found) == 1
        lives += found

    assert lives[0] != lives[1]
    assert all(lives)


def test_what_is_not_due_is_not_told(play: Play) -> None:
    """The server's clock decides."""
    assert play.ledger.due("me", 60.0).entries == []
    assert play.agenda() != {}


def test_nobody_is_taken_for_dead_where_nobody_could_report(play: Play) -> None:
    """After an outage leases stay where they are, and lanes are asked for where they are missing."""
    block, lane = play.block(3), play.lane("gone@there")
    play.serve(block, lane)
    play.make_due("hint", block)

    assert play.ledger.sweep(play.run, "hint", block, workers=None) == [Message("lane", block, 0, QUEUE)]
    assert play.ledger.running(play.run, block) == [0]
    assert len(play.sweep("hint", block, alive=[WORKER])) == 2
    assert play.ledger.running(play.run, block) == []

"""Branches as tasks in Celery's events: what is sent of them, and what is not waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from celery import Celery

from egregore_dist.engine import announce
from egregore_dist.engine.announce import Announcer, Branch
from egregore_dist.engine.later import Later
from egregore_dist.ledger import Commit
from egregore_dist.wire import failure
from egregore_dist.wire.failure import Failure
from tests.support.listening import listening
from tests.support.waiting import until

BRANCH = Branch(id="run:0.0-0:3", name="fetch", place="(run run, block b, branch 3)", attempt=2, waited=1.5)


class Refused(Exception):
    """An error of a module of the user's."""


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory."""
    app = Celery("test", broker="memory://", set_as_current=False)
    yield app
    app.close()


def test_nobody_wants_events_unless_told() -> None:
    """A worker that was not told is asked by its lanes at no cost worth speaking of, and can be told again."""
    assert not announce.wanted()
    announce.want(True)
    try:
        assert announce.wanted()
    finally:
        announce.want(False)
    assert not announce.wanted()


def test_what_is_said_of_a_branch(app: Celery) -> None:
    """It was received when its block was opened, an error is its class alone, and one more attempt is no end."""
    announcer = Announcer(app, Later())
    error = Commit(3, "error", failure.encode(Failure.of(Refused("secret"), node="fetch", attempt=2)))
    with listening(app) as ear:
        announcer.begin("w@here", BRANCH)
        announcer.end("w@here", BRANCH.id, Commit(3, "ok", b"secret"), 2.5)
        announcer.end("w@here", BRANCH.id, error, 2.5)
        announcer.end("w@here", BRANCH.id, None, 2.5)
        announcer.end("w@here", BRANCH.id, Commit(3, "again", b"1 fetch"), 2.5)
        until(lambda: len(ear.events) == 6, what="six events")
    received, started, succeeded, failed, revoked, retried = ear.events

    assert [event["type"] for event in (received, started)] == ["task-received", "task-started"]
    assert [received["name"], received["args"], received["retries"]] == ["fetch", BRANCH.place, 1]
    assert started["timestamp"] - received["timestamp"] == pytest.approx(1.5)
    assert {event["hostname"] for event in ear.events} == {"w@here"}
    assert [succeeded["result"], succeeded["runtime"]] == ["6 bytes", 2.5]
    assert failed["exception"] == "Refused()"
    assert revoked["terminated"] is True
    assert [retried["type"], retried["exception"]] == ["task-retried", "fetch failed"]
    assert "secret" not in str(ear.events)


def test_a_broker_that_is_away_holds_nothing_up() -> None:
    """Branches go on at once, what waits is bounded, and what cannot be sent is let go."""
    # To connect is not tried again and again.
    options = {"max_retries": 0}
    app = Celery("test", broker="redis://127.0.0.1:1/0", broker_transport_options=options, set_as_current=False)
    later = Later()
    announcer = Announcer(app, later)
    begun = time.monotonic()
    for _ in range(announce._MOST):
        announcer.begin("w@here", BRANCH)

    assert time.monotonic() - begun < 5
    assert len(announcer._waiting) <= announce._MOST
    later.flush()
    until(lambda: announcer._connection is None, what="the connection that was given up")
    assert announcer._planned
    app.close()

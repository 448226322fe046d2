"""A ledger on each server that answers, and what a test wrote to it gone afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import hypothesis
import pytest

from egregore_dist.client.server import Server
from egregore_dist.engine import publish
from egregore_dist.engine.later import Later
from egregore_dist.engine.queues import Queues
from egregore_dist.ledger import Ledger, Message
from tests.cluster.ledger import profiles
from tests.cluster.ledger.play import Play
from tests.support.clusters import REDIS, answers


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """The embedded server that the tests of the ledger share."""
    with Server.start() as server:
        yield server


@pytest.fixture(params=["valkey", *(["redis"] if answers(REDIS) else [])])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """An empty ledger; once for every server that answers."""
    embedded = request.param == "valkey"
    url = request.getfixturevalue("valkey").url if embedded else f"redis://{REDIS[0]}:{REDIS[1]}/0"
    ledger = Ledger(url, prefix=f"egdtest-{uuid.uuid4().hex[:8]}", retention=60.0, retries=0)
    yield ledger
    for key in ledger.redis.scan_iter(match=f"{ledger.keys.prefix}*", count=1000):
        ledger.redis.delete(key)
    ledger.close()


@pytest.fixture
def interleavings(request: pytest.FixtureRequest) -> hypothesis.settings:
    """How many interleavings of `ledger` are tried."""
    return profiles.chosen(is_first=request.node.callspec.params["ledger"] == "valkey")


@pytest.fixture
def play(ledger: Ledger) -> Play:
    """A run that was just submitted."""
    return Play.submit(ledger)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Message]]:
    """What a janitor publishes, which goes nowhere."""
    found: list[tuple[str, Message]] = []
    monkeypatch.setattr(publish, "messages", lambda _app, run, wanted: found.extend((run, it) for it in wanted) or [])
    monkeypatch.setattr(Queues, "waiting", lambda _queues, _names: 0)
    monkeypatch.setattr(Later, "put", lambda _later, _key, _delay, action: action())
    return found

"""How many messages wait, where the broker does not say."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from egregore_dist.engine import app as apps
from egregore_dist.engine import queues
from egregore_dist.engine.queues import Queues
from egregore_dist.settings import Settings


def app_of(url: str) -> Celery:
    return apps.make_app(Settings(broker_url=url, ledger_url="redis://127.0.0.1:1/0"))


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_away_is_left_alone(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is there: no answer, and for some seconds no other attempt."""
    app = app_of(f"{scheme}://127.0.0.1:1//" if scheme == "amqp" else "redis://127.0.0.1:1/0")
    attempts: list[Any] = []
    connection_for_read = app.connection_for_read
    monkeypatch.setattr(
        app, "connection_for_read", lambda **options: attempts.append(1) or connection_for_read(**options)
    )
    mine = Queues(app)

    assert mine.waiting(["one"]) is None
    assert mine.waiting(["one"]) is None
    assert len(attempts) == 1
    monkeypatch.setattr(queues, "_SILENT", 0.0)
    mine._silent_until = 0.0
    assert mine.waiting(["one"]) is None
    assert len(attempts) == 2


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "amqp://127.0.0.1:{}//"])
def test_a_broker_that_does_not_answer_is_given_up(url: str, mute: int) -> None:
    """It takes connections and says nothing: no answer within some seconds."""
    began = time.monotonic()

    assert Queues(app_of(url.format(mute))).waiting(["one"]) is None
    assert time.monotonic() - began < 20

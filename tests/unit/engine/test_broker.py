"""Connections to the broker, without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import kombu
import pytest
from kombu.transport.pyamqp import Transport as Amqp
from redis.exceptions import OutOfMemoryError, ResponseError

from egregore_dist.engine import app as apps
from egregore_dist.engine import broker
from egregore_dist.ledger.connection import refusal
from egregore_dist.settings import Settings


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("redis://host:6379/0", broker.Transport),
        ("rediss://host:6379/0", broker.Transport),
        ("amqp://host//", Amqp),
    ],
)
def test_redis_gets_our_channels(url: str, transport: type) -> None:
    """The app's connections use our transport where the broker is Redis, and kombu's elsewhere."""
    app = apps.make_app(Settings(broker_url=url, ledger_url="redis://host:6379/0"))

    for connection in (app.connection_for_read(), app.connection_for_write().clone()):
        assert isinstance(connection, broker.Connection)
        assert connection.get_transport_cls() is transport


def test_a_lost_connection_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are at most some seconds apart, and not at the same instants everywhere; what is asked for is kept."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(kombu.Connection, "_ensure_connection", lambda self, **options: asked.append(options))
    connection = broker.Connection("memory://")
    for _ in range(20):
        connection.ensure_connection(print, None)
    connection.ensure_connection(interval_max=7)

    assert all(options["errback"] is print for options in asked[:-1])
    assert all(0 < options["interval_start"] < options["interval_max"] <= 3.5 for options in asked[:-1])
    assert len({options["interval_max"] for options in asked}) > 10
    assert asked[-1]["interval_max"] == 7


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "memory is full"),
        (ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "disk"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "replicas"),
        (
            ResponseError("Error running script (call to f_1): @user_script:3: @user_script: 3: -OOM command not"),
            "full",
        ),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), None),
        (ResponseError("unknown command 'ROOM'"), None),
        (ValueError("OOM command"), None),
    ],
)
def test_a_refusal_to_write_is_known(error: Exception, says: str | None) -> None:
    """What a server says that takes no write is told from its other errors, within a script's error too."""
    reason = refusal(error)

    assert (reason is None) == (says is None)
    assert says is None or says in str(reason)


@pytest.mark.parametrize("connection", [None, SimpleNamespace(can_read=lambda timeout: False)], ids=["closed", "empty"])
def test_nobody_waits_for_what_is_published(connection: object) -> None:
    """Where nothing is there to be read, as after a channel was replaced, the worker goes on."""
    read: list[object] = []
    client = SimpleNamespace(connection=connection, parse_response=lambda: read.append(1))
    channel: Any = broker.Channel.__new__(broker.Channel)
    assert not channel._receive_one(client)
    assert not read

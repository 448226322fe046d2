"""Connections to the broker, without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import kombu
import pytest
import redis
from amqp import exceptions as amqp
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
    told: list[float] = []
    monkeypatch.setattr(kombu.Connection, "_ensure_connection", lambda self, **options: asked.append(options))
    connection = broker.Connection("memory://")
    for _ in range(20):
        connection.ensure_connection(lambda error, interval: told.append(interval), None)
    connection.ensure_connection(interval_max=7)

    for options in asked[:-1]:
        options["errback"](OSError("lost"), 1.5)
    assert told == [1.5] * 20
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


def _refused(kind: type[amqp.AMQPError], text: str, sig: tuple[int, int] = (50, 10)) -> amqp.AMQPError:
    return kind(text, sig)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (_refused(amqp.AccessRefused, "ACCESS_REFUSED - Login was refused using PLAIN."), "right user and password"),
        (_refused(amqp.AccessRefused, "ACCESS_REFUSED - access to queue 'q' refused"), "set_permissions"),
        (_refused(amqp.NotAllowed, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'"), "set_permissions"),
        (_refused(amqp.NotAllowed, "NOT_ALLOWED - vhost v not found"), "add_vhost"),
        (
            _refused(amqp.PreconditionFailed, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type'"),
            "delete that queue",
        ),
        (_refused(amqp.AMQPNotImplementedError, "NOT_IMPLEMENTED - something"), "its log"),
        (redis.exceptions.AuthenticationError("Authentication required."), "right user and password"),
        (redis.exceptions.NoPermissionError("no permissions to run 'brpop'"), "doctor"),
        (redis.exceptions.ResponseError("DB index is out of range"), "lower number"),
        (redis.exceptions.ConnectionError("CERTIFICATE_VERIFY_FAILED"), "ssl_ca_certs"),
        (redis.exceptions.InvalidResponse("Protocol Error"), "Redis or Valkey"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_broker_refuses_for_good_has_a_cure(error: Exception, cure: str) -> None:
    """As it is, and as kombu raises it."""
    wrapped = kombu.exceptions.OperationalError(str(error))
    wrapped.__cause__ = error

    assert cure in str(broker.lasting(error))
    assert broker.lasting(wrapped) == broker.lasting(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        amqp.ConnectionForced("CONNECTION_FORCED - broker shut down"),
        _refused(amqp.PreconditionFailed, "PRECONDITION_FAILED - delivery acknowledgement timed out", (0, 0)),
        redis.exceptions.ConnectionError("Connection refused"),
        redis.exceptions.BusyLoadingError("loading"),
        kombu.exceptions.OperationalError("lost"),
        KeyError("x"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_passes_by_itself_is_waited_for(error: Exception) -> None:
    assert broker.lasting(error) is None


@pytest.mark.parametrize("hosts", [["h"], ["a", "b"]])
def test_the_other_brokers_are_tried_before_an_error_that_stays_is_raised(hosts: list[str]) -> None:
    """A broker that refuses the login is asked once; kombu's tries are for those that are away."""
    tried: list[str] = []

    class Refuses(broker.Connection):
        def _establish_connection(self) -> Any:
            tried.append(self.hostname)
            raise redis.exceptions.AuthenticationError("invalid")

    connection = Refuses(";".join(f"redis://{host}:1/0" for host in hosts))
    with pytest.raises(kombu.exceptions.OperationalError, match="invalid"):
        connection.ensure_connection(max_retries=20, interval_start=0.01)

    assert tried == hosts

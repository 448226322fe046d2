"""How many messages wait on queues, asked on a connection of one's own: nobody waits for a broker that is away."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic
from typing import Any, cast

from celery import Celery
from kombu import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

# Seconds: an answer takes a millisecond. A broker that took no connection is left alone for a while.
_TIMEOUT = 0.5
_SILENT = 5.0

_OPTIONS: dict[str, dict[str, object]] = {
    "redis": {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT},
    "amqp": {"read_timeout": _TIMEOUT, "write_timeout": _TIMEOUT},
}


class Queues:
    """The queues of an app's broker. Used by one thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None
        self._has_answered = False
        self._silent_until = -_SILENT

    def close(self) -> None:
        """Close the connection, if there is one; it is made again when it is needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.collect(socket_timeout=_TIMEOUT)
            except Exception as error:  # of a broker that is away
                log.debug("a connection could not be closed: %s", type(error).__name__)

    def waiting(self, names: Iterable[str]) -> int | None:
        """How many messages wait on these; None where the broker does not say."""
        if self._connection is None and not self._connect():
            return None
        assert self._connection is not None
        try:
            found = sum(_waiting(self._connection, name) for name in names)
        except Exception as error:  # of whichever transport
            # The server may have closed what was idle, and then there is a new one next time.
            self._fail(self._connection, error, 0.0 if self._has_answered else _SILENT)
            return None
        self._has_answered = True
        return found

    def _connect(self) -> bool:
        now = monotonic()
        if now < self._silent_until:
            return False
        # Only where there is a connection is nothing tried again and again for seconds.
        connection = self._app.connection_for_read(connect_timeout=_TIMEOUT)
        driver = connection.transport.driver_type
        connection.transport_options = {**(connection.transport_options or {}), **_OPTIONS.get(driver, {})}
        try:
            connection.connect()
            if driver == "redis":
                channel: Any = connection.default_channel
                channel.pool.set_retry(Retry(NoBackoff(), 0))
        except Exception as error:  # of whichever transport
            self._fail(connection, error, _SILENT)
            return False
        self._connection, self._has_answered = connection, False
        return True

    def _fail(self, connection: Connection, error: Exception, silent: float) -> None:
        log.debug("the broker does not say who waits: %s", type(error).__name__)
        self._connection = connection
        self._silent_until = monotonic() + silent
        self.close()


def _waiting(connection: Connection, name: str) -> int:
    channel: Any = connection.default_channel
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except connection.channel_errors:
        # There is no such queue; of Redis, none that is not empty.
        if connection.transport.driver_type != "redis":
            # AMQP closes the channel for that.
            connection.revive(cast(Any, None))
        return 0

"""Connections to the broker: kombu's, made to outlive what a server and the messages on it can do.

A stock worker ends when its Redis server restarts while it holds a message, when the server is full or read-only or
held by a script, and when a message's envelope cannot be read. Here such a message is handed to whoever keeps the
connection, the worker waits, and what it could not acknowledge is acknowledged on its next connection.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import kombu
import redis
from amqp import exceptions as amqp
from celery.app.amqp import AMQP as CeleryAMQP
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual as kombu_virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from egregore_dist.ledger import connection as ledgers
from egregore_dist.ledger.connection import outlasting, refusal

log = logging.getLogger(__name__)

# What is used of these is not in their type stubs.
stock: Any = kombu_redis
virtual: Any = kombu_virtual

# Seconds for which a server that refuses to write is left alone, and between two lines of log about it.
_PAUSE = (0.5, 1.5)
_SAY_EVERY = 30.0

# What a lost connection raises. Kombu's own list has KeyError too, which a message can cause.
_LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)


_PERMIT = "give the URL's user that permission (rabbitmqctl set_permissions), or use another user or virtual host"


def lasting(error: BaseException) -> str | None:
    """Why a broker refuses, and the cure, where waiting is in vain; None for any other error."""
    text = str(error).rstrip(".")
    reply = (error.reply_text or "").rstrip(".") if isinstance(error, amqp.AMQPError) else ""
    match error:
        case amqp.AccessRefused() | amqp.NotAllowed():
            return f"{reply}; {_cure_of(reply)}"
        case amqp.PreconditionFailed() if "inequivalent arg" in reply:
            return (
                f"{reply}; delete that queue (rabbitmqctl delete_queue), and it is made anew: runs lose nothing by it. "
                "Or use another queue"
            )
        case amqp.AMQPNotImplementedError():
            return f"{reply}; see that the broker is RabbitMQ, and what its log says"
        case redis.exceptions.AuthenticationError():
            return f"the server refuses this login: {text}; {ledgers.LOGIN}"
        case redis.exceptions.NoPermissionError():
            return f"{text}; give the URL's user that permission: see docs/servers.md, and `egregore-dist doctor`"
        case _ if ledgers.is_database_error(error):
            return f"{text}; {ledgers.DATABASE}"
        case _ if ledgers.is_unverified(error):
            return f"{text}; {ledgers.TRUST}"
        case redis.exceptions.InvalidResponse():
            return f"{text}; is the URL that of a Redis or Valkey server?"
        case kombu.exceptions.OperationalError() if error.__cause__ is not None:
            return lasting(error.__cause__)
        case _:
            return None


def raise_lasting(error: BaseException, interval: float) -> None:
    """Raise an error of a broker that waiting does not cure: an ``errback`` of kombu's, which ends its attempts."""
    # Of several brokers the others are tried first: until they were, there is no interval.
    if interval and lasting(error) is not None:
        raise error


def _cure_of(reply: str) -> str:
    if "Login was refused" in reply:
        return ledgers.LOGIN
    if reply.endswith("not found"):
        return "create that virtual host (rabbitmqctl add_vhost), or end the URL with the name of another one"
    return _PERMIT


@dataclass(slots=True)
class Keeper:
    """What a consumer keeps from one of its connections to the next.

    Attributes:
        set_aside: takes a message that cannot be read: its queue, the raw message, and the error.
        at_work: whether the message with this delivery tag is executed here, so that it is not to be delivered anew.
        done: delivery tags of what has ended, and could not be acknowledged.
        held: delivery tags of what was not begun, and could not be given back.
        limits_each: whether each queue has a prefetch limit of its own: RabbitMQ refuses one for all of a channel where
            one of the queues is a quorum queue.
    """

    set_aside: Callable[[str, object, Exception], None] = lambda queue, raw, error: log.error(
        "a message on queue %s cannot be read, and is dropped: %s", queue, type(error).__name__
    )
    at_work: Callable[[str], bool] = lambda tag: False
    done: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    limits_each: bool = False


class QoS(stock.QoS):  # type: ignore[misc]
    """What a channel has delivered and not acknowledged."""

    def can_consume(self) -> bool:
        """Whether another message may be taken: not from a server that refuses to note that it was."""
        return not self.channel.pausing and bool(super().can_consume())

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered."""
        keeper = self.channel.keeper
        try:
            super().append(message, delivery_tag)
        except _LOST:
            # The note may have been taken, and nobody would look for it within the visibility timeout.
            keeper.held.add(delivery_tag)
            raise
        except redis.exceptions.ResponseError as error:
            if not self.channel.refused(error):
                raise
            # It is off the queue already: better served without a note than not at all.
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message: on the next connection, where this one is lost."""
        if self.channel.pausing or not self._settle(delivery_tag):
            self.channel.keeper.done.add(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Refuse a message, or give it back."""
        if not requeue:
            self.ack(delivery_tag)
            return
        try:
            self.restore_by_tag(delivery_tag, leftmost=True)
        except Exception as error:
            if not self.channel.is_away(error):
                raise
            self.channel.keeper.held.add(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Give back what was delivered when the channel closes, but for what is still executed."""
        keeper = self.channel.keeper
        waiting = [tag for tag in self._delivered if not keeper.at_work(tag)]
        while waiting:
            try:
                self.restore_by_tag(waiting[-1], client)
            except Exception as error:
                if not self.channel.is_away(error):
                    raise
                keeper.held.update(waiting)
                break
            waiting.pop()
        self._delivered.clear()

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Settle what earlier connections left, and give back what dead workers hold."""
        if self.channel.pausing:
            return
        keeper = self.channel.keeper
        try:
            for tag in tuple(keeper.done):
                self._remove_from_indices(tag).execute()
                keeper.done.discard(tag)
                keeper.held.discard(tag)
            for tag in tuple(keeper.held):
                self.restore_by_tag(tag)
                keeper.held.discard(tag)
            super().restore_visible(start, num, interval)
        except Exception as error:
            if not self.channel.is_away(error):
                raise

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message that was delivered back on its queue; one that cannot be read is set aside."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            self._settle(tag)
            self.channel.keeper.set_aside("", None, error)

    def _settle(self, tag: str) -> bool:
        try:
            self._remove_from_indices(tag).execute()
        except Exception as error:
            if not self.channel.is_away(error):
                raise
            return False
        return True


class Channel(stock.Channel):  # type: ignore[misc]
    """A channel that outlives a server which refuses to write, and messages that cannot be read."""

    QoS = QoS
    _paused_until = 0.0
    _said = -_SAY_EVERY

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._keeper: Keeper = connection.client.keeper
        super().__init__(connection, **kwargs)

    @property
    def keeper(self) -> Keeper:
        """Who keeps what this channel leaves."""
        # What was delivered is acknowledged, and channels are closed once more, after their connection is gone.
        if self.connection is not None and self.connection.client is not None:
            self._keeper = self.connection.client.keeper
        return self._keeper

    @property
    def pausing(self) -> bool:
        """Whether the server has just refused to write."""
        return time.monotonic() < self._paused_until

    def refused(self, error: BaseException) -> bool:
        """Whether this is the server refusing to write; it is then left alone for a moment."""
        reason = refusal(error)
        if reason is None:
            return False
        now = time.monotonic()
        self._paused_until = now + random.uniform(*_PAUSE)  # noqa: S311 (no secret)
        if now - self._said > _SAY_EVERY:
            Channel._said = now
            log.warning("the broker takes nothing: %s; waiting", reason, extra={"action": "broker_full"})
        return True

    def is_away(self, error: BaseException) -> bool:
        """Whether the server cannot be reached, or refuses to write."""
        return isinstance(error, _LOST) or self.refused(error)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; what cannot be read of it is set aside."""
        answer = super().basic_consume(queue, no_ack, *args, **kwargs)
        callback = kwargs.get("callback") or args[0]

        def take(raw: Any) -> Any:
            try:
                message = self.Message(raw, channel=self)
                if not no_ack:
                    self.qos.append(message, message.delivery_tag)
            except Exception as error:
                if isinstance(error, _LOST):
                    raise
                self.keeper.set_aside(queue, raw, error)
                return None
            return callback(message)

        self.connection._callbacks[queue] = take
        return answer

    def _brpop_read(self, **options: Any) -> bool:
        # As kombu's, but that what cannot be decoded is set aside, and a refusal is waited out.
        connection = self.client.connection
        try:
            try:
                found = self.client.parse_response(connection, "BRPOP", **options)
            except redis.exceptions.ResponseError as error:
                if not self.refused(error):
                    raise
                found = None
            except self.connection_errors:
                connection.disconnect()
                raise
            if not found:
                raise Empty
            queue = bytes_to_str(found[0]).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            try:
                raw = loads(bytes_to_str(found[1]))
            except Exception as error:  # a JSON decoder's hooks raise what they like
                self.keeper.set_aside(queue, found[1], error)
                return True
            self.connection._deliver(raw, queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _receive_one(self, client: Any) -> Any:
        # Redis-py waits for what is published without an end, and whoever waits here consumes nothing.
        if client.connection is None or not client.connection.can_read(timeout=0):
            return False
        try:
            return super()._receive_one(client)
        except Empty:
            # Raised for what is not JSON too: what came with it must not wait for what comes next.
            return False
        except Exception as error:
            if isinstance(error, _LOST):
                raise
            # Remote control is published, not queued: there is nothing to acknowledge.
            self.keeper.set_aside("", None, error)
            return False

    def _do_restore_message(
        self, payload: Any, exchange: str, routing_key: str, pipe: Any, leftmost: bool = False
    ) -> None:
        if not (isinstance(payload["headers"], dict) and isinstance(payload["properties"], dict)):
            # Kombu would drop it, and log all of it.
            raise TypeError("a message of another shape")
        super()._do_restore_message(payload, exchange, routing_key, pipe, leftmost)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except redis.exceptions.ResponseError as error:
            # A full server must be drained: what has been bound once needs no writing, nor does what is broadcast.
            if not self.refused(error) or not (queue in self._fanout_queues or self._is_bound(exchange, queue)):
                raise

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep the bindings of queues that expire; a server that takes nothing is asked again later."""
        try:
            super().maybe_refresh_binding_expiry()
        except redis.exceptions.ResponseError as error:
            if not self.refused(error):
                raise

    def _is_bound(self, exchange: str, queue: str) -> bool:
        return any(entry[-1] == queue for entry in self.get_table(exchange))

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            # Kombu closes a lost connection twice, and in between there is nothing to connect to.
            raise redis.exceptions.ConnectionError("this channel's connection was given up")
        found = super()._connparams(asynchronous)
        return {**found, "connection_class": outlasting(found["connection_class"])}


class Transport(stock.Transport):  # type: ignore[misc]
    """Kombu's Redis transport with these channels."""

    Channel = Channel

    def create_channel(self, connection: Any) -> Any:
        """A new channel. A server that refuses to write counts as one that cannot be reached yet."""
        try:
            return super().create_channel(connection)
        except redis.exceptions.ResponseError as error:
            reason = refusal(error)
            if reason is None:
                raise
            raise redis.exceptions.ConnectionError(reason) from error


class SentinelChannel(Channel, stock.SentinelChannel):  # type: ignore[misc]
    """Such a channel to the primary that sentinels name."""


class SentinelTransport(Transport):
    """Kombu's Sentinel transport with these channels."""

    default_port = stock.SentinelTransport.default_port
    Channel = SentinelChannel


class Connection(kombu.Connection):
    """A connection whose channels are ours where the broker is Redis, and that is made again within seconds."""

    #: The consumer gives its own to each of its connections.
    keeper: Keeper

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keeper = Keeper()

    def get_transport_cls(self) -> Any:
        """The class of the transport."""
        found = super().get_transport_cls()
        return {stock.Transport: Transport, stock.SentinelTransport: SentinelTransport}.get(found, found)

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:
        # Kombu waits up to 30 seconds between two attempts, and all workers at the same instants.
        names = ("errback", "max_retries", "interval_start", "interval_step", "interval_max")
        given = dict(zip(names, args, strict=False))
        jitter = random.uniform(0.7, 1.3)  # noqa: S311 (no secret)
        pauses = {"interval_start": 0.25 * jitter, "interval_step": 0.5 * jitter, "interval_max": 2.5 * jitter}
        asked = {**pauses, **given, **options}
        return super()._ensure_connection(**{**asked, "errback": self._unless_lasting(asked.get("errback"))})

    @staticmethod
    def _unless_lasting(errback: Any) -> Any:
        def tell(error: Exception, interval: float) -> None:
            raise_lasting(error, interval)
            if errback is not None:
                errback(error, interval)

        return tell

    @property
    def qos_semantics_matches_spec(self) -> bool:
        """Whether a prefetch limit is that of each queue, and not one of the whole channel."""
        return self.keeper.limits_each or bool(super().qos_semantics_matches_spec)


class AMQP(CeleryAMQP):
    """Celery's messaging over these connections."""

    Connection = Connection

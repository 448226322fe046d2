"""Guard a worker against the messages it gets: what it cannot serve is set aside, and the next one is served."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import kombu
from amqp.exceptions import AMQPNotImplementedError, PreconditionFailed, RecoverableConnectionError
from celery import Celery, bootsteps
from celery.bootsteps import RUN  # type: ignore[attr-defined]
from celery.worker import state

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.engine import broker
from egregore_dist.engine.later import Later
from egregore_dist.ledger import Aside, Ledger
from egregore_dist.ledger.ledger import ASIDE_KEPT
from egregore_dist.settings import Settings
from egregore_dist.worker import envelope
from egregore_dist.worker.refused import Anew, Refusals, Refused

log = logging.getLogger(__name__)

# Seconds: what comes at once is noted at once, and said in one line.
_NOTE_AFTER = 0.1
_NOTE_AGAIN = 5.0
_SAY_EVERY = 1.0

# The AMQP classes that a channel's end may come from: none, where a message was held for too long; basic, which has
# acknowledgements. Of the others, such as queue, a declaration is wrong, and is so on the next connection too.
_OF_DELIVERY = (0, 60)

Handler = Callable[..., Any]


class Asides:
    """Notes what was set aside in the ledger, off the thread that consumes.

    Args:
        worker: the worker's name.
    """

    def __init__(self, settings: Settings, worker: str) -> None:
        self._ledger = Ledger(apps.ledger_url(settings), prefix=settings.prefix, retries=1)
        self._worker = worker
        self._waiting: deque[Aside] = deque(maxlen=ASIDE_KEPT)
        self._lock = threading.Lock()
        self._later = Later()
        self._said = -_SAY_EVERY
        self._unsaid = 0

    def add(self, queue: str, raw: object, reason: str) -> None:
        """Note a message: its shape, and nothing of what it holds."""
        noted = Aside(reason=reason, worker=self._worker, queue=queue, excerpt=envelope.excerpt(raw))
        self._say(noted.queue, noted.reason)
        with self._lock:
            self._waiting.append(noted)
            first = len(self._waiting) == 1
        if first:
            # Once for all that come meanwhile: put off each time, a flood would never be noted.
            self._later.put("aside", _NOTE_AFTER, self._note)

    def flush(self) -> None:
        """Note now what waits."""
        self._later.flush()

    def _note(self) -> None:
        with self._lock:
            noted = list(self._waiting)
            self._waiting.clear()
        try:
            self._ledger.set_aside(noted)
        except errors.BrokerUnavailable:
            with self._lock:
                newer = list(self._waiting)
                self._waiting.clear()
                self._waiting.extend([*noted, *newer])
            self._later.put("aside", _NOTE_AGAIN, self._note)

    def _say(self, queue: str, reason: str) -> None:
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said < _SAY_EVERY:
            return
        more = f" ({self._unsaid} since the last line)" if self._unsaid > 1 else ""
        log.warning(
            "a message of queue %s is set aside%s: %s", queue or "unknown", more, reason, extra={"action": "set_aside"}
        )
        self._said, self._unsaid = now, 0


class Guard(bootsteps.StartStopStep):
    """Looks at each message before Celery does, and keeps what one connection leaves for the next."""

    name = "egregore-guard"
    requires: tuple[Any, ...] = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        app: Any = consumer.app
        self._consumer = consumer
        self._owns = bool(app.egregore_owns)
        self._asides = Asides(app.egregore_settings, consumer.hostname)
        self._keeper = broker.Keeper(set_aside=self._unreadable, at_work=self._is_at_work)
        if app.amqp.Connection is kombu.Connection:
            app.amqp.Connection = broker.Connection
        # Of this consumer alone; Celery has no other place to look at a message before it acts on it.
        self._loop = consumer.loop
        consumer.loop = self._consume
        self._connected = consumer.ensure_connected
        consumer.ensure_connected = self._ensure_connected
        self._refusals = Refusals(consumer)
        self._handler_of = consumer.create_task_handler
        consumer.create_task_handler = self._task_handler
        for name in ("on_decode_error", "on_unknown_message", "on_unknown_task", "on_invalid_task"):
            setattr(consumer, name, self._spared(getattr(consumer, name)))

    def stop(self, _consumer: Any) -> None:
        """Note what waits."""
        self._asides.flush()

    def _consume(self, *args: Any) -> Any:
        # RabbitMQ ends the channel of a consumer that holds a message for longer than its consumer_timeout, 30 minutes
        # by default. Stock workers end by that; here it is a lost connection: what runs goes on.
        try:
            return self._loop(*args)
        except PreconditionFailed as error:
            if (error.method_sig or (0, 0))[0] not in _OF_DELIVERY:
                raise
            log.warning("the broker has ended the channel: %s", error.reply_text, extra={"action": "channel_ended"})
            raise RecoverableConnectionError("the broker has ended the channel") from error
        except AMQPNotImplementedError as error:
            if self._keeper.limits_each or "global qos" not in str(error.reply_text):
                raise
            # Celery knows of those quorum queues alone that were declared as such: not where it is the default.
            self._keeper.limits_each = True
            log.info("%s: it is limited for each queue", error.reply_text, extra={"action": "quorum_queues"})
            raise Anew("prefetching is limited for each queue") from error

    def _ensure_connected(self, connection: Any) -> Any:
        # Before it is used: first of all it settles what the one before has left.
        if isinstance(connection, broker.Connection):
            connection.keeper = self._keeper
        self._refusals.wait()
        try:
            return self._connected(connection)
        except Exception as error:
            if broker.lasting(error) is None:
                raise
            # Celery would end the worker by some of these.
            raise Refused(str(error)) from error

    def _task_handler(self, *args: Any, **kwargs: Any) -> Handler:
        handler: Handler = self._handler_of(*args, **kwargs)

        def on_message(message: Any) -> None:
            task = message.headers.get("task") if isinstance(message.headers, Mapping) else None
            if not isinstance(task, str) or not envelope.is_ours(task):
                if self._owns:
                    self._put_aside(message, "it asks for no task of egregore-dist")
                elif isinstance(task, str) and task in self._consumer.app.tasks:
                    handler(message)
                else:
                    self._serve(handler, message)
                return
            try:
                reason = envelope.fault(task, message.headers, message.decode())
            except Exception as error:  # decoders raise what they like
                reason = f"body: it cannot be decoded ({type(error).__name__})"
            if reason is not None:
                self._put_aside(message, f"{task}: {reason}")
                return
            if self._is_copy(message):
                self._drop(message)
                return
            self._consumer.controller.egregore_admission.serve(
                message, lambda: self._serve(handler, message), lambda: self._drop(message)
            )

        return on_message

    def _serve(self, handler: Handler, message: Any) -> None:
        try:
            handler(message)
        except Exception as error:
            if self._is_loss(error):
                raise
            log.exception("a message could not be begun", extra={"action": "message_failed"})
            self._put_aside(message, f"it could not be begun ({type(error).__name__})")

    @staticmethod
    def _is_copy(message: Any) -> bool:
        """Whether the broker delivers again what this worker executes: it would take a slot, and find nothing to do."""
        info = message.delivery_info
        if not (isinstance(info, Mapping) and info.get("redelivered")):
            return False
        return any(request.id == message.headers["id"] for request in tuple(state.active_requests))

    def _spared(self, handler: Handler) -> Handler:
        # What Celery does with a message that it cannot serve: it logs its body, and trips over some.
        def spared(*args: Any) -> None:
            message = args[0] if handler.__name__ == "on_decode_error" else args[1]
            if self._owns:
                self._put_aside(message, f"it cannot be decoded ({type(args[-1]).__name__})")
                return
            try:
                handler(*args)
            except Exception as error:
                if self._is_loss(error):
                    raise
                self._put_aside(message, f"it cannot be decoded ({type(error).__name__})")

        return spared

    def _put_aside(self, message: Any, reason: str) -> None:
        info = message.delivery_info if isinstance(message.delivery_info, Mapping) else {}
        shape = {
            "content-type": message.content_type,
            "content-encoding": message.content_encoding,
            "headers": message.headers,
            "body": message.body,
        }
        self._asides.add(str(info.get("routing_key") or ""), shape, reason)
        self._drop(message)

    def _drop(self, message: Any) -> None:
        if not message.acknowledged:
            message.ack_log_error(log, self._consumer.connection_errors)

    def _unreadable(self, queue: str, raw: object, error: Exception) -> None:
        self._asides.add(queue, raw, f"its envelope cannot be read ({type(error).__name__})")

    def _is_loss(self, error: Exception) -> bool:
        # Kombu counts KeyError among the losses of a Redis connection, and a message can cause one.
        return isinstance(error, self._consumer.connection_errors) and not isinstance(error, KeyError)

    def _is_at_work(self, tag: str) -> bool:
        # When the worker stops, what is not done is given back; when only the connection is lost, it goes on, unless
        # Celery is about to cancel it for that: its message is then the only one that brings the task back.
        if self._consumer.blueprint.state != RUN:
            return False
        cancels = self._consumer.app.conf.worker_cancel_long_running_tasks_on_connection_loss
        return any(
            request.message.delivery_tag == tag and not (cancels and request.task.acks_late)
            for request in tuple(state.active_requests)
        )


def register(app: Celery, *, owns: bool) -> None:
    """Add the guard to the workers of an app.

    Args:
        owns: whether every message that the app's workers get should be ours.
    """
    app.egregore_owns = owns  # type: ignore[attr-defined]
    app.steps["consumer"].add(Guard)

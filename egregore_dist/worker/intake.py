"""Why a worker takes no lanes now, or none of a queue. It consumes its queues while there is no reason not to.

Its lanes are told too: while there is a reason, each ends after the branches that it is at, and leaves the rest to the
lanes of other workers.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import Celery, bootsteps

from egregore_dist.engine import leaving
from egregore_dist.engine.control import STOPPING


class Intake:
    """What one worker takes. Its methods may be called from any thread.

    Args:
        worker: Celery's worker.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._reasons: dict[str, str] = {}
        self._closed: dict[str, str] = {}
        self._lock = threading.Lock()

    def reasons(self) -> dict[str, str]:
        """Why it takes no lanes now: reasons, and what is to be said of each; none where it takes them."""
        with self._lock:
            return dict(self._reasons)

    def hold(self, reason: str, why: str) -> None:
        """Take no more lanes; where this reason is there already, ``why`` is said of it from now on."""
        with self._lock:
            is_new = reason not in self._reasons
            self._reasons[reason] = why
            leaving.tell(True)
        if is_new:
            self._changed()

    def release(self, reason: str) -> None:
        """This reason is no more: without another one, lanes are taken again."""
        with self._lock:
            was_there = self._reasons.pop(reason, None) is not None
            leaving.tell(bool(self._reasons))
        if was_there:
            self._changed()

    def closed(self) -> dict[str, str]:
        """The queues of which it takes no lanes now, with why; it may take those of others."""
        with self._lock:
            return dict(self._closed)

    def close(self, queue: str, why: str) -> bool:
        """Take no more lanes of a queue; ``why`` is said of it from now on. Returns whether it was open."""
        with self._lock:
            was_open = queue not in self._closed
            self._closed[queue] = why
        if was_open:
            self._consume_soon()
        return was_open

    def open(self, queue: str) -> None:
        """Take lanes of a queue again."""
        with self._lock:
            was_closed = self._closed.pop(queue, None) is not None
        if was_closed:
            self._consume_soon()

    def apply(self, consumer: Any) -> None:
        """Consume, or do not. Called on the thread of the consumer."""
        tasks = consumer.task_consumer
        if tasks is None:
            # It will be, with the next connection.
            return
        queues = dict(consumer.app.amqp.queues.consume_from)
        shut = queues if self.reasons() else self.closed()
        for name in shut:
            tasks.cancel_by_queue(name)
        for name, queue in queues.items():
            if name not in shut and not tasks.consuming_from(name):
                tasks.add_queue(queue)
        if not shut.keys() >= queues.keys():
            tasks.consume()

    def renew(self, consumer: Any) -> None:
        """Consume anew, where a changed prefetch count is for new consumers of a queue alone."""
        tasks = consumer.task_consumer
        if tasks is None or consumer.qos_global or consumer.connection.transport.driver_type != "amqp":
            return
        consumer.qos.update()
        for name in tuple(consumer.app.amqp.queues.consume_from):
            tasks.cancel_by_queue(name)
        self.apply(consumer)

    def _consume_soon(self) -> None:
        consumer = getattr(self._worker, "consumer", None)
        if consumer is not None and STOPPING not in self.reasons():
            # Not at once: a message may just be read. Of a worker that stops the consumer has stopped already.
            consumer.call_soon(self.apply, consumer)

    def _changed(self) -> None:
        self._consume_soon()
        heartbeat = getattr(self._worker, "egregore_heartbeat", None)
        if heartbeat is not None:
            heartbeat.hurry()


class Taking(bootsteps.StartStopStep):
    """Has a new connection consume nothing while there is a reason not to."""

    name = "egregore-taking"
    requires: tuple[Any, ...] = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """The consumer is made, and has not begun to consume."""
        intake: Intake = consumer.controller.egregore_intake
        if intake.reasons():
            intake.apply(consumer)
        for name in intake.closed():
            consumer.task_consumer.cancel_by_queue(name)


def takes(consumer: Any, queue: str) -> bool:
    """Whether a consumer's worker takes lanes of a queue now."""
    intake: Intake = consumer.controller.egregore_intake
    return not intake.reasons() and queue not in intake.closed()


def register(app: Celery) -> None:
    """Add the step to the workers of an app."""
    app.steps["consumer"].add(Taking)

"""The queues that a worker consumes beside its own: those derived from them whose lanes need what it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kombu import Exchange, Queue

from egregore_dist.resources import needs, router
from egregore_dist.resources.report import Report
from egregore_dist.worker import intake
from egregore_dist.worker.periodic import Periodic

# Seconds between two looks for queues that lanes are sent to for the first time.
_LOOK_EVERY = 0.5


def own(worker: Any) -> tuple[str, ...]:
    """The queues that it was told to consume."""
    return tuple(name for name in tuple(worker.app.amqp.queues.consume_from) if not needs.is_derived(name))


def likely(said: Report) -> list[str]:
    """Derived queues that most nodes with needs ask for: they are consumed before anybody has used them."""
    labels: list[tuple[str, ...]] = [(), *((label,) for label in said.labels)]
    counts = (0, 1) if said.gpus else (0,)
    return [needs.queue(name, labels=each, gpus=count) for name in said.queues for each in labels for count in counts]


def consume(worker: Any, said: Report, names: Iterable[str]) -> None:
    """Have it consume, from now on, those derived queues that it serves.

    Args:
        said: what it has.
        names: that lanes have been sent to lately, by anybody.
    """
    consumed = worker.app.amqp.queues.consume_from
    for name in names:
        if name not in consumed and needs.is_derived(name) and router.serves(said, name):
            # In the thread that talks to the broker, as soon as there is a connection.
            worker.consumer.call_soon(_begin, worker.consumer, name)


class Finder(Periodic):
    """Finds the derived queues that lanes were sent to since the last report, so that none waits for the next one."""

    name = "egregore-finder"
    requires = ("egregore_dist.worker.steps:Heartbeat",)

    def interval(self) -> float:
        return min(_LOOK_EVERY, self.settings.report_interval)

    def tick(self, parent: Any) -> None:
        said: Report | None = parent.egregore_heartbeat.said
        if said is not None:
            consume(parent, said, self.ledger.queues(since=said.at))


def _begin(consumer: Any, name: str) -> None:
    queues = consumer.app.amqp.queues
    try:
        queue = queues[name]
    except KeyError:
        # Of an app that makes no queues by itself.
        queue = Queue(name, Exchange(name), name)
    # A connection that is made anew begins with it too.
    queues.select_add(queue)
    # So does one that takes no lanes now, once it takes them again.
    if consumer.task_consumer is not None and intake.takes(consumer, name):
        consumer.add_task_queue(name)

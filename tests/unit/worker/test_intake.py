"""Why a worker takes no lanes now."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel

from egregore_dist.engine import control, leaving
from egregore_dist.worker import commands
from egregore_dist.worker.intake import Intake, Taking


class TaskConsumer:
    """Kombu's, as far as it is used: the queues that it knows, and those that it consumes."""

    def __init__(self, *names: str) -> None:
        self.known = set(names)
        self.consumed: set[str] = set()

    def cancel_by_queue(self, name: str) -> None:
        self.known.discard(name)
        self.consumed.discard(name)

    def add_queue(self, name: str) -> None:
        self.known.add(name)

    def consuming_from(self, name: str) -> bool:
        return name in self.consumed

    def consume(self) -> None:
        self.consumed |= self.known


class Worker:
    """A worker whose consumer does what it is told when `loop` is called."""

    def __init__(self, *queues: str) -> None:
        self.later: list[Callable[[], None]] = []
        self.hurried = 0
        self.egregore_heartbeat = SimpleNamespace(hurry=self._hurry)
        self.egregore_intake = Intake(self)
        names = {name: name for name in queues}
        app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=names)))
        self.consumer = SimpleNamespace(controller=self, app=app, task_consumer=None, call_soon=self._call_soon)
        self.connect()

    def connect(self) -> None:
        """A new connection, as Celery makes it: the step, then the loop consumes."""
        self.consumer.task_consumer = TaskConsumer(*self.consumer.app.amqp.queues.consume_from)
        Taking(self.consumer).start(self.consumer)
        self.consumer.task_consumer.consume()

    def loop(self) -> set[str]:
        """Do what waits; returns the queues that are consumed."""
        while self.later:
            self.later.pop(0)()
        return set(self.consumer.task_consumer.consumed)

    def _call_soon(self, fn: Any, *args: Any) -> None:
        self.later.append(lambda: fn(*args))

    def _hurry(self) -> None:
        self.hurried += 1


@pytest.fixture
def worker() -> Worker:
    return Worker("home", "gpu")


def test_it_consumes_while_there_is_no_reason_not_to(worker: Worker) -> None:
    """Any reason stops it; the last one that goes lets it go on; lanes are told at once, and the report is hurried."""
    intake = worker.egregore_intake
    assert worker.loop() == {"home", "gpu"}

    intake.hold("drained", "by hand")
    assert leaving.told()
    assert worker.hurried == 1
    assert worker.loop() == set()
    intake.hold("memory pressure", "5 MB left")
    intake.hold("memory pressure", "4 MB left")
    assert intake.reasons() == {"drained": "by hand", "memory pressure": "4 MB left"}
    intake.release("drained")
    assert worker.loop() == set()
    assert leaving.told()
    intake.release("memory pressure")

    assert not leaving.told()
    assert worker.loop() == {"home", "gpu"}


def test_a_new_connection_consumes_nothing_either(worker: Worker) -> None:
    """While there is a reason; and what was held is consumed again on the connection that there is then."""
    worker.egregore_intake.hold("drained", "")
    worker.loop()
    worker.connect()

    assert worker.loop() == set()
    worker.egregore_intake.release("drained")
    assert worker.loop() == {"home", "gpu"}
    worker.connect()
    assert worker.loop() == {"home", "gpu"}


def test_what_is_told_while_there_is_no_connection(worker: Worker) -> None:
    """Nothing fails, and the next connection does as it was told."""
    worker.consumer.task_consumer = None
    worker.egregore_intake.hold("drained", "")
    worker.later.pop()()
    worker.connect()

    assert worker.loop() == set()


def test_a_worker_that_stops_is_not_touched(worker: Worker) -> None:
    """Its lanes leave; its consumer has stopped already, and what is released then changes nothing."""
    worker.egregore_intake.hold("stopping", "")
    worker.egregore_intake.release("drained")

    assert leaving.told()
    assert worker.later == []


def test_commands_of_another_worker() -> None:
    """A worker without our steps refuses what it does not know, and sets nothing in motion."""
    state = SimpleNamespace(consumer=SimpleNamespace(controller=SimpleNamespace()))

    commands.register()
    for name in (control.DRAIN, control.RESUME, control.STOP, control.CONCURRENCY):
        with pytest.raises(LookupError, match="serves no workflows"):
            Panel.data[name](state, order="")


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_a_number_that_is_none(worker: Worker, number: int) -> None:
    """What is no number of lanes is refused, saying what is."""
    state = SimpleNamespace(consumer=worker.consumer)

    assert "whole number of at least 1" in commands.concurrency(state, number)["error"]


def test_a_queue_can_be_closed() -> None:
    """Of a closed queue nothing is taken, on a new connection neither, and after a drain it is closed still."""
    worker = Worker("home", "home@memory:9")
    intake = worker.egregore_intake

    assert intake.close("home@memory:9", "full")
    assert not intake.close("home@memory:9", "fuller")
    assert worker.loop() == {"home"}
    assert intake.closed() == {"home@memory:9": "fuller"}
    worker.connect()
    assert worker.loop() == {"home"}
    intake.hold("drained", "")
    assert worker.loop() == set()
    intake.release("drained")
    assert worker.loop() == {"home"}
    intake.open("home@memory:9")
    assert worker.loop() == {"home", "home@memory:9"}

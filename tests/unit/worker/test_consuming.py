"""Which derived queues a worker consumes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from egregore_dist.resources.report import Report
from egregore_dist.worker import consuming


class Queues(dict[str, Any]):
    """A worker's queues; any is made when it is asked for."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.consume_from = {name: name for name in names}

    def __missing__(self, name: str) -> str:
        return name

    def select_add(self, queue: str) -> None:
        self.consume_from[queue] = queue


class Worker:
    """A worker whose consumer does at once what it is asked to do, if it has a connection."""

    def __init__(self, *queues: str, connected: bool = True) -> None:
        self.added: list[str] = []
        self.held: dict[str, str] = {}
        self.closed: dict[str, str] = {}
        self.app = SimpleNamespace(amqp=SimpleNamespace(queues=Queues(*queues)))
        self.consumer: Any = SimpleNamespace(
            app=self.app,
            call_soon=lambda act, *args: act(*args),
            task_consumer=object() if connected else None,
            add_task_queue=self.added.append,
            controller=SimpleNamespace(
                egregore_intake=SimpleNamespace(reasons=lambda: self.held, closed=lambda: self.closed)
            ),
        )


def said(*, labels: tuple[str, ...] = ("zone=eu", "disk=ssd"), gpus: int = 2) -> Report:
    names = tuple(map(str, range(gpus)))
    machine: dict[str, Any] = {"host": "a", "cores": 2.0, "memory_available": 1000, "memory_total": 1000}
    return Report(worker="w@a", pid=1, slots=1, queues=("home",), labels=labels, gpus=names, **machine)


NAMES = {
    "home": False,
    "home@zone=eu": True,
    "home@disk=ssd+zone=eu": True,
    "home@gpus:2+zone=eu": True,
    "home@memory:700": True,
    "home@memory:701": False,
    "home@learned:701": False,
    "home@cpus:2": True,
    "home@cpus:2.001": False,
    "home@memory:700+cpus:1.5+zone=eu": True,
    "home@gpus:3": False,
    "home@zone=us": False,
    "home@cpu=x+zone=eu": False,
    "other@zone=eu": False,
    "home@what": False,
}


def test_what_it_has_is_consumed() -> None:
    """All labels, enough GPUs and memory, and the queue itself: once, and also on a connection made anew."""
    worker = Worker("home")

    consuming.consume(worker, said(), NAMES)
    consuming.consume(worker, said(), NAMES)

    assert worker.added == [name for name, serves in NAMES.items() if serves]
    assert [*worker.app.amqp.queues.consume_from] == ["home", *worker.added]
    assert consuming.own(worker) == ("home",)


def test_without_a_connection_it_is_remembered() -> None:
    """What a worker learns of before it is connected is among the queues that it connects with."""
    worker = Worker("home", connected=False)

    consuming.consume(worker, said(), ["home@zone=eu"])

    assert worker.added == []
    assert [*worker.app.amqp.queues.consume_from] == ["home", "home@zone=eu"]


def test_a_drained_worker_consumes_no_more() -> None:
    """What a worker learns of while it takes no lanes is among the queues that it consumes when it takes them again."""
    worker = Worker("home")
    worker.held["drained"] = ""

    consuming.consume(worker, said(), ["home@zone=eu"])

    assert worker.added == []
    assert [*worker.app.amqp.queues.consume_from] == ["home", "home@zone=eu"]


def test_a_queue_that_is_closed_is_not_consumed() -> None:
    """Nor is one that lanes were sent to for the first time where the machine has no room for them."""
    worker = Worker("home")
    worker.closed["home@zone=eu"] = ""

    consuming.consume(worker, said(), ["home@zone=eu", "home@disk=ssd"])

    assert worker.added == ["home@disk=ssd"]


def test_what_is_asked_for_most_is_consumed_at_once() -> None:
    """Each label, a GPU, and both: a worker that has neither consumes nothing more."""
    some = consuming.likely(said(labels=("zone=eu",), gpus=1))

    assert some == ["home", "home@gpus:1", "home@zone=eu", "home@gpus:1+zone=eu"]
    assert consuming.likely(said(labels=(), gpus=0)) == ["home"]

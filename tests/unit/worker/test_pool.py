"""What a worker's main process knows of its pool."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from egregore_dist import node
from egregore_dist.resources.report import Report
from egregore_dist.wire import registry
from egregore_dist.worker import pool

GIB = 2**30


class _Request:
    def __init__(self, id: str) -> None:
        self.id = id


class _Job:
    def __init__(self, request: str, pid: int) -> None:
        self.correlation_id = request
        self._pid = pid

    def worker_pids(self) -> list[int]:
        return [self._pid]


class _Changing:
    """A set that another thread changes while it is read the first time."""

    def __init__(self, *members: _Request) -> None:
        self._members = members
        self._is_read = False

    def __iter__(self) -> Iterator[_Request]:
        if not self._is_read:
            self._is_read = True
            raise RuntimeError("Set changed size during iteration")
        return iter(self._members)


def test_a_process_that_is_being_started_is_none_yet() -> None:
    """A pool lists a process before it is started; without a pid it is in no report."""
    started = SimpleNamespace(pid=os.getpid())
    prefork = SimpleNamespace(_pool=SimpleNamespace(_pool=[started, SimpleNamespace(pid=None)]))

    assert pool.processes(prefork) == [started]
    assert pool.memory(prefork).keys() == {os.getpid()}


def test_lanes_are_told_while_they_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is made on a thread of its own: it does not fail since the worker takes a message meanwhile."""
    monkeypatch.setattr(state, "active_requests", _Changing(_Request("a"), _Request("b")))
    monkeypatch.setattr(state, "requests", {"b": None, "c": None})

    assert sorted(pool.lanes()) == ["a", "b", "c"]


def test_the_processes_that_run_lanes_are_told() -> None:
    """Those of a prefork pool that live; of threads the worker's own."""
    processes = [SimpleNamespace(pid=pid, is_alive=lambda pid=pid: pid != 3) for pid in (2, 3, 5)]

    assert pool.Children(SimpleNamespace(_pool=SimpleNamespace(_pool=processes))).living() == (2, 5)
    assert pool.Children(SimpleNamespace()).living() == (os.getpid(),)


def test_a_pool_that_was_stopped_is_at_nothing() -> None:
    """Celery lets go of a pool as the worker stops, while its other threads still look."""
    assert pool.busy(SimpleNamespace(_pool=None)) == set()


def test_nothing_is_known_of_a_pool_whose_loop_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has a lane until its end is read; while the main loop waits for the broker, nobody reads."""
    now = time.monotonic()
    job = _Job("a", 5)
    prefork = SimpleNamespace(_pool=SimpleNamespace(_cache={1: job}))
    monkeypatch.setattr(state, "requests", {"a": SimpleNamespace(type="egregore.lane")})

    assert pool.busy(prefork) == {5}
    pool.turned(prefork)
    assert pool.busy(prefork) == {5}
    monkeypatch.setattr(time, "monotonic", lambda: now + 10)
    assert pool.busy(prefork) == set()
    pool.turned(prefork)
    assert pool.busy(prefork) == {5}


@pytest.mark.parametrize(
    ("codes", "starts"),
    [
        ((None, None), True),
        ((None, -9), True),
        ((-9, -15), True),
        # They cannot begin, and those in their place could not.
        ((1, None), False),
        ((1, -9), False),
    ],
)
def test_a_worker_begins_though_its_processes_are_killed(codes: tuple[int | None, ...], starts: bool) -> None:
    """The kernel may end one for memory just then; what ends by itself will do so again."""
    members = [SimpleNamespace(pid=number, exitcode=code) for number, code in enumerate(codes)]
    billiards = SimpleNamespace(_pool=members, _create_worker_process=None)
    prefork = SimpleNamespace(_pool=billiards, did_start_ok=lambda: set(codes) == {None})
    pool.on_start(prefork, lambda _: None)

    assert prefork.did_start_ok() is starts


def test_a_worker_is_weighed_by_what_it_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes that count for it are those of its queues whose labels, GPUs and declared sizes it has."""
    module = ModuleType("flows")

    def light(x: int) -> int:
        return x

    def heavy(x: int) -> int:
        return x

    def drawing(x: int) -> int:
        return x

    def elsewhere(x: int) -> int:
        return x

    module.__dict__.update(
        light=node(light),
        heavy=node(memory="8GB", cpus=4)(heavy),
        drawing=node(gpus=1, labels={"zone": "eu"})(drawing),
        elsewhere=node(queue="other")(elsewhere),
    )
    monkeypatch.setitem(sys.modules, "flows", module)

    def counted(memory: int, **more: Any) -> list[str]:
        values: dict[str, Any] = {"cores": 8.0, "queues": ("home",)}
        said = Report(
            worker="w", host="a", pid=1, slots=8, memory_available=memory, memory_total=memory, **(values | more)
        )
        return [each.rpartition(".")[2] for each in pool.functions(registry.NodeRegistry(["flows"]), said, "home")]

    assert counted(8 * GIB) == ["light"]
    assert counted(16 * GIB) == ["heavy", "light"]
    assert counted(16 * GIB, cores=2.0, labels=("zone=eu",), gpus=("0",)) == ["drawing", "light"]
    assert counted(16 * GIB, queues=("other",)) == ["elsewhere"]

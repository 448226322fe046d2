"""A plain Celery chord over Redis, waited for in the cheapest way there is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import redis
from celery import chord, group

from bench import quiet
from bench.peers import work as functions
from bench.peers.drivers import celery_app
from bench.peers.drivers.children import Children
from bench.peers.drivers.queues import wait_until_empty
from bench.peers.protocol import Setup, Unsupported, Work

_POLL = 0.0005


class Driver:
    """A header task for each branch, and a callback that takes the list of their results."""

    def start(self, setup: Setup) -> None:
        self._children = Children()
        self._server = redis.Redis.from_url(setup.server)
        celery_app.app.conf.update(broker_url=setup.server, result_backend=quiet.backend(setup.server))
        environment = {"CELERY_BROKER_URL": setup.server, "CELERY_RESULT_BACKEND": setup.server}
        for number in range(setup.workers):
            command = [sys.executable, "-m", "celery", "-A", f"{celery_app.__name__}:app", "worker"]
            command += ["--loglevel=WARNING", f"--concurrency={setup.processes}", f"--queues={celery_app.QUEUE}"]
            command += [f"--hostname=plain{number}@localhost", "--without-gossip", "--without-mingle"]
            self._children.spawn(command, environment)
        ready = lambda: len(celery_app.app.control.ping(timeout=0.5) or ()) == setup.workers  # noqa: E731
        self._children.wait_until(ready)
        self.prepare(Work(count=2 * setup.slots))()

    def prepare(self, work: Work) -> Callable[[], object]:
        if work.function in functions.ASYNC:
            raise Unsupported("tasks cannot be async")
        if work.cap is not None:
            raise Unsupported("a chord has no limit of its own")
        if work.kind == "nest":
            return lambda: self._wait(_nested(work.depth, work.fan)())
        task = celery_app.tasks[work.function]
        header = group([task.s(item) for item in work.inputs])
        return lambda: self._wait(chord(header)(celery_app.collect.s()))

    def settle(self) -> None:
        wait_until_empty(self._server, celery_app.QUEUE)

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        self._children.stop()

    def _wait(self, callback: Any) -> object:
        backend: Any = celery_app.app.backend
        key = backend.get_key_for_task(callback.id)
        while (raw := self._server.get(key)) is None:
            time.sleep(_POLL)
        found = backend.decode_result(raw)
        if found["status"] != "SUCCESS":
            raise RuntimeError(f"the chord ended as {found['status']}: {found['result']}")
        return found["result"]


def _nested(depth: int, fan: int) -> Any:
    if depth == 1:
        return chord(group([celery_app.tasks["trivial"].s(1) for _ in range(fan)]), celery_app.collect.s())
    return chord(group([_nested(depth - 1, fan) for _ in range(fan)]), celery_app.collect.s())

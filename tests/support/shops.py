"""Workers of `tests.support.shop`, stock and ours, each behind a network that can be cut."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from tests.support import shop
from tests.support.proxy import Proxy
from tests.support.waiting import until

FINAL = ("SUCCESS", "FAILURE", "REVOKED")


@dataclass(slots=True)
class Shop:
    """A running worker, and its app as whoever sends tasks to it has it."""

    app: Celery
    name: str
    worker: Process
    proxy: Proxy
    counts: redis.Redis[bytes]

    def runs(self, key: str) -> int:
        """How often a task of this key was begun."""
        return int(self.counts.get(f"runs:{key}") or 0)

    def begun(self, key: str, times: int = 1) -> None:
        """Wait until a task of this key was begun."""
        until(lambda: self.runs(key) >= times, what=f"the start of {key}")

    def holds(self, *results: Any) -> None:
        """Wait until the worker has received these tasks, whether they wait, have begun or have ended."""

        def are_held() -> bool:
            held = str(list(self._at_work()))
            return all(result.id in held or result.ready() for result in results)

        until(are_held, what=f"{len(results)} tasks at {self.name}")

    def rests(self) -> None:
        """Wait until the worker has nothing to do, and nothing waits for it."""

        def is_idle() -> bool:
            with self.app.connection_for_read() as connection:
                queue = self.app.amqp.queues[self.name].bind(connection.default_channel)
                _, waiting, _ = queue.queue_declare()
            return not waiting and not any(self._at_work())

        until(is_idle, seconds=60, what=f"rest at {self.name}")

    def _at_work(self) -> Iterator[object]:
        asked = self.app.control.inspect([f"{self.name}@here"], timeout=2.0)
        for tasks in (asked.active(), asked.reserved(), asked.scheduled()):
            # No answer says nothing.
            yield tasks[f"{self.name}@here"] if tasks else "unknown"

    def ends(self, result: Any, seconds: float = 30.0) -> tuple[str, float]:
        """Wait for the end of a task: its state then, and how long that took. One without an end keeps its state."""
        began = time.monotonic()
        while (state := result.state) not in FINAL and time.monotonic() < began + seconds:
            time.sleep(0.02)
        return state, time.monotonic() - began


@contextmanager
def opened(
    folder: Path, *, installed: bool, conf: dict[str, Any] | None = None, broker: str | None = None, name: str = "shop"
) -> Iterator[Shop]:
    """A worker of the app, on a server of its own or, with a ``broker``, on that.

    Args:
        installed: whether this package is installed into the app.
        conf: the app's configuration.
        broker: the URL of a RabbitMQ broker.
        name: of the worker and its queue.
    """
    with ExitStack() as stack:
        server = Server.start(tcp=True)
        stack.callback(server.stop)
        direct = broker or server.tcp_url
        port = int(direct.rpartition("@")[2].partition("/")[0].rpartition(":")[2])
        proxy = stack.enter_context(Proxy(port))
        options = {"backend": server.tcp_url, "queue": name, "conf": conf or {}, "install": installed}
        if broker is None:
            options["transport"] = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            shop.VARIABLE: json.dumps({**options, "broker": proxy.url(direct)}),
            "EGREGORE_LEDGER_URL": server.tcp_url,
        }
        queues = f"{name},egregore-{name}" if installed else name
        env["EGREGORE_QUEUE"] = f"egregore-{name}"
        command = [sys.executable, "-m", "celery", "-A", "tests.support.shop", "worker", "-c2", "-Q", queues]
        worker = Process.spawn([*command, "-n", f"{name}@here"], env=env, log=folder / f"{name}.log")
        stack.callback(worker.stop, 10)
        app = shop.make({**options, "broker": direct, "install": False})
        # Each thread would have connections of its own.
        app.conf.result_backend_thread_safe = True
        stack.callback(app.close)
        counts: Any = stack.enter_context(redis.Redis.from_url(server.tcp_url))
        found = Shop(app, name, worker, proxy, counts)
        here = [f"{name}@here"]
        until(lambda: app.control.ping(here, timeout=0.5) or not worker.alive, seconds=60, what="the worker")
        assert worker.alive, worker.log_tail()
        # Results unsubscribe when they are collected.
        stack.callback(gc.collect)
        yield found

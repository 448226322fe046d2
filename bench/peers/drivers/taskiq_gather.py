"""taskiq over Redis streams: its tasks are sent together, and their results read one after the other."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from bench.peers.drivers.children import Children
from bench.peers.protocol import Setup, Unsupported, Work

_POLL = 0.001
_AT_A_TIME = 50


class Driver:
    """A message for each branch, from one event loop."""

    def start(self, setup: Setup) -> None:
        self._children = Children()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        os.environ["BENCH_PEERS_SERVER"] = setup.server
        name = "bench.peers.drivers.taskiq_app"
        # It reads the server's address when it is loaded.
        self._app: Any = importlib.import_module(name)
        for _ in range(setup.workers):
            command = [sys.executable, "-m", "taskiq", "worker", f"{name}:broker", "--log-level", "WARNING"]
            self._children.spawn([*command, "--workers", str(setup.processes)], {})
        self._wait(self._app.broker.startup())
        self.prepare(Work(function="doze", item=0.02, count=16 * setup.slots))()

    def prepare(self, work: Work) -> Callable[[], object]:
        if work.kind == "nest":
            raise Unsupported("a task cannot take the results of others")
        if work.cap is not None:
            raise Unsupported("tasks that are sent together have no limit of their own")
        task, inputs = self._app.tasks[work.function], work.inputs
        return lambda: self._wait(_gather(task, inputs))

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        self._wait(self._app.broker.shutdown())
        self._children.stop()

    def _wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


async def _gather(task: Any, inputs: list[Any]) -> list[Any]:
    sent: list[Any] = []
    for first in range(0, len(inputs), _AT_A_TIME):
        sent += await asyncio.gather(*[task.kiq(item) for item in inputs[first : first + _AT_A_TIME]])
    found = [await each.wait_result(check_interval=_POLL, timeout=600.0) for each in sent]
    for result in found:
        result.raise_for_error()
    return [result.return_value for result in found]

"""A dramatiq group over Redis, whose results are read one after the other."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from dramatiq import group

from bench.peers.drivers.children import Children
from bench.peers.protocol import Setup, Unsupported, Work

_TIMEOUT = 600_000


class Driver:
    """A message for each branch."""

    def start(self, setup: Setup) -> None:
        self._children = Children()
        os.environ["BENCH_PEERS_SERVER"] = setup.server
        name = "bench.peers.drivers.dramatiq_app"
        # It reads the server's address when it is loaded.
        self._app: Any = importlib.import_module(name)
        for _ in range(setup.workers):
            command = [sys.executable, "-m", "dramatiq", name, "--processes", str(setup.processes)]
            self._children.spawn(command, {})
        self.prepare(Work(function="doze", item=0.02, count=16 * setup.slots))()

    def prepare(self, work: Work) -> Callable[[], object]:
        if work.kind == "nest":
            raise Unsupported("a group has no results that another can take")
        if work.cap is not None:
            raise Unsupported("a group has no limit of its own")
        actor = self._app.actors[work.function]
        inputs = work.inputs

        def call() -> object:
            running = group([actor.message(item) for item in inputs]).run()
            return list(running.get_results(block=True, timeout=_TIMEOUT))

        return call

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        self._children.stop()

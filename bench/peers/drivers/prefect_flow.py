"""A Prefect flow, its tasks run by threads or processes, against a server of its own."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

from bench.peers import work as functions
from bench.peers.drivers.children import HOST, Children, free_port
from bench.peers.protocol import Setup, Work


class Driver:
    """A task for each branch, submitted by a flow."""

    def start(self, setup: Setup) -> None:
        address = f"http://{HOST}:{(port := free_port())}/api"
        os.environ |= {
            "PREFECT_API_URL": address,
            "PREFECT_HOME": os.path.join(setup.folder, "prefect"),
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        self._children = Children()
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-ui"]
        self._children.spawn(command, {})
        self._children.wait_until(lambda: urllib.request.urlopen(f"{address}/health", timeout=2).status == 200)  # noqa: S310
        # It reads the environment when it is loaded.
        import prefect
        from prefect.cache_policies import NO_CACHE
        from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

        runner: Any = {"threads": ThreadPoolTaskRunner, "processes": ProcessPoolTaskRunner}[setup.options["runner"]]
        self._flow: Any = lambda function, slots: prefect.flow(
            function, task_runner=runner(max_workers=slots), validate_parameters=False
        )
        self._tasks = {
            name: prefect.task(function, cache_policy=NO_CACHE) for name, function in functions.FUNCTIONS.items()
        }
        self._collect = prefect.task(functions.collect, cache_policy=NO_CACHE)
        self._slots = setup.slots
        self.prepare(Work(count=setup.slots))()

    def prepare(self, work: Work) -> Callable[[], object]:
        task, inputs = self._tasks[work.function], work.inputs

        def each() -> object:
            return [future.result() for future in [task.submit(item) for item in inputs]]

        def nest() -> object:
            return self._nested(work.depth, work.fan).result()

        each.__name__ = each.__qualname__ = work.function
        return self._flow(nest if work.kind == "nest" else each, min(work.cap or self._slots, self._slots))  # type: ignore[no-any-return]

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        self._children.stop()

    def _nested(self, depth: int, fan: int) -> Any:
        if depth == 0:
            return self._tasks["trivial"].submit(1)
        return self._collect.submit([self._nested(depth - 1, fan) for _ in range(fan)])

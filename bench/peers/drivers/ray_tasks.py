"""Ray: a task for each branch; async ones in async actors."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray

from bench.peers import work as functions
from bench.peers.protocol import Setup, Work

_ASYNC_WIDTH = 1000


class Waiter:
    """An actor that waits for many at a time."""

    async def call(self, name: str, item: Any) -> Any:
        """Run one of the functions."""
        return await functions.FUNCTIONS[name](item)


def _gather(*results: Any) -> list[Any]:
    return functions.collect(list(results))


class Driver:
    """``num_cpus`` as many as there are processes."""

    def start(self, setup: Setup) -> None:
        self._slots = setup.slots
        ray.init(
            num_cpus=setup.slots,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=os.path.join(setup.folder, "ray"),
            _node_ip_address="127.0.0.1",
        )
        self._tasks = {
            name: ray.remote(function) for name, function in functions.FUNCTIONS.items() if name not in functions.ASYNC
        }
        self._collect = ray.remote(_gather)
        ray.get([self._tasks["doze"].remote(0.05) for _ in range(4 * setup.slots)])

    def prepare(self, work: Work) -> Callable[[], object]:
        inputs, cap = work.inputs, work.cap
        if work.function in functions.ASYNC:
            actor = ray.remote(Waiter).options(max_concurrency=_ASYNC_WIDTH, num_cpus=0)
            actors = [actor.remote() for _ in range(self._slots)]
            ray.get([each.call.remote(work.function, 0.0) for each in actors])
            name = work.function
            return lambda: ray.get(
                [each.call.remote(name, item) for each, item in zip(itertools.cycle(actors), inputs, strict=False)]
            )
        if work.kind == "nest":
            return lambda: ray.get(self._nested(work.depth, work.fan))
        task = self._tasks[work.function]
        if work.kind == "share":
            text = work.data

            def share() -> object:
                shared = ray.put(text)
                return ray.get([task.remote(shared) for _ in range(work.count)])

            return share
        if cap is not None:
            return lambda: list(self._window(task, inputs, cap))
        return lambda: ray.get([task.remote(item) for item in inputs])

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        ray.shutdown()

    def _window(self, task: Any, inputs: list[Any], cap: int) -> Iterator[object]:
        """What Ray has no limit for, its client keeps: so many tasks are out at a time."""
        left = iter(inputs)
        out = [task.remote(next(left)) for _ in range(cap)]
        while out:
            (done, *_), out = ray.wait(out, num_returns=1)
            yield ray.get(done)
            out += [task.remote(item) for item in itertools.islice(left, 1)]

    def _nested(self, depth: int, fan: int) -> Any:
        if depth == 0:
            return self._tasks["trivial"].remote(1)
        return self._collect.remote(*[self._nested(depth - 1, fan) for _ in range(fan)])

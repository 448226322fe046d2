"""The original ``egregore``: the same language, in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from egregore.core.workflow import Sequence, node, parallel

from bench.peers import work as functions
from bench.peers.protocol import Setup, Unsupported, Work


class Driver:
    """A ``parallel`` in a ``Sequence``; it has no workers, so that the number of processes says nothing."""

    def start(self, setup: Setup) -> None:
        self.prepare(Work(count=4))()

    def prepare(self, work: Work) -> Callable[[], object]:
        if work.function in functions.ASYNC:
            raise Unsupported("async nodes are never awaited")
        if work.kind == "nest":
            nested = Sequence(_nested(work.depth, work.fan))
            return lambda: nested.run(1)
        function = functions.FUNCTIONS[work.function]
        options = {} if work.cap is None else {"max_concurrent": work.cap}
        if work.items is None:
            branches = [node(f"n{number}")(function) for number in range(work.count)]
        else:
            branches = [node(f"n{number}")(_bound(function, item)) for number, item in enumerate(work.items)]
        flow = Sequence(parallel(*branches, **options))
        data = work.data
        return lambda: flow.run(data)

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        pass


def _bound(function: Callable[..., Any], item: Any) -> Callable[[Any], Any]:
    def call(_data: Any) -> Any:
        return function(item)

    return call


def _nested(depth: int, fan: int) -> Any:
    if depth == 1:
        return parallel(*[node(f"n{number}")(functions.trivial) for number in range(fan)])
    return parallel(*[_nested(depth - 1, fan) for _ in range(fan)])

"""A bare ``ProcessPoolExecutor``: what this machine can do with no broker, no record and no second machine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from bench.peers import work as functions
from bench.peers.protocol import Setup, Unsupported, Work


class Driver:
    """A call for each branch."""

    def start(self, setup: Setup) -> None:
        self._slots = setup.slots
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._pool(self._slots)

    def prepare(self, work: Work) -> Callable[[], object]:
        if work.function in functions.ASYNC:
            raise Unsupported("calls cannot be async")
        if work.kind == "nest":
            raise Unsupported("nothing joins calls")
        function, inputs = functions.FUNCTIONS[work.function], work.inputs
        pool = self._pool(min(work.cap or self._slots, self._slots))
        return lambda: list(pool.map(function, inputs))

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def _pool(self, processes: int) -> ProcessPoolExecutor:
        if processes not in self._pools:
            self._pools[processes] = pool = ProcessPoolExecutor(processes)
            list(pool.map(functions.doze, [0.02] * (4 * processes)))
        return self._pools[processes]

"""This package, on a cluster of its own."""

from __future__ import annotations

from collections.abc import Callable

import redis

from bench.peers import work as functions
from bench.peers.drivers.queues import wait_until_empty
from bench.peers.protocol import Setup, Work
from egregore_dist import LocalCluster, node, parallel
from egregore_dist.workflow.parallel import Parallel


class Driver:
    """Blocks of nodes; ``node.map`` where the inputs differ."""

    def start(self, setup: Setup) -> None:
        self._server = redis.Redis.from_url(setup.server)
        self._cluster = LocalCluster(setup.workers, setup.processes, broker_url=setup.server)
        self._cluster.__enter__()

    def prepare(self, work: Work) -> Callable[[], object]:
        function = functions.FUNCTIONS[work.function]
        if work.kind == "nest":
            nested = _nested(work.depth, work.fan)
            return lambda: nested.run(1)
        if work.items is not None:
            each, items = node("item")(function).map(max_concurrent=work.cap), work.items
            return lambda: each.run(items)
        branches = [node(f"n{number}")(function) for number in range(work.count)]
        block = parallel(*branches, max_concurrent=work.cap)
        data = work.data
        return lambda: block.run(data)

    def settle(self) -> None:
        wait_until_empty(self._server, self._cluster.settings.queue)

    def stop(self) -> None:
        self._cluster.__exit__(None, None, None)


def _nested(depth: int, fan: int) -> Parallel:
    if depth == 1:
        return parallel(*[node(f"n{number}")(functions.trivial) for number in range(fan)])
    return parallel(*[_nested(depth - 1, fan) for _ in range(fan)])

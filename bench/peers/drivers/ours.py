"""This package, on a cluster of its own."""

from __future__ import annotations

from collections.abc import Callable

import redis

from bench.peers import work as functions
from bench.peers.drivers.queues import wait_until_empty
from bench.peers.protocol import Setup, Work
from egregore_dist import LocalCluster, node, parallel
from egregore_dist.client import session
from egregore_dist.ledger import openblocks
from egregore_dist.workflow.parallel import Map, Parallel


class Driver:
    """Blocks of nodes; ``node.map`` where the inputs differ."""

    def start(self, setup: Setup) -> None:
        self._server = redis.Redis.from_url(setup.server)
        self.cluster = LocalCluster(setup.workers, setup.processes, broker_url=setup.server)
        self.cluster.__enter__()

    def prepare(self, work: Work) -> Callable[[], object]:
        step, data = built(work)
        return lambda: step.run(data)

    def settle(self) -> None:
        wait_until_empty(self._server, self.cluster.settings.queue)

    def left(self) -> int:
        blocks = openblocks.look(session.current().ledger).blocks
        return sum(block.waiting + block.running for block in blocks if not block.is_run)

    def stop(self) -> None:
        self.cluster.__exit__(None, None, None)


def built(work: Work) -> tuple[Parallel | Map, object]:
    """The work as a step, and its input."""
    function = functions.FUNCTIONS[work.function]
    if work.kind == "nest":
        return _nested(work.depth, work.fan), 1
    if work.items is not None:
        return node("item", io=work.io)(function).map(max_concurrent=work.cap), work.items
    branches = [node(f"n{number}", io=work.io)(function) for number in range(work.count)]
    return parallel(*branches, max_concurrent=work.cap), work.data


def _nested(depth: int, fan: int) -> Parallel:
    if depth == 1:
        return parallel(*[node(f"n{number}")(functions.trivial) for number in range(fan)])
    return parallel(*[_nested(depth - 1, fan) for _ in range(fan)])

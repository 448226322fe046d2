"""Dask distributed: a scheduler in the client's process, and worker processes of one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client, LocalCluster, as_completed

from bench.peers import work as functions
from bench.peers.protocol import Setup, Work


class Driver:
    """A task for each branch, and their results gathered."""

    def start(self, setup: Setup) -> None:
        self._cluster = LocalCluster(
            n_workers=setup.slots,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            worker_dashboard_address=None,
            local_directory=os.path.join(setup.folder, "dask"),
            silence_logs=50,
        )
        self._client = Client(self._cluster)
        self._client.wait_for_workers(setup.slots)
        self._client.gather(self._client.map(functions.doze, [0.02] * (4 * setup.slots), pure=False))

    def prepare(self, work: Work) -> Callable[[], object]:
        client, function, inputs, cap = self._client, functions.FUNCTIONS[work.function], work.inputs, work.cap
        if work.kind == "nest":
            return lambda: self._nested(work.depth, work.fan).result()
        if work.kind == "share":
            text = work.data

            def share() -> object:
                (shared,) = client.scatter([text], hash=False)
                return client.gather([client.submit(function, shared, pure=False) for _ in range(work.count)])

            return share
        if cap is not None:
            return lambda: list(self._window(function, inputs, cap))
        return lambda: client.gather(client.map(function, inputs, pure=False))

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        return None

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()

    def _window(self, function: Callable[..., Any], inputs: list[Any], cap: int) -> Iterator[object]:
        """What Dask has no limit for, its client keeps: so many tasks are out at a time."""
        left = iter(inputs)
        out = as_completed([self._client.submit(function, next(left), pure=False) for _ in range(cap)])
        for future in out:
            yield future.result()
            for item in left:
                out.add(self._client.submit(function, item, pure=False))
                break

    def _nested(self, depth: int, fan: int) -> Any:
        if depth == 0:
            return self._client.submit(functions.trivial, 1, pure=False)
        return self._client.submit(functions.collect, [self._nested(depth - 1, fan) for _ in range(fan)], pure=False)

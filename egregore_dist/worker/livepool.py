"""A live pool that changes its size: it grows at once, and shrinks by processes that are at nothing."""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic
from typing import Any

from egregore_dist.worker import pool

# Processes that are started in one go: the loop of the worker stands still meanwhile.
_GROWS_BY = 16

# Seconds that a process must have been at nothing: of its last lane it may have something left to publish. And between
# two looks, while there are too many.
_RESTS, _LOOKS_EVERY = 1.5, 0.5


class LivePool:
    """The pool of a worker, and what the worker prefetches for it.

    Its methods are called on the thread of the worker's event loop, which gives processes their tasks.

    Args:
        worker: Celery's worker.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._pool = worker.pool
        self._since: dict[int, float] = {}
        self._size = pool.slots(worker.pool)
        self._looks_again = False

    @property
    def can_change(self) -> bool:
        """Whether there is a loop to do it on: there is with Redis and RabbitMQ."""
        return bool(self._worker.use_eventloop)

    def resize(self, size: int) -> None:
        """Come nearer to a size: what is taken from the queues is limited at once, processes end when they are idle."""
        self._size = size
        if pool.kind(self._pool) != "prefork":
            # Threads beyond it stay, with nothing to do: no more is taken from the queues.
            self._pool.limit = size
            self._pool.executor._max_workers = size
        else:
            self._change()
        self._prefetch(min(size, pool.slots(self._pool)))

    def renew(self, pids: Collection[int]) -> None:
        """End those of these processes that are at nothing; others take their places."""
        for process in self._rested():
            if process.pid in pids:
                self._end(process)

    def _change(self) -> None:
        more, rested = self._size - pool.slots(self._pool), self._rested()
        if more > 0:
            self._pool.grow(min(more, _GROWS_BY))
            self._pool.maintain_pool()
        billiards = self._pool._pool
        for process in rested[: max(0, -more)]:
            # As its own way to shrink, which knows only of tasks whose processes have said that they have begun.
            billiards._processes -= 1
            billiards._putlock.shrink()
            self._end(process)
        if pool.slots(self._pool) > self._size and not self._looks_again:
            self._looks_again = True
            self._worker.timer.call_after(_LOOKS_EVERY, self._look_again)

    def _look_again(self) -> None:
        self._looks_again = False
        self._change()

    def _rested(self) -> list[Any]:
        """The processes that were at nothing whenever it was looked, for a while."""
        now, idle = monotonic(), self._idle()
        self._since = {process.pid: self._since.get(process.pid, now) for process in idle}
        return [process for process in idle if self._since[process.pid] + _RESTS <= now]

    def _idle(self) -> list[Any]:
        billiards = self._pool._pool
        return [
            process
            for process in pool.processes(self._pool)
            if process.inqW_fd not in billiards._busy_workers
            and process not in billiards._waiting_to_start
            and not billiards._worker_active(process)
            and not getattr(process, "_controlled_termination", False)
        ]

    def _end(self, process: Any) -> None:
        # Counted as busy, it is given nothing until it is gone.
        self._pool._pool._busy_workers.add(process.inqW_fd)
        process.terminate_controlled()

    def _prefetch(self, count: int) -> None:
        consumer = self._worker.consumer
        # What a new connection begins with.
        more = count - consumer.initial_prefetch_count
        consumer.initial_prefetch_count = count
        if consumer.qos is not None and more:
            change = consumer.qos.increment_eventually if more > 0 else consumer.qos.decrement_eventually
            change(abs(more))
            consumer.call_soon(self._worker.egregore_intake.renew, consumer)

"""What a worker's main process knows of its pool."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from celery.worker import state

from egregore_dist.resources import fingerprint, needs, report, router
from egregore_dist.resources.report import Report
from egregore_dist.wire.registry import NodeRegistry
from egregore_dist.worker import envelope
from egregore_dist.workflow.nodes import Node

# Seconds after which a main loop that has not turned knows nothing of its processes.
_STANDS_STILL = 5.0

# A process that ended is named for this long, so that every janitor hears of it. Seconds.
_NAMED_FOR = 60.0


class Children:
    """The processes of a pool, and those that ended lately."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._known: set[int] = set()
        self._dead: dict[int, float] = {}

    def dead(self) -> tuple[int, ...]:
        """The processes that ended within the last minute."""
        now, living = time.monotonic(), self._living()
        self._dead.update(dict.fromkeys(self._known - living, now))
        self._known = living
        self._dead = {pid: at for pid, at in self._dead.items() if now - at < _NAMED_FOR and pid not in living}
        return tuple(sorted(self._dead))

    def living(self) -> tuple[int, ...]:
        """The processes that run lanes: of a pool of threads the worker's own."""
        return tuple(sorted(self._living())) or (os.getpid(),)

    def _living(self) -> set[int]:
        return {process.pid for process in processes(self._pool) if process.is_alive()}


def on_start(pool: Any, tell: Callable[[Any], None]) -> None:
    """Call ``tell`` with every process that a prefork pool has, and with every one that it starts from now on.

    A worker ends where processes of its pool have ended as it began. One that was killed, as the kernel does for
    memory, is replaced then, as it is later.
    """
    billiards, did_start = pool._pool, pool.did_start_ok
    pool.did_start_ok = lambda: _were_killed(processes(pool)) or did_start()
    start = billiards._create_worker_process

    def started(index: int) -> Any:
        process = start(index)
        tell(process)
        return process

    # Its own callback belongs to Celery, which sets it late. One that dies at once is in no list of it that others see.
    billiards._create_worker_process = started
    for process in processes(pool):
        tell(process)


def _were_killed(processes: Iterable[Any]) -> bool:
    codes = [code for process in processes if (code := process.exitcode) is not None]
    return bool(codes) and max(codes) < 0


def processes(pool: Any) -> list[Any]:
    """The processes of a prefork pool that have been started; other pools run their lanes in the worker's own."""
    found = getattr(getattr(pool, "_pool", None), "_pool", ())
    # It lists one before it has a pid, and other threads look.
    return [process for process in tuple(found) if getattr(process, "pid", None) is not None]


def turned(pool: Any) -> None:
    """The worker's main loop has come round: it has heard of what its processes have ended."""
    pool.egregore_turned = time.monotonic()


def busy(pool: Any) -> set[int]:
    """The processes of a prefork pool that have a lane: one that they were given, or have begun.

    None while the main loop stands still, as it does until it has reached the broker again, and none of a pool that has
    been stopped.
    """
    found: set[int] = set()
    # The worker's own thread takes it away as it stops.
    billiards = pool._pool
    if billiards is None or time.monotonic() > getattr(pool, "egregore_turned", math.inf) + _STANDS_STILL:
        return found
    for job in _copy(billiards._cache.values()):
        request = state.requests.get(job.correlation_id)
        if request is not None and envelope.is_ours(request.type):
            given = getattr(job, "_write_to", None)
            found.update(job.worker_pids() or ([] if given is None else [given.pid]))
    return found


def lanes() -> tuple[str, ...]:
    """The ids of the tasks that this worker has received and not ended."""
    # A copy of a message takes its place among the requests, and its own leave with it: those at work are named too.
    return tuple({*state.requests, *(request.id for request in _copy(state.active_requests))})


def requests() -> tuple[set[Any], set[Any]]:
    """What this worker has received and not begun, and what is at work."""
    at_work = _copy(state.active_requests)
    return _copy(state.reserved_requests) - at_work, at_work


def _copy(requests: Iterable[Any]) -> set[Any]:
    while True:
        try:
            return set(requests)
        except RuntimeError:
            # It changed meanwhile, on another thread.
            continue


def kind(pool: Any) -> str:
    """The kind of a pool, as its option names it."""
    return kind_of(type(pool))


def kind_of(pool: type[Any]) -> str:
    """The kind of pool that a class makes."""
    return pool.__module__.rpartition(".")[2]


def nodes(registered: NodeRegistry) -> dict[str, str]:
    """Names of the nodes and decisions that a worker serves, in order, with a hash of the code of each."""
    found = {step.name: step.fn for step in registered}
    return {name: fingerprint.of(found[name]) for name in sorted(found)}


def functions(registered: NodeRegistry, said: Report, default_queue: str) -> tuple[str, ...]:
    """References of the functions of those registered nodes whose branches a worker may run, as it says."""
    found = {
        f"m:{step.fn.__module__}:{step.fn.__qualname__}"
        for step in registered
        if isinstance(step, Node) and router.serves(said, _queue(step, default_queue))
    }
    return tuple(sorted(found))


def queues(registered: NodeRegistry, default_queue: str) -> frozenset[str]:
    """The queues of the registered nodes, with what each needs of a worker."""
    return frozenset(_queue(step, default_queue) for step in registered if isinstance(step, Node))


def _queue(value: Node[Any, Any], default_queue: str) -> str:
    asked = value.options
    memory, cpus = needs.declared(asked.memory, asked.cpus)
    base = asked.queue or default_queue
    return needs.queue(base, labels=asked.labels, gpus=asked.gpus or 0, memory=memory, cpus=cpus)


def slots(pool: Any) -> int:
    """How many lanes a pool runs at a time."""
    return int(getattr(pool, "num_processes", 0) or getattr(pool, "limit", 0) or 1)


def memory(pool: Any) -> dict[int, int]:
    """The memory that each of a pool's processes holds, by pid; of a pool of threads that of the worker itself."""
    return report.memory_of([process.pid for process in processes(pool)] or [os.getpid()])


def sends_events(worker: Any) -> bool:
    """Whether a worker sends events of tasks: as it was told when it was started, or since."""
    dispatcher = getattr(getattr(worker, "consumer", None), "event_dispatcher", None)
    if dispatcher is None:
        return bool(getattr(worker, "task_events", False))
    return bool(dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups))


def prefetch(worker: Any) -> int:
    """How many messages a worker takes before they are acknowledged; 0 for no limit, or before it has connected."""
    qos = getattr(getattr(worker, "consumer", None), "qos", None)
    return int(getattr(qos, "value", 0) or 0)

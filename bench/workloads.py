"""What is run: flows of trivial nodes, and a plain Celery app. Both sides' workers import this module."""

from __future__ import annotations

import asyncio

from celery import Celery

from egregore_dist import node, parallel
from egregore_dist.workflow.parallel import Map, Parallel

SLEEP = 1.0


def trivial(_data: object) -> int:
    """The least that a branch can do."""
    return 1


def measure_length(data: list[str] | bytes) -> int:
    """How long the input is; it has to be there for that."""
    return len(data)


async def asleep(_data: object) -> int:
    """Wait for `SLEEP` seconds, as for an answer from elsewhere."""
    await asyncio.sleep(SLEEP)
    return 1


def branches(count: int, *, optimize: bool = True) -> Parallel:
    """A block of ``count`` trivial branches."""
    return parallel(*[node(f"n{i}")(trivial) for i in range(count)], optimization_enabled=optimize)


def readers(count: int) -> Parallel:
    """A block of ``count`` branches that read their input."""
    return parallel(*[node(f"n{i}")(measure_length) for i in range(count)])


def sleepers(count: int) -> Parallel:
    """A block of ``count`` async branches that wait."""
    return parallel(*[node(f"n{i}")(asleep) for i in range(count)])


def mapped() -> Map:
    """A trivial node for each item of a list."""
    return node("item")(trivial).map()


def sleeping() -> Map:
    """An async node that waits for each item of a list, two at a time."""
    return node("item")(asleep).map(max_concurrent=2)


# The plain side. Its server comes from CELERY_BROKER_URL and CELERY_RESULT_BACKEND; all else is Celery's default.
PLAIN_QUEUE = "plain"
plain = Celery("plain", set_as_current=False)
plain.conf.task_default_queue = PLAIN_QUEUE


@plain.task(name="plain.trivial")
def plain_trivial(_data: object) -> int:
    """The least that a task can do."""
    return 1


@plain.task(name="plain.total")
def plain_total(results: list[int]) -> int:
    """The chord's callback."""
    return len(results)

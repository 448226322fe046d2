"""Whether this code is called by a node, and which."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from billiard import process

from egregore_dist.workflow.context import Context

_lock = threading.Lock()
_lanes = 0
_is_pool_process = False

#: What a node knows of where it runs, the position of its branch, and when its run was submitted, server milliseconds.
Here = tuple[Context, int, int]

current: ContextVar[Here | None] = ContextVar("egregore_node", default=None)


def node() -> str | None:
    """The name of the node that this code is called by, or None."""
    here = current.get()
    return None if here is None else here[0].node


@contextmanager
def lane() -> Iterator[None]:
    """Around what a lane does in this process."""
    global _lanes, _is_pool_process
    with _lock:
        if _lanes == 0:
            # It is no daemon while it serves the lane.
            _is_pool_process = process.current_process().daemon
        _lanes += 1
    try:
        yield
    finally:
        with _lock:
            _lanes -= 1


def caller() -> str | None:
    """Which node this code is called by, in words; None where it is called by none.

    A thread that a node has started does not know its node. A process of a prefork pool does one task at a time, so all
    of its threads are a node's while that is a lane; in a worker on threads they may be those of the user's own tasks.
    """
    name = node()
    if name is not None:
        return f"node {name!r}"
    return "a thread of a node" if _lanes and _is_pool_process else None

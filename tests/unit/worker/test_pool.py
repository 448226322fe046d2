"""What a worker's main process knows of its pool."""

from __future__ import annotations

import os
from types import SimpleNamespace

from egregore_dist.worker import pool


def test_a_process_that_is_being_started_is_none_yet() -> None:
    """A pool lists a process before it is started; without a pid it is in no report."""
    started = SimpleNamespace(pid=os.getpid())
    prefork = SimpleNamespace(_pool=SimpleNamespace(_pool=[started, SimpleNamespace(pid=None)]))

    assert pool.processes(prefork) == [started]
    assert pool.memory(prefork).keys() == {os.getpid()}

"""Ends the pool process of a worker that loads this, once, at a chosen point of a lane's way: loaded with ``-m``.

A file named as the point, in the folder that `ARMED` names, arms it; it is gone once the process is.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egregore_dist.ledger import Ledger

#: The folder of the armed points.
ARMED = "EGDTEST_ARMED"
#: Written there when a process ends: the monotonic time.
KILLED = "killed"

#: Before a lane has leased anything; when it has; when it has executed; when the ledger has taken its results.
POINTS = ("before the lease", "after the lease", "before the commit", "after the commit")


def reach(point: str) -> None:
    """End this process here, if that is asked for."""
    folder = Path(os.environ[ARMED])
    try:
        (folder / point).unlink()
    except FileNotFoundError:
        return
    (folder / KILLED).write_text(str(time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)


def _around(name: str, before: str, after: str, applies: Callable[[dict[str, Any]], bool]) -> None:
    inner = getattr(Ledger, name)

    def outer(self: Ledger, *args: Any, **options: Any) -> Any:
        if applies(options):
            reach(before)
        found = inner(self, *args, **options)
        if applies(options):
            reach(after)
        return found

    setattr(Ledger, name, outer)


if ARMED in os.environ:
    _around("enter", "before the lease", "after the lease", lambda _: True)
    _around("begin", "before the lease", "after the lease", lambda _: True)
    _around("serve", "before the commit", "after the commit", lambda options: bool(options.get("commits")))

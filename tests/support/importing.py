"""A module that starts programs as a process of a pool imports it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from egregore_dist import node
from egregore_dist.engine import boards
from tests.support import strays

# The program that submits imports it too.
_IMPORTED = strays.start() if boards.path() is not None else []


@node
def dies(folder: str) -> str:
    """Start programs, write the pids, and end by SIGKILL; the second time, end well."""
    file = Path(folder, "started")
    if file.exists():
        return "again"
    file.write_text(f"{' '.join(map(str, _IMPORTED))}\n{' '.join(map(str, strays.start()))}")
    os.kill(os.getpid(), signal.SIGKILL)
    return "not reached"


def started_in(folder: Path) -> tuple[list[int], list[int]]:
    """The pids of what the module started, and of what the node did."""
    imported, left = ([int(pid) for pid in line.split()] for line in (folder / "started").read_text().splitlines())
    return imported, left

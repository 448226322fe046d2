"""Ends the processes that branches have started whose own process, one of the pool, has died.

They are children of whoever adopts orphans then, and known by a mark (see `engine.leftovers`): programs have it in
their environment, forks of the pool process have mapped a file of that name.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

from egregore_dist.engine import leftovers

# A process that was being forked has its mark a moment later.
_LOOKS = 2


@dataclass(slots=True)
class _Mark:
    text: bytes
    kill_at: float | None = None
    looks: int = _LOOKS


class Orphans:
    """Those that the pool processes of one worker have left."""

    def __init__(self) -> None:
        self._marks: list[_Mark] = []

    def died(self, board: Path) -> None:
        """The pool process with this board has died."""
        self._marks.append(_Mark(leftovers.mark_of(board).encode()))

    def round(self) -> None:
        """Ask what there is to end, and kill it when its grace is over."""
        if not self._marks:
            return
        now = monotonic()
        for mark in self._marks:
            mark.looks -= 1
        for process, mark in self._left():
            mark.looks = _LOOKS
            if mark.kill_at is None:
                mark.kill_at = now + leftovers.GRACE
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL if now >= mark.kill_at else signal.SIGTERM)
        self._marks = [mark for mark in self._marks if mark.looks > 0]

    def _left(self) -> Iterator[tuple[psutil.Process, _Mark]]:
        for pid in psutil.pids():
            with suppress(OSError, psutil.Error):
                process = psutil.Process(pid)
                traits = _traits(process)
                for mark in self._marks:
                    if mark.text in traits:
                        yield process, mark


def _traits(process: psutil.Process) -> bytes:
    if sys.platform != "linux":
        return process.environ().get(leftovers.MARK, "").encode()
    folder = Path(f"/proc/{process.pid}")
    if folder.stat().st_uid != os.geteuid() or process.pid == os.getpid():
        return b""
    return (folder / "environ").read_bytes() + (folder / "maps").read_bytes()

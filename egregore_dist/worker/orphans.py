"""Ends the processes that branches have started whose own process, one of the pool, has died.

They are children of whoever adopts orphans then, and known by their mark (see `engine.marks`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

from egregore_dist.engine import leftovers, marks

# A process that is started while the others are listed is in the next list.
_LOOKS = 2


@dataclass(slots=True)
class _Search:
    """For what the branches of one dead process have left."""

    kill_at: float | None = None
    looks: int = _LOOKS


class Orphans:
    """Those that the pool processes of one worker have left."""

    def __init__(self) -> None:
        self._searches: dict[str, _Search] = {}

    def died(self, board: Path) -> None:
        """The pool process with this board has died."""
        self._searches[marks.of(board)] = _Search()

    def round(self) -> None:
        """Ask what there is to end, and kill it when its grace is over."""
        if not self._searches:
            return
        now = monotonic()
        for search in self._searches.values():
            search.looks -= 1
        for process, search in self._left():
            search.looks = _LOOKS
            if search.kill_at is None:
                search.kill_at = now + leftovers.GRACE
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL if now >= search.kill_at else signal.SIGTERM)
        self._searches = {mark: search for mark, search in self._searches.items() if search.looks > 0}

    def _left(self) -> Iterator[tuple[psutil.Process, _Search]]:
        for pid in psutil.pids():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                search = self._searches.get(marks.read(process))
                # Whoever has adopted a zombie may never reap it.
                if search is not None and process.status() != psutil.STATUS_ZOMBIE:
                    yield process, search

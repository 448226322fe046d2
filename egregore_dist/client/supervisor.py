"""Starts the workers of a local cluster again that have failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

# Seconds between two looks.
_LOOK_EVERY = 1.0
# Seconds until a worker that failed is started again: at first, and at most. Twice as long where it fails again soon.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# One that has run for so many seconds did not fail soon.
_STEADY = 60.0
# Lines of its log that are told.
_TOLD = 5


class Worker(Protocol):
    """What a supervisor has to know of a worker."""

    name: str

    @property
    def has_failed(self) -> bool:
        """Whether it has ended, badly, though nobody asked it to."""

    def revive(self) -> None:
        """Start it anew, if it has failed."""

    def log_tail(self, lines: int) -> str:
        """The last lines of its log."""


@dataclass(slots=True)
class _Pause:
    length: float = _FIRST_PAUSE
    # When it is over, while the worker waits to be started; and since when it has run.
    until: float | None = None
    since: float = 0.0


class Supervisor:
    """Looks after workers on a thread of its own.

    Args:
        workers: whom; more may be added.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._pauses: dict[str, _Pause] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="egregore-supervisor", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more: nothing is started after this."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY):
            self.look()

    def look(self) -> None:
        """Start what has failed, and has paused for long enough."""
        for worker in list(self._workers):
            pause = self._pauses.setdefault(worker.name, _Pause())
            try:
                self._look_at(worker, pause)
            except Exception:
                # Such as a full disk, or too many processes.
                log.exception("worker %s cannot be started again", worker.name, extra={"action": "restart_failed"})
                pause.until = None

    def _look_at(self, worker: Worker, pause: _Pause) -> None:
        now = time.monotonic()
        if not worker.has_failed:
            pause.until = None
        elif pause.until is None:
            if now - pause.since > _STEADY:
                pause.length = _FIRST_PAUSE
            log.warning(
                "worker %s has ended though nobody asked it to, and is started again in %.0f s; its log ends with:\n%s",
                worker.name,
                pause.length,
                worker.log_tail(_TOLD),
                extra={"action": "worker_failed"},
            )
            pause.until = now + pause.length
            pause.length = min(2 * pause.length, _LONGEST_PAUSE)
        elif now >= pause.until:
            worker.revive()
            pause.until, pause.since = None, now

"""Do something a little later on a thread of one's own, unless it is not needed any more by then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Later:
    """What waits to be done in one process; at most one thing under one key."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, key: str, delay: float, action: Callable[[], None]) -> None:
        """Do ``action`` after ``delay`` seconds."""
        with self._changed:
            self._waiting[key] = (time.monotonic() + delay, action)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="egregore-later", daemon=True)
                self._thread.start()
            self._changed.notify()

    def drop(self, key: str) -> None:
        """Do it no more, if it has not begun; this does not wait for it."""
        with self._changed:
            self._waiting.pop(key, None)

    def _run(self) -> None:
        while True:
            action = self._next()
            try:
                action()
            except Exception:
                log.exception("what was to be done later failed", extra={"action": "later_failed"})

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                if not self._waiting:
                    self._changed.wait()
                    continue
                key, (due, action) = min(self._waiting.items(), key=lambda item: item[1][0])
                left = due - time.monotonic()
                if left <= 0:
                    del self._waiting[key]
                    return action
                self._changed.wait(left)

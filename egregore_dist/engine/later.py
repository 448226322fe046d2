"""Do something a little later on a thread of one's own, unless it is not needed any more by then."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush

log = logging.getLogger(__name__)

# Seconds for which the thread stays with nothing to do: a program may make many of these, one after another.
_STAYS = 10.0
# Seconds that who flushes waits at most, where a server does not answer.
_FLUSHES = 10.0


class Later:
    """What waits to be done in one process; at most one thing under one key."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, Callable[[], object]]] = {}
        # By when each is due. What was dropped, or put off, stays here until then: its number is no key's any more.
        self._due: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None

    def put(self, key: str, delay: float, action: Callable[[], object]) -> None:
        """Do ``action`` after ``delay`` seconds."""
        with self._changed:
            number = next(self._numbers)
            self._waiting[key] = (number, action)
            heappush(self._due, (time.monotonic() + delay, number, key))
            if self._thread is None:
                self._start()
            # All: who flushes may wait here too.
            self._changed.notify_all()

    def drop(self, key: str) -> None:
        """Do it no more, if it has not begun; this does not wait for it."""
        with self._changed:
            self._waiting.pop(key, None)

    def flush(self, seconds: float = _FLUSHES) -> None:
        """Do now, on this thread, what still waits, but for what has not begun after so many ``seconds``."""
        until = time.monotonic() + seconds
        with self._changed:
            waiting, self._waiting = self._waiting, {}
            self._due.clear()
        while waiting and time.monotonic() < until:
            _, action = waiting.pop(next(iter(waiting)))
            _do(action)
        if waiting:
            log.warning("%d things that were put off are not done: the others took too long", len(waiting))
        # What the other thread has begun is waited for too.
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="egregore-later", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The process has too many, or ends: it waits until more is put, or for who flushes.
            log.warning("no thread can be started (%s): what was put off waits", error)
        else:
            self._thread = thread

    def _run(self) -> None:
        while (action := self._next()) is not None:
            _do(action)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while True:
                if not self._due:
                    if not self._changed.wait(_STAYS) and not self._due:
                        self._thread = None
                        return None
                    continue
                due, number, key = self._due[0]
                left = due - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                heappop(self._due)
                found = self._waiting.get(key)
                if found is not None and found[0] == number:
                    del self._waiting[key]
                    self._busy = True
                    return found[1]


def _do(action: Callable[[], object]) -> None:
    try:
        action()
    except Exception:
        log.exception("what was to be done later failed", extra={"action": "later_failed"})

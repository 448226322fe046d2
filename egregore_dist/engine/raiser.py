"""Attend to branches that threads of this process execute: a softer stop than that of a process.

Python raises an exception in another thread between two of its instructions. So this stops what computes or waits in
Python, not what blocks in the system or in C, and nothing harder is left: a thread cannot be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic, sleep

from egregore_dist.engine.interrupt import ATTEND_EVERY, Interrupt

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.1


@dataclass(slots=True, eq=False)
class _Body:
    attend: Callable[[], bool]
    asked: float
    until: float = math.inf
    limit: float = math.inf
    fired: bool = False


def _send(ident: int) -> None:
    """Have the thread raise `Interrupt` soon. One that it has not raised yet is the same."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Interrupt))


def _receive() -> None:
    """Raise `Interrupt`, sent now or before."""
    # In a function of its own: what comes at the end of a loop is not always caught around that loop, by CPython.
    _send(threading.get_ident())
    while True:
        monotonic()


class Raiser:
    """What `Interrupter` is to a process's main thread, for the threads of a pool."""

    usable = True
    # Of alarms it has none.
    is_stray = False

    def __init__(self) -> None:
        self._bodies: dict[int, _Body] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def guard(self, seconds: float | None, attend: Callable[[], bool]) -> Iterator[None]:
        """As `Interrupter.guard`, for the thread that calls it."""
        self.prepare()
        try:
            self._begin(attend, seconds)
            yield
        finally:
            self.leave()

    @contextlib.contextmanager
    def limit(self, seconds: float | None, ended: Callable[[], None] = lambda: None) -> Iterator[None]:
        """As `Interrupter.limit`."""
        body = self._bodies.get(threading.get_ident())
        if seconds is None or body is None:
            yield
            return
        body.fired, body.limit = False, monotonic() + seconds
        try:
            yield
        finally:
            try:
                ended()
                with self._lock:
                    body.limit = math.inf
                    self._settle(body)
            finally:
                # What was sent may have come on the way.
                body.limit, body.fired = math.inf, False

    def prepare(self) -> None:
        """As `Interrupter.prepare`."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="egregore-attend", daemon=True)
                self._thread.start()

    def enter(self, attend: Callable[[], bool]) -> None:
        """As `Interrupter.enter`."""
        self._begin(attend, None)

    def leave(self) -> None:
        """As `Interrupter.leave`."""
        # The exception may be raised in here too, and leave a body behind: it has fired then, and does not again.
        with self._lock:
            body = self._bodies.pop(threading.get_ident(), None)
            if body is not None:
                self._settle(body)

    def hurry(self, ident: int | None) -> None:
        """Stop what the thread is at as soon as can be."""
        body = self._bodies.get(ident or 0)
        if body is not None:
            body.until = 0.0

    def _begin(self, attend: Callable[[], bool], seconds: float | None) -> None:
        now = monotonic()
        body = _Body(attend, now, math.inf if seconds is None else now + seconds)
        with self._lock:
            self._bodies[threading.get_ident()] = body

    @staticmethod
    def _settle(body: _Body) -> None:
        # What was sent and has not come yet must not come to what this thread does next. It is made to come here:
        # CPython 3.11, told to forget it, goes on to look for it, and for ever where a debugger traces.
        if not body.fired:
            return
        with contextlib.suppress(Interrupt):
            _receive()

    def _fire(self, ident: int, body: _Body, limit: float) -> None:
        with self._lock:
            # Not for a limit that is over by now.
            if self._bodies.get(ident) is body and not body.fired and body.limit == limit:
                body.fired = True
                _send(ident)

    def _run(self) -> None:
        while True:
            sleep(_LOOK_EVERY)
            for ident, body in list(self._bodies.items()):
                limit = body.limit
                if not body.fired and self._must_stop(body):
                    self._fire(ident, body, limit)

    @staticmethod
    def _must_stop(body: _Body) -> bool:
        now = monotonic()
        if now >= min(body.until, body.limit):
            return True
        if now - body.asked < ATTEND_EVERY:
            return False
        body.asked = now
        try:
            return body.attend()
        except Exception as error:
            log.warning("a long node was not attended to: %s", error, extra={"action": "attend_failed"})
            return False

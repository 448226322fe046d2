"""Stop a node that runs in this process: at a time, or when its block has ended elsewhere.

Only the main thread of a process can be interrupted, so this is for prefork workers; elsewhere nothing is raised.
It is a soft stop: the exception passes through ``finally`` blocks, and waits while C code holds the thread.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_WATCH_EVERY = 0.5


class Interrupt(BaseException):
    """Raised inside a node to stop it. Not an Exception, so that ``except Exception`` in a node does not swallow it."""


class Interrupter:
    """Guards the main thread of one process."""

    def __init__(self) -> None:
        self._guarded: Callable[[], bool] | None = None
        self._fired = False
        self._watching = threading.Condition()
        self._thread: threading.Thread | None = None
        self._usable = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        if self._usable:
            signal.signal(signal.SIGALRM, self._on_alarm)

    @contextlib.contextmanager
    def guard(self, seconds: float | None, has_ended: Callable[[], bool] | None) -> Iterator[None]:
        """Raise `Interrupt` in the body after ``seconds``, or soon after ``has_ended()``, asked off the thread, is true."""
        if not self._usable or threading.current_thread() is not threading.main_thread():
            yield
            return
        if has_ended is not None:
            self._start_watching()
        self._fired = False
        self._guarded = has_ended or _never
        try:
            if seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
            yield
        finally:
            self._guarded = None
            if seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        if self._guarded is not None and not self._fired:
            self._fired = True
            raise Interrupt

    def _start_watching(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="egregore-interrupt", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        before = None
        while True:
            with self._watching:
                self._watching.wait(_WATCH_EVERY)
            guarded = self._guarded
            # A node that is younger than one round is not worth a question.
            if guarded is not None and guarded is before and guarded is not _never:
                with contextlib.suppress(Exception):
                    if guarded() and self._guarded is guarded:
                        signal.pthread_kill(main, signal.SIGALRM)
            before = guarded


def _never() -> bool:
    return False

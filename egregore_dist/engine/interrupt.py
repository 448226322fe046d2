"""Attend to a branch that this process executes: stop it at a time, or when it is not this lane's business any more.

Only the main thread of a process can be interrupted so: in a prefork worker; for threads see `raiser`. It is a soft
stop: the exception passes through ``finally`` blocks, and waits while C code holds the thread.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

log = logging.getLogger(__name__)

ATTEND_EVERY = 0.5

# The clock that alarms go by is not the one that they are told by here.
_EARLY = 0.005


class Interrupt(BaseException):
    """Raised inside a node to stop it. Not an Exception, so that ``except Exception`` in a node does not swallow it."""


class Interrupter:
    """Guards the main thread of one process.

    Attributes:
        usable: whether the thread that made it, the one that executes lanes, can be interrupted.
        is_stray: whether an alarm interrupted the guarded body that was not set here, but by its worker or by itself.
    """

    def __init__(self) -> None:
        self.usable = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        self._attend: Callable[[], bool] | None = None
        self._until: float | None = None
        self._due: float | None = None
        self._stops = False
        self._is_guarded = False
        self.is_stray = False
        self._fired = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def guard(self, seconds: float | None, attend: Callable[[], bool]) -> Iterator[None]:
        """Raise `Interrupt` in the body after ``seconds``, or once ``attend`` says so.

        Args:
            attend: called off the thread, every half second of a body that takes longer; true stops the body.
        """
        if not self._is_here():
            yield
            return
        # Anew each time: a node may have had its own use for the alarm.
        self._set_handler()
        self._start_attending()
        self._fired = self._stops = self.is_stray = False
        self._until = None if seconds is None else time.monotonic() + seconds
        self._is_guarded = True
        self._attend = attend
        try:
            if seconds is not None:
                self._set_alarm(seconds)
            yield
        finally:
            # Under the lock no signal is on its way.
            with self._lock:
                self._attend = None
            self._set_alarm(None)

    @contextlib.contextmanager
    def limit(self, seconds: float | None, ended: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Inside of a guarded body, raise `Interrupt` after ``seconds`` too; after such a one ``ended`` is called."""
        if seconds is None or not self._is_here():
            yield
            return
        left = None if self._until is None else self._until - time.monotonic()
        self._fired = False
        try:
            self._set_alarm(seconds if left is None else min(seconds, left))
            yield
        finally:
            ended()
            self._fired = False
            self._set_alarm(None if self._until is None else self._until - time.monotonic())

    def prepare(self) -> None:
        """Before `enter` is called, some or many times."""
        if self._is_here():
            self._set_handler()
            self._start_attending()

    def enter(self, attend: Callable[[], bool]) -> None:
        """Until `leave`, raise `Interrupt` once ``attend`` says so; it has to see itself how long that takes."""
        if self.usable:
            self._fired = self._stops = self._is_guarded = False
            self._attend = attend

    def leave(self) -> None:
        """What was entered has ended."""
        if self.usable:
            with self._lock:
                self._attend = None

    def _is_here(self) -> bool:
        return self.usable and threading.current_thread() is threading.main_thread()

    def _set_handler(self) -> None:
        # What `signal.signal` calls; it looks for enums before and after, which takes 4 microseconds a branch.
        _signal.signal(signal.SIGALRM, self._on_alarm)

    def _set_alarm(self, seconds: float | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, 1e-6))
        # Only now: the one before may have come meanwhile.
        self._due = None if seconds is None else time.monotonic() + seconds

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        if self._attend is None or self._fired:
            return
        is_expected = self._stops or (self._due is not None and time.monotonic() >= self._due - _EARLY)
        if is_expected or self._is_guarded:
            self._fired, self.is_stray = True, not is_expected
            raise Interrupt

    def _start_attending(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="egregore-attend", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        before = None
        while True:
            time.sleep(ATTEND_EVERY)
            attend = self._attend
            # A body that is younger than one round is left alone.
            if attend is not None and attend is before:
                try:
                    stops = attend()
                except Exception as error:
                    log.warning("a long node was not attended to: %s", error, extra={"action": "attend_failed"})
                else:
                    with self._lock:
                        if stops and self._attend is attend:
                            self._stops = True
                            signal.pthread_kill(main, signal.SIGALRM)
            before = attend

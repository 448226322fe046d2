"""A fork leaves no lock behind that nobody will release."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, shared_task, signals
from kombu.utils.objects import cached_property

from egregore_dist.engine import forking

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

_computing, _go_on = threading.Event(), threading.Event()


class Slow:
    """The first object's property takes its time."""

    @cached_property  # type: ignore[untyped-decorator]
    def value(self) -> int:
        if not _computing.is_set():
            _computing.set()
            _go_on.wait(30)
        return 5


def ends_well(pid: int, within: float = 10.0) -> bool:
    """Whether a child ends with 0 in time; it is gone afterwards."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def test_a_property_that_another_thread_computes_at_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy computes it itself, and does not wait for a thread that it does not have."""
    forking.install()
    # A module that came after the last fork.
    late = types.ModuleType("late")
    late.Slow = Slow  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "late", late)
    thread = threading.Thread(target=lambda: Slow().value)
    thread.start()
    assert _computing.wait(10)
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if Slow().value == 5 else 1)
        assert ends_well(pid)
    finally:
        _go_on.set()
        thread.join()


def forked_while_held(lock: Any, what: Callable[[], object]) -> bool:
    """Whether a process that was forked while another thread held the lock gets it done."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                what()
            except BaseException:
                os._exit(1)
            os._exit(0)
        return ends_well(pid)
    finally:
        go_on.set()
        thread.join()


def some(**_: object) -> None:
    """A task, or a receiver."""


def test_an_app_that_another_thread_finalizes_at_a_fork() -> None:
    """A module with a shared task, which is for all apps, can be imported in the copy."""
    forking.install()
    app = Celery("some", set_as_current=False)
    app.finalize()

    assert forked_while_held(app._finalize_mutex, lambda: shared_task(some))


def test_a_signal_that_another_thread_connects_at_a_fork() -> None:
    """Nodes may connect to Celery's signals in the copy."""
    forking.install()

    assert forked_while_held(signals.task_prerun.lock, lambda: signals.task_prerun.connect(some))

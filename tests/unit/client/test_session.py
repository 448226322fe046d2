"""The connection of a program to a cluster."""

from __future__ import annotations

import atexit
import subprocess
import sys

import pytest

from egregore_dist import connect, errors
from egregore_dist.client import session
from egregore_dist.engine import installed
from egregore_dist.settings import load

FORK = """
import os, signal, threading
from egregore_dist.client import session

held = threading.Event()

def hold():
    with session._lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    session.use(None)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)
"""


def test_a_program_may_fork_while_a_thread_connects() -> None:
    """The copy has no such thread, and does not wait for it."""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=60, check=False).returncode == 0


def test_nothing_is_left_of_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may try to connect as often as it likes."""
    begun: list[object] = []
    monkeypatch.setattr(atexit, "register", begun.append)
    monkeypatch.setattr(atexit, "unregister", begun.remove)

    with pytest.raises(errors.BrokerUnavailable):
        connect("redis://127.0.0.1:1/0")

    assert begun == []


@pytest.mark.parametrize("configured", [None, "redis://configured:6379/0"])
def test_what_is_configured_comes_before_the_app(monkeypatch: pytest.MonkeyPatch, configured: str | None) -> None:
    """A program submits to the broker of the app that it has installed into, unless the environment names one."""
    monkeypatch.setattr(installed, "_settings", load(broker_url="redis://app:6379/0", queue="theirs"))
    if configured is not None:
        monkeypatch.setenv("EGREGORE_BROKER_URL", configured)
    before = session.use(None)
    try:
        current = session.current()
        assert current.app.conf.broker_url == (configured or "redis://app:6379/0")
        assert current.settings.queue == ("egregore" if configured else "theirs")
        current.close()
    finally:
        session.use(before)

"""The connection of a program to a cluster."""

from __future__ import annotations

import atexit
import subprocess
import sys

import pytest

from egregore_dist import connect, errors

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

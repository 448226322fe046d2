"""Programs that are hard to find again when the process that started them has died."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable

import psutil

# The shell ends at once, and closes what the program would share with it.
_IN_THE_BACKGROUND = ["sh", "-c", "sleep 3600 <&- >&- 2>&- & echo $!"]


def start() -> list[int]:
    """Start programs: an ordinary one, and others without an environment, as children and as daemons, in two sessions.

    Returns:
        Their pids.
    """
    pids = [subprocess.Popen(["sleep", "3600"]).pid]
    for apart in (False, True):
        pids.append(subprocess.Popen(["sleep", "3600"], env={}, start_new_session=apart).pid)
        shell = subprocess.run(
            _IN_THE_BACKGROUND, env={}, start_new_session=apart, stdout=subprocess.PIPE, text=True, check=True
        )
        pids.append(int(shell.stdout))
    return pids


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(pids: Iterable[int]) -> None:
    """End those that have not ended."""
    for pid in filter(runs, pids):
        os.kill(pid, signal.SIGKILL)

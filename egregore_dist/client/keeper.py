"""Keeps one command from outliving the program that started it; run by path, with the standard library only.

    python -I keeper.py [--grace SECONDS] [--remove DIRECTORY]... -- COMMAND...

The command runs in a session of its own, its output goes to the keeper's standard error, and its pid is the first
line on the keeper's standard output. It is stopped when the keeper's standard input reaches its end (whoever holds the
other end died, even by SIGKILL) and on SIGTERM: first SIGTERM to its process group, after the grace SIGKILL. When the
command ends by itself, what it left running is stopped the same way. The keeper exits with the command's code,
128 + N after signal N.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36


class Keeper:
    """One command and all that it started.

    Args:
        command: what to run.
        grace: seconds between SIGTERM and SIGKILL.
        remove: directories that go when the parent died.
    """

    def __init__(self, command: Sequence[str], *, grace: float, remove: Sequence[Path]) -> None:
        self._command = command
        self._grace = grace
        self._remove = remove
        self._parent = os.getppid()
        self._orphaned = False
        self._stopping = False
        self._pid = 0
        self._code: int | None = None

    def run(self) -> int:
        """Run the command to its end; return its code."""
        wakeup = self._listen()
        _adopt_orphans()
        try:
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                start_new_session=True,
                close_fds=False,  # what the parent passed on (a lock) belongs to the command too
            )
        except OSError as error:
            print(f"cannot start {self._command[0]}: {error}", file=sys.stderr)
            return 127
        self._pid = child.pid
        try:
            os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
        except OSError:
            # Nobody reads it any more: whoever asked for the command has gone meanwhile.
            self._orphaned = True
        self._watch(wakeup)
        child.returncode = self._code
        for directory in self._remove if self._orphaned else ():
            _remove_tree(directory)
        assert self._code is not None
        return self._code

    def _listen(self) -> int:
        """Turn signals into bytes on a pipe; return its reading end."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        # Python handlers, not SIG_IGN: the command must not inherit an ignored signal.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        # The mask comes from the thread that started the keeper and may hide any of them.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        return reading

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _watch(self, wakeup: int) -> None:
        """Return once the command and everything it left running are gone."""
        deadline: float | None = None
        stdin = sys.stdin.fileno()
        watched = [stdin, wakeup]
        while not self._reap():
            # A process that the parent forked may hold the pipe open after the parent's death: look at the parent too.
            if not self._orphaned and os.getppid() != self._parent:
                self._orphaned = True
            if (self._orphaned or self._stopping or self._code is not None) and deadline is None:
                deadline = time.monotonic() + self._grace
                self._signal_all(signal.SIGTERM)
            elif deadline is not None and time.monotonic() >= deadline:
                self._signal_all(signal.SIGKILL)
            ready, _, _ = select.select(watched, [], [], 1.0 if deadline is None else 0.02)
            if wakeup in ready:
                os.read(wakeup, 4096)
            if stdin in ready and not os.read(stdin, 4096):
                watched.remove(stdin)
                self._orphaned = True

    def _reap(self) -> bool:
        """Collect what has died; whether nothing is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return False
                if pid == self._pid:
                    code = os.waitstatus_to_exitcode(status)
                    self._code = code if code >= 0 else 128 - code
        except ChildProcessError:
            return not _group_exists(self._pid)

    def _signal_all(self, number: int) -> None:
        if _group_exists(self._pid):
            os.killpg(self._pid, number)
        for pid in _children():
            if pid != self._pid:
                os.kill(pid, number)  # ours until reaped, so the pid cannot be another's


def _adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, where the system can: so they are found and reaped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _remove_tree(directory: Path) -> None:
    """Remove it, though other processes of the dead parent may write there for a moment yet."""
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep the command that ``arguments`` name (default: the command line); return its exit code."""
    parser = argparse.ArgumentParser(description="Run a command that ends with the program that started it.")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--remove", type=Path, action="append", default=[], help="goes when the parent died")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    return Keeper(options.command, grace=options.grace, remove=options.remove).run()


if __name__ == "__main__":
    sys.exit(main())

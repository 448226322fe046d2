"""A process that ends with this one, whatever ends this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from egregore_dist import errors

KEEPER = Path(__file__).with_name("keeper.py")
#: Seconds that the keeper itself needs beyond its grace, on a busy machine.
MARGIN = 10.0
#: Bytes at the end of a log that are looked at for its last lines.
TAIL_BYTES = 65536


class Process:
    """A command under a keeper: it and its children end when this process ends, stops it, or drops this handle.

    Everything here may be called from any thread. In a forked copy of this process, `stop` and `kill` do nothing: the
    command belongs to the original.
    """

    def __init__(self, keeper: subprocess.Popen[bytes], *, pid: int, log: Path, grace: float) -> None:
        self._keeper = keeper
        self._owner = os.getpid()
        self._grace = grace
        self.pid = pid
        self.log = log

    @classmethod
    def spawn(
        cls,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
        grace: float = 5.0,
        pass_fds: Sequence[int] = (),
        remove: Sequence[Path] = (),
    ) -> Process:
        """Start a command.

        Args:
            args: the command and its arguments; never a secret, as others can read them.
            env: its whole environment.
            log: the file its output is appended to; created readable by its owner only.
            cwd: its working directory; default: this one's.
            grace: seconds between SIGTERM and SIGKILL when this process has gone, or the command left children.
            pass_fds: descriptors that the command inherits.
            remove: directories that go once this process has died and the command has ended.

        Raises:
            ConfigurationError: it cannot be started.
        """
        options = ["--grace", str(grace), *(f"--remove={directory.absolute()}" for directory in remove)]
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            keeper = subprocess.Popen(
                [sys.executable, "-I", str(KEEPER), *options, "--", *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(env),
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,  # Ctrl-C in a terminal is for the program, which then stops what it started
            )
        finally:
            os.close(output)
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            with keeper.stdout as announced:
                line = announced.readline()
        except BaseException:
            keeper.stdin.close()
            keeper.wait()
            raise
        if not line:
            keeper.stdin.close()
            keeper.wait()
            raise errors.ConfigurationError(f"{args[0]} did not start: {_tail(log, 3) or 'its log is empty'}")
        return cls(keeper, pid=int(line), log=log, grace=grace)

    @property
    def returncode(self) -> int | None:
        """The command's exit code, -N when signal N ended it, None while it or a child of it runs."""
        code = self._keeper.poll()
        return -(code - 128) if code is not None and 128 < code <= 128 + signal.NSIG else code

    @property
    def alive(self) -> bool:
        """Whether the command, or something it started, still runs."""
        if self._keeper.poll() is None:
            return True
        self._release()
        return False

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code.

        Args:
            timeout: the most seconds to wait; default: no limit.

        Raises:
            TimeoutError: it was still running then.
        """
        try:
            self._keeper.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} was still running after {timeout} s") from None
        self._release()
        code = self.returncode
        assert code is not None
        return code

    def stop(self, timeout: float = 5.0) -> None:
        """End it gently: `terminate`, and `kill` what is left after ``timeout`` seconds."""
        if os.getpid() != self._owner:
            return
        if self.alive:
            self.terminate()
            with contextlib.suppress(TimeoutError):
                self.wait(timeout)
        self.kill()

    def terminate(self) -> None:
        """Ask it to end, without waiting: SIGTERM to the command alone, so that it can see to its own children."""
        if os.getpid() == self._owner and self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the command and its children at once, by SIGKILL to all of them, and wait until they are gone."""
        if os.getpid() != self._owner:
            return
        # A code below 0 is the keeper's own: somebody killed it, and the command may live on.
        if self.alive or self._keeper.returncode < 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.wait(self._grace + MARGIN)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that it wrote."""
        return _tail(self.log, lines)

    def _release(self) -> None:
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()

    def __repr__(self) -> str:
        return f"<Process pid={self.pid} {'running' if self.alive else f'ended with {self.returncode}'}>"


def _tail(log: Path, lines: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])

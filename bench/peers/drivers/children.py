"""Processes that a driver starts besides itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

HOST = "127.0.0.1"
READY = 60.0


class Children:
    """Some processes, stopped together. Their output is the driver's own."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start one; secrets belong into the environment."""
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._running.append(process)

    def wait_until(self, ready: Callable[[], object]) -> None:
        """Wait until ``ready`` answers with something, while all of them run; it may raise an `OSError` until then."""
        limit = time.monotonic() + READY
        while True:
            try:
                if ready():
                    return
            except OSError:
                pass
            if any(process.poll() is not None for process in self._running):
                raise RuntimeError("a process of the cluster ended while it started; its log says why")
            if time.monotonic() > limit:
                raise TimeoutError(f"the cluster was not ready after {READY:.0f} s")
            time.sleep(0.05)

    def stop(self, timeout: float = 3.0) -> None:
        """Ask them to end, and kill those that do not with all that they have started."""
        for process in self._running:
            process.terminate()
        limit = time.monotonic() + timeout
        for process in self._running:
            try:
                process.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port

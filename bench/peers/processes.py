"""The processes that the harness starts: found again, whoever has started what, and ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parents[2]
MARK = "BENCH_PEERS_MARK"
_STOP = 20.0
_KILL = 5.0


class DriverFailed(Exception):
    """The driver's process ended, or said nothing in time."""


class DriverProcess:
    """A peer's process, and the conversation with it.

    Args:
        python: the interpreter of the peer's environment.
        driver: the driver's module.
        mark: found in the environment of all that it starts.
        folder: where its temporary files go.
    """

    def __init__(self, python: Path, driver: str, *, mark: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [python, "-m", "bench.peers.serve", driver],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), MARK: mark},
                cwd=ROOT,
                start_new_session=True,  # Ctrl-C is for the harness, which then stops it
            )
        self.pid = self._process.pid
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def ask(self, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            DriverFailed: there was none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise DriverFailed(f"no answer within {timeout:.0f} s") from None
        except OSError:
            line = b""
        if not line:
            raise DriverFailed("its process ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def tail(self, lines: int = 8) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, *, patience: float = _STOP) -> None:
        """Ask it to stop, and see that it does."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.write(b'{"do": "stop"}\n')
                self._process.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._process.send_signal(number)
            try:
                self._process.wait(patience)
                return
            except subprocess.TimeoutExpired:
                patience = _KILL

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(b"")


def marked(mark: str) -> Iterator[psutil.Process]:
    """Every process that has the mark in its environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                yield process


def sweep(mark: str) -> list[str]:
    """Kill what is left of all that was started with the mark; the names of what there was."""
    left = list(marked(mark))
    names = []
    for process in left:
        with suppress(psutil.Error):
            names.append(process.name())
            process.kill()
    psutil.wait_procs(left, timeout=_KILL)
    return names


def background(command: Sequence[str], *, mark: str) -> subprocess.Popen[str]:
    """A process that ends when its standard input does."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), MARK: mark},
        cwd=ROOT,
        text=True,
        start_new_session=True,
    )

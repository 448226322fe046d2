"""Worker nodes of pytest-celery's cluster API that are plain processes: what drives containers drives them too.

A `ProcessContainer` has the methods that a `CeleryTestNode` calls on what it wraps, with a container's meaning: SIGKILL
ends all of it at once, other signals go to the main process, a restart stops it as ``docker restart`` does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_celery import CeleryTestCluster, CeleryTestNode

from egregore_dist.client.processes import TAIL_BYTES
from egregore_dist.ledger import Ledger
from tests.support.waiting import until

#: Every process of a test inherits it, and is found by it.
MARK = "EGDTEST_CLUSTER"

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_STARTS_WITHIN = 60.0


class ProcessContainer:
    """A worker as a process group of its own.

    Args:
        name: the worker's name; it reports as ``<name>@node``.
        env: its whole environment.
        ledger: where it reports.
        options: of ``egregore-dist worker``.
        before: what runs the command, such as ``("faketime", "-f", "+2m")``.
        hooks: of `tests.support.inside`, as ``name=argument``.
        log: the file that it writes to.
    """

    def __init__(
        self,
        name: str,
        *,
        env: Mapping[str, str],
        ledger: Ledger,
        log: Path,
        options: Sequence[str] = (),
        before: Sequence[str] = (),
        hooks: Sequence[str] = (),
    ) -> None:
        self.id = uuid.uuid4().hex
        self.name = f"{name}@node"
        self.log = log
        self.returncodes: list[int] = []
        self._asked = False
        self._env = dict(env)
        self._ledger = ledger
        module = ["tests.support.inside", *hooks, "--"] if hooks else ["egregore_dist"]
        self._command = [*before, sys.executable, "-m", *module, "worker", "--name", self.name, *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        """Its main process, and its process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> str:
        """``running`` or ``exited``, as Docker says it."""
        return "running" if self._process is not None and self._process.poll() is None else "exited"

    @property
    def is_at_work(self) -> bool:
        """Whether it runs, and nobody has asked it to end."""
        return self.status == "running" and not self._asked

    @property
    def died(self) -> str | None:
        """How it ended, where nobody has asked it to."""
        if self.status == "running" or self._asked:
            return None
        assert self._process is not None
        return f"{self.name} ended with {self._process.returncode}:\n{self.logs()[-2000:]}"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Nothing: a worker of ours is configured by its environment."""
        return {}

    def start(self) -> None:
        """Start it, without waiting."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
                # No keeper: what a worker leaves behind is among what is tested. It ends with the tests all the same.
                preexec_fn=_end_with_parent,
            )
        self._asked = False

    def ready(self) -> bool:
        """Wait until it has reported."""
        until(
            lambda: self.name in self._ledger.reports() or self.status == "exited",
            seconds=_STARTS_WITHIN,
            what=f"the first report of {self.name}",
        )
        assert self.status == "running", self.died
        return True

    def logs(self) -> str:
        """The end of its log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send it a signal."""
        number = _number(signal)
        self._asked = True
        if number == _number("SIGKILL"):
            self._kill_group()
        elif self.status == "running":
            os.kill(self.pid, number)

    def expect_end(self) -> None:
        """Somebody asks it to end, in another way than by a signal."""
        self._asked = True

    @property
    def returncode(self) -> int | None:
        """How its main process ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def kill_main(self) -> None:
        """End the main process alone by SIGKILL: its pool has to notice."""
        assert self._process is not None
        self._asked = True
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop all of its processes where they stand."""
        os.killpg(self.pid, signal.SIGSTOP)

    def unpause(self) -> None:
        """Let them go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self, timeout: float = 10.0) -> None:
        """End it as ``docker stop`` does: SIGTERM, and SIGKILL after ``timeout`` seconds."""
        self.kill("SIGTERM")
        self.wait(timeout)
        self._kill_group()

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; whether it has."""
        limit = time.monotonic() + timeout
        while self.status == "running" and time.monotonic() < limit:
            time.sleep(0.02)
        return self.status == "exited"

    def restart(self, timeout: float = 10.0) -> None:
        """Stop it and start it anew."""
        if self.status == "running":
            self.stop(timeout)
        # The report of the one before says nothing of this one.
        self._ledger.retire(self.name)
        self.start()

    def reload(self) -> None:
        """Nothing: a process is always as it is."""

    def teardown(self) -> None:
        """End it, whatever it is doing."""
        if self._process is not None:
            self.kill()

    def _kill_group(self) -> None:
        assert self._process is not None
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()


class ProcessNode(CeleryTestNode):
    """A node over a `ProcessContainer`."""

    def __init__(self, container: ProcessContainer) -> None:
        super().__init__(container)
        self.process = container

    def hostname(self) -> str:
        """The name that it reports under."""
        return self.process.name


class Nodes(CeleryTestCluster):
    """The worker nodes of a test."""

    def teardown(self) -> None:
        """End every node."""
        for node in self:
            node.teardown()


def marked(mark: str) -> dict[int, str]:
    """The processes that carry a mark in their environment: their command lines by pid."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def _number(of: str | int) -> int:
    return of if isinstance(of, int) else signal.Signals[of].value


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

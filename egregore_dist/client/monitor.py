"""The web monitor of a cluster of this program: its address is there at once, its process once it is opened."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import select
import socket
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from egregore_dist import errors
from egregore_dist.client.processes import Process
from egregore_dist.wire import strength

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
#: What the extra ``monitor`` installs.
NEEDED = ("anyio", "jinja2", "markupsafe", "prometheus_client", "starlette", "uvicorn")
# What the monitor says when it listens.
_ANNOUNCES = "monitor: "


class LocalMonitor:
    """Listens on a free port of this machine, and starts the monitor's process with the first connection.

    A program that nobody looks at pays for a port and a thread. The process ends with this one, whatever ends this one.

    Args:
        environment: of the monitor, with the cluster's settings.
        folder: where its log goes; it goes itself once this process has died.

    Attributes:
        address: ``http://127.0.0.1:PORT``.
        token: lets its bearer in, as an operator; a secret.

    Raises:
        errors.ConfigurationError: the extra ``monitor`` is not installed.
        OSError: there is no port, or no descriptor, left.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        check_installed()
        self.token = strength.new_secret()
        self._environment = {**environment, "EGREGORE_MONITOR_TOKEN": self.token}
        self._folder = folder
        self._owner = os.getpid()
        self._process: Process | None = None
        self._stopping = False
        self._lock = threading.Lock()
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self._woken, self._waker = socket.socketpair()
        self.address = f"http://{HOST}:{self._listener.getsockname()[1]}"
        _forget_in_forked_copies()
        _listening.add(self)
        self._thread = threading.Thread(target=self._serve, name="egregore-monitor", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LocalMonitor {self.address}>"

    @property
    def is_listening(self) -> bool:
        """Whether this process listens: not after a failed start, nor in a forked copy."""
        return self._listener.fileno() >= 0

    def link(self, path: str = "/") -> str:
        """The address of a page for a browser. It has the token in it: it is for who may see everything, not for a log.

        Args:
            path: of the page, without a query.
        """
        return f"{self.address}{path}?{urlencode({'token': self.token})}"

    def stop(self) -> None:
        """End it at once, and give the port back: it holds nothing that would be lost. In a forked copy, do nothing."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._stopping = True
            if self._process is not None:
                self._process.kill()
        with contextlib.suppress(OSError):
            self._waker.send(b"-")
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Close this process's copies of the sockets."""
        for held in (self._listener, self._woken, self._waker):
            held.close()

    def _serve(self) -> None:
        """Start the process when somebody connects, and anew should it die; one that cannot start is given up."""
        while self._has_caller():
            process = self._start()
            if process is None:
                return
            process.wait()
            if not self._stopping and _ANNOUNCES not in self._log.read_text(errors="replace"):
                self._give_up(process.log_tail(3))
                return

    def _has_caller(self) -> bool:
        ready, _, _ = select.select([self._listener, self._woken], [], [])
        return self._woken not in ready

    def _start(self) -> Process | None:
        with self._lock:
            if self._stopping:
                return None
            self._log.unlink(missing_ok=True)
            number = self._listener.fileno()
            try:
                self._process = Process.spawn(
                    [sys.executable, "-m", "egregore_dist", "monitor", "--fd", str(number)],
                    env=self._environment,
                    log=self._log,
                    pass_fds=(number,),
                    remove=[self._folder],
                )
            except (errors.ConfigurationError, OSError) as error:
                self._give_up(str(error))
                return None
            return self._process

    @property
    def _log(self) -> Path:
        return self._folder / "monitor.log"

    def _give_up(self, why: str) -> None:
        # Whoever connects is refused, and does not wait for nothing.
        self._listener.close()
        log.warning("the web monitor did not start: %s", why, extra={"action": "monitor_failed"})


def missing() -> str | None:
    """A package that the monitor needs and that is not installed; None where there is none."""
    return next((name for name in NEEDED if importlib.util.find_spec(name) is None), None)


def check_installed() -> None:
    """Raise `errors.ConfigurationError` where the extra ``monitor`` is not installed."""
    if (name := missing()) is not None:
        raise errors.ConfigurationError(f"the web monitor needs {name}: pip install 'egregore-dist[monitor]'")


_listening: weakref.WeakSet[LocalMonitor] = weakref.WeakSet()


@functools.cache
def _forget_in_forked_copies() -> None:
    """A copy of this process that lives longer must not keep the port."""

    def forget() -> None:
        for monitor in list(_listening):
            monitor.close()
        _listening.clear()

    os.register_at_fork(after_in_child=forget)

"""What client, workers and servers take of the memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal

import psutil

from bench.peers import processes

Role = Literal["client", "workers", "server"]
_INTERVAL = 0.2
_OWN_KEEPERS = "keeper.py|resource_tracker"


def role(command: str, *, servers: str) -> Role | None:
    """What a process of a cluster is for, by its command line; None for those that only look after others."""
    if re.search(_OWN_KEEPERS, command):
        return None
    return "server" if servers and re.search(servers, command) else "workers"


class Watch:
    """Samples the memory of a cluster while the body runs, and keeps the most of each role.

    Args:
        client: the client's pid.
        mark: of the cluster's processes.
        server: the pid of its Redis or Valkey server.
        servers: what the command lines of its other servers look like.

    Attributes:
        most: bytes by role. Shared pages are divided among those that share them, where the system tells.
    """

    def __init__(self, *, client: int, mark: str, server: int | None, servers: str) -> None:
        self.most: dict[Role, int] = {}
        self._members: list[tuple[Role, psutil.Process]] = []
        for process in processes.marked(mark):
            with suppress(psutil.Error):
                found = "client" if process.pid == client else role(" ".join(process.cmdline()), servers=servers)
                if found is not None:
                    self._members.append((found, process))
        if server is not None:
            self._members.append(("server", psutil.Process(server)))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for name, used in total(self._members).items():
                self.most[name] = max(used, self.most.get(name, 0))
            if self._done.wait(_INTERVAL):
                return


def total(members: Iterable[tuple[Role, psutil.Process]]) -> dict[Role, int]:
    """Bytes by role."""
    found: dict[Role, int] = {}
    for name, process in members:
        with suppress(psutil.Error):
            info = process.memory_full_info()
            found[name] = found.get(name, 0) + getattr(info, "pss", info.rss)
    return found

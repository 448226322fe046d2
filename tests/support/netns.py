"""A host of its own on this machine: a network namespace, joined by a virtual cable that can be cut. For root.

No firewall is needed. A packet that is sent to a hardware address that nobody has is dropped by who receives it, and
who sent it is not told: a wrong entry among one side's neighbours cuts one direction.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import subprocess
import uuid
from types import TracebackType
from typing import Literal, Self

Way = Literal["both", "in", "out", "reset"]
WAYS: tuple[Way, ...] = ("both", "in", "out", "reset")

# Administered locally, and nobody's.
_NOBODY = "02:00:00:00:00:ff"
# RFC 2544 sets it apart for tests, so that no real network is hidden.
_NETWORK = ipaddress.ip_network("198.18.0.0/15")


def missing() -> str:
    """Why namespaces cannot be used here, or ""."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    probe = subprocess.run(["ip", "netns", "add", name := f"egd{uuid.uuid4().hex[:8]}"], capture_output=True)
    if probe.returncode:
        return f"network namespaces cannot be made here: {probe.stderr.decode().strip()}"
    _run("ip", "netns", "del", name)
    return ""


class Host:
    """A namespace; a context manager. What runs in it reaches this machine at ``address`` and nothing else.

    Attributes:
        address: this machine's, as seen from the host.
        prefix: runs a command there.
    """

    def __init__(self) -> None:
        id = uuid.uuid4().hex[:8]
        self.name, self._cable, self._end = f"egd{id}", f"eh{id}", f"en{id}"
        # Of its own each time: the kernel may take its time to forget the one before.
        self.address, self._its = (str(it) for it in secrets.choice(list(_NETWORK.subnets(new_prefix=30))).hosts())
        self.prefix = ("ip", "netns", "exec", self.name)
        self._undo: list[tuple[str, ...]] = []

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.name)
        try:
            _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", self._end)
            _run("ip", "link", "set", self._end, "netns", self.name)
            _run("ip", "addr", "add", f"{self.address}/30", "dev", self._cable)
            _run("ip", "link", "set", self._cable, "up")
            _run(*self.prefix, "ip", "addr", "add", f"{self._its}/30", "dev", self._end)
            _run(*self.prefix, "ip", "link", "set", self._end, "up")
            _run(*self.prefix, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()
        subprocess.run(["ip", "link", "del", self._cable], capture_output=True)
        _run("ip", "netns", "del", self.name)

    def cut(self, way: Way = "both") -> None:
        """Drop every packet without a word; ``in`` is what the host sends to this machine, ``reset`` answers that."""
        if way in ("both", "in"):
            self._mislead(self.address, self._end, *self.prefix)
        if way in ("both", "out"):
            self._mislead(self._its, self._cable)
        if way == "reset":
            # What is sent to this machine comes to the host itself, where nobody knows of any connection.
            address = (f"{self.address}/32", "dev", "lo")
            _run(*self.prefix, "ip", "addr", "add", *address)
            self._undo.append((*self.prefix, "ip", "addr", "del", *address))

    def heal(self) -> None:
        """Let everything through again."""
        while self._undo:
            _run(*self._undo.pop())

    def _mislead(self, address: str, device: str, *prefix: str) -> None:
        _run(*prefix, "ip", "neigh", "replace", address, "lladdr", _NOBODY, "nud", "permanent", "dev", device)
        self._undo.append((*prefix, "ip", "neigh", "del", address, "dev", device))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"

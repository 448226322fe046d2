"""A worker's name: no two workers that live may report under one, or each would deny the other's lanes."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from egregore_dist import errors
from egregore_dist.ledger import Ledger
from egregore_dist.resources.report import Report

_LOOK_EVERY = 0.1
# Seconds beyond the time after which the report of a dead worker is gone.
_MARGIN = 1.0


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a worker's main process.

    Attributes:
        space: tells apart the machines and containers in which a pid means something else.
        word: what reports name it by.
    """

    space: str
    word: str

    @classmethod
    def begin(cls) -> Life:
        """This process's, from now on."""
        space = _space()
        return cls(space, f"{space}/{os.getpid()}/{secrets.token_hex(8)}")


def claim(ledger: Ledger, name: str, life: Life, *, ttl: float) -> None:
    """Return once no other worker reports under a name.

    At once where nobody does, or whoever did is dead here; of another machine's worker, only time tells.

    Args:
        ttl: seconds after which a silent worker's report is gone that does not say so itself.

    Raises:
        errors.ConfigurationError: another worker lives under that name.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    first = other(ledger, name, life)
    if first is None or _is_dead(first, life):
        return
    until = time.monotonic() + (first.ttl or ttl) + _MARGIN
    while time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
        found = other(ledger, name, life)
        if found is None or _is_dead(found, life):
            return
        if found.at != first.at:
            raise errors.ConfigurationError(
                f"a worker named {name!r} lives already, as process {found.pid}: give this one another name "
                "(egregore-dist worker -n NAME; without one, each has its own)"
            )


def other(ledger: Ledger, name: str, life: Life) -> Report | None:
    """The report under a name, where it is another process's. Raises `errors.BrokerUnavailable`."""
    raw = ledger.reported(name)
    if raw is None:
        return None
    try:
        found = msgspec.msgpack.decode(raw, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None if found.life == life.word else found


def _is_dead(found: Report, life: Life) -> bool:
    return found.life.startswith(f"{life.space}/") and not psutil.pid_exists(found.pid)


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{psutil.boot_time():.0f}"

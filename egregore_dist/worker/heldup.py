"""Finds the processes of a pool that have a lane, and do nothing for it."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

import psutil

# Seconds. A process that has a lane for so long, and is at no block: there is little to do there.
_AT_NO_BLOCK = 30.0
# One that is at a block, and executes nothing: it imports what it is to execute, or tells what it has. It may import
# for as long as it likes while it works: what uses less than this of its time is no work.
_AT_A_BLOCK = 120.0
_WORK = 1e-3
# It may wait for the ledger, and go on a moment after that is back.
_CERTAIN = 10.0
# Looks that are so far apart say nothing of what was between them.
_STALLED = 5.0


@dataclass(frozen=True, slots=True)
class Rest:
    """Where a process that has a lane executes nothing.

    Attributes:
        block: whether it is at one.
        number: of the note on its board that says so; another one is another rest.
    """

    block: bool
    number: int


@dataclass(frozen=True, slots=True)
class _Since:
    rest: Rest
    at: float
    used: float


class HeldUp:
    """Tells the processes that rest for longer than there is a good reason for, by what was seen of them."""

    def __init__(self) -> None:
        self._since: dict[int, _Since] = {}
        self._looked = monotonic()
        #: Whether some process is about to be told of: that should not be for want of the ledger.
        self.doubtful = False

    def look(self, resting: dict[int, Rest]) -> dict[int, str]:
        """By process, why each of those that rest is held up, where it is.

        Args:
            resting: all that rest now, by process.
        """
        now, before = monotonic(), self._looked
        self._looked = now
        if now >= before + _STALLED:
            # Stopped, and gone on: so has each process, perhaps.
            self._since = {}
        self.doubtful, found, seen = False, {}, {}
        for pid, rest in resting.items():
            since = self._since.get(pid)
            if since is None or since.rest != rest:
                since = _Since(rest, now, _used(pid) if rest.block else 0.0)
            limit, lasted = _AT_A_BLOCK if rest.block else _AT_NO_BLOCK, now - since.at
            if lasted >= limit - _CERTAIN and rest.block and (used := _used(pid)) > since.used + lasted * _WORK:
                since = _Since(rest, now, used)
            elif lasted >= limit:
                did = "executed nothing, and used no processor time" if rest.block else "was at no block"
                found[pid] = f"for {limit:g} s it has held a slot, and {did}"
            self.doubtful = self.doubtful or lasted >= limit - _CERTAIN
            if pid not in found:
                seen[pid] = since
        self._since = seen
        return found

    def forget(self) -> None:
        """Whatever they waited for till now, there was a reason for it."""
        self._since = {}


def _used(pid: int) -> float:
    # Seconds of processor time, with that of the processes that it has started and waited for.
    try:
        return float(sum(psutil.Process(pid).cpu_times()[:4]))
    except psutil.Error:
        return 0.0

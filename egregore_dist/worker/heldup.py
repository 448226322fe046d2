"""Finds the processes of a pool that have a lane, and do nothing for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import psutil

from egregore_dist.engine.board import Rest

# Seconds. A process that has a lane for so long, and is at no block: there is little to do there.
_AWAY = 30.0
# One that is at a block, and calls no node: it tells what it has, or loads what it is to call, for as long as it likes
# while it works: what uses less than this of its time is no work.
_AT_WORK = 120.0
_WORK = 1e-3
# It may wait for the ledger, and go on a moment after that is back.
_CERTAIN = 10.0
# Looks that are so far apart say nothing of what was between them.
_STALLED = 5.0

_DID = {
    "away": "was at no block",
    "block": "called no node, and used no processor time",
    "code": "loaded the code of a node, and used no processor time",
}


@dataclass(frozen=True, slots=True)
class _Since:
    rest: Rest
    at: float
    used: float | None


class HeldUp:
    """Tells the processes that rest for longer than there is a good reason for, by what was seen of them."""

    def __init__(self) -> None:
        self._since: dict[int, _Since] = {}
        self._looked = monotonic()
        #: Whether some process is told of, or will be soon: that should not be for want of the ledger.
        self.doubtful = False

    def look(self, resting: Mapping[int, Rest]) -> dict[int, str]:
        """By process, why each of those that rest is held up, where it is.

        Args:
            resting: all that rest now, by process.
        """
        now, before = monotonic(), self._looked
        self._looked = now
        if now >= before + _STALLED:
            # Stopped, and gone on: so has each process, perhaps.
            self._since = {}
        since = {pid: self._since_when(pid, rest, now) for pid, rest in resting.items()}
        lasted = {pid: now - it.at - _limit(it.rest) for pid, it in since.items()}
        self.doubtful = any(seconds >= -_CERTAIN for seconds in lasted.values())
        found = [pid for pid, seconds in lasted.items() if seconds >= 0]
        self._since = {pid: it for pid, it in since.items() if pid not in found}
        return {pid: f"for {_limit(resting[pid]):g} s it {_DID[resting[pid].where]}" for pid in found}

    def forget(self) -> None:
        """Whatever they waited for till now, there was a reason for it."""
        self._since = {}

    def _since_when(self, pid: int, rest: Rest, now: float) -> _Since:
        before = self._since.get(pid)
        if before is None or before.rest != rest:
            return _Since(rest, now, None if rest.where == "away" else _used(pid))
        if rest.where != "away" and now - before.at >= _limit(rest) - _CERTAIN:
            used = _used(pid)
            # What cannot be seen may be work.
            if used is None or before.used is None or used > before.used + (now - before.at) * _WORK:
                return _Since(rest, now, used)
        return before


def _limit(rest: Rest) -> float:
    return _AWAY if rest.where == "away" else _AT_WORK


def _used(pid: int) -> float | None:
    # Seconds of processor time: of the main thread, in which lanes are, and of processes that it has waited for. Other
    # threads may be anybody's, and never rest.
    try:
        process = psutil.Process(pid)
        own = next(it for it in process.threads() if it.id == pid)
        others = process.cpu_times()
        return float(own.user_time + own.system_time + others.children_user + others.children_system)
    except (psutil.Error, OSError, StopIteration):
        return None

"""Finds the processes of a pool that have a lane, and do nothing for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic

import psutil

from egregore_dist.engine.board import Rest

# Seconds. A process that has a lane for so long, and is at no block: there is little to do there.
_AWAY = 30.0
# One that is at a block, and calls no node: it tells what it has, or loads what it is to call, for as long as it likes
# while it works.
_AT_WORK = 120.0
# What uses less than this part of the time is no work: the main thread, in which lanes are; all threads, of which some
# may never rest, with the processes that were started.
_WORK, _WORK_OF_ALL = 1e-3, 2e-2
# It may wait for the ledger, and go on a moment after that is back.
_CERTAIN = 10.0
# So long a rest is counted before what it uses is looked at: few last.
_LASTS = 5.0
# Looks that are so far apart say nothing of what was between them.
_STALLED = 5.0

_DID = {
    "away": "was at no block",
    "block": "called no node, and used no processor time",
    "code": "loaded the code of a node, and used no processor time",
}


@dataclass(frozen=True, slots=True)
class _Used:
    """Seconds of processor time of a process's main thread, and of all of it with what it has started."""

    main: float
    whole: float


@dataclass(frozen=True, slots=True)
class _Since:
    rest: Rest
    at: float
    used: _Used | None = None
    used_at: float = 0.0


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
            return _Since(rest, now)
        lasted = now - before.at
        if rest.where == "away" or lasted < min(_LASTS, _limit(rest) / 2):
            return before
        if before.used is None:
            # What cannot be seen may be work.
            used = _used(pid)
            return replace(before, used=used, used_at=now) if used is not None else _Since(rest, now)
        if lasted >= _limit(rest) - _CERTAIN and _works(before, _used(pid), now):
            return _Since(rest, now)
        return before


def _limit(rest: Rest) -> float:
    return _AWAY if rest.where == "away" else _AT_WORK


def _works(since: _Since, used: _Used | None, now: float) -> bool:
    if used is None or since.used is None:
        return True
    lasted, main, whole = now - since.used_at, used.main - since.used.main, used.whole - since.used.whole
    return main > lasted * _WORK or whole > lasted * _WORK_OF_ALL


def _used(pid: int) -> _Used | None:
    try:
        process = psutil.Process(pid)
        main = next(it for it in process.threads() if it.id == pid)
        whole = sum(sum(it.cpu_times()[:4]) for it in (process, *process.children(recursive=True)))
        return _Used(main.user_time + main.system_time, whole)
    except (psutil.Error, OSError, StopIteration):
        return None

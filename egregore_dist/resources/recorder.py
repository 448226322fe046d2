"""Records in a pool's process what executions take, at next to no cost: of tiny ones a sample."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from egregore_dist.resources.profile import Profile

# Measuring costs some 10 us, so that executions shorter than this many seconds are not each measured.
_WORTH = 1e-3
_MOST_SKIPPED = 255
# The first so many of a function are, since nothing is known of them.
_FIRST = 8
# Functions that a process remembers.
_MOST_FUNCTIONS = 1000

_PAGE = resource.getpagesize()
_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(slots=True)
class _Tally:
    """A function in this process: how many executions are to be skipped, for how many a measured one stands."""

    function: str
    measured: int = 0
    left: int = 0
    stands_for: int = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """An execution that is being measured; ``memory`` at its start is None where it cannot be told."""

    tally: _Tally
    started: float
    cpu: float | None
    memory: int | None
    alone: bool


class Recorder:
    """What the executions of one process take.

    Args:
        on_news: called when something is recorded for the first time since the last `take`.
        alone: executions have this process for themselves, so that its memory and CPU time are theirs.
    """

    def __init__(self, on_news: Callable[[], None], *, alone: bool) -> None:
        self._on_news = on_news
        self._alone = alone
        self._tallies: dict[str, _Tally] = {}
        self._news: dict[str, Profile] = {}
        self._memory = _Memory()
        self._lock = threading.Lock()

    def begin(self, function: str, *, shares_thread: bool = False) -> Mark | None:
        """An execution begins; None where this one is not measured.

        Args:
            function: the reference of its code.
            shares_thread: other executions take turns with it on this thread, so that nobody can tell its CPU time.
        """
        tally = self._tallies.get(function)
        if tally is None:
            if len(self._tallies) >= _MOST_FUNCTIONS:
                self._tallies.clear()
            tally = self._tallies[function] = _Tally(function)
        elif tally.left > 0:
            tally.left -= 1
            return None
        if self._alone and not shares_thread:
            return Mark(tally, time.perf_counter(), _process_time(), self._memory.begin(), True)
        return Mark(tally, time.perf_counter(), None if shares_thread else time.thread_time(), None, False)

    def end(self, mark: Mark, size: int) -> None:
        """A measured execution ended well, with a result of so many bytes."""
        wall = time.perf_counter() - mark.started
        cpu = None if mark.cpu is None else (_process_time() if mark.alone else time.thread_time()) - mark.cpu
        memory = None if mark.memory is None else self._memory.end(mark.memory)
        tally = mark.tally
        weight = float(tally.stands_for)
        tally.measured += 1
        skipped = 0 if wall >= _WORTH or tally.measured < _FIRST else min(_MOST_SKIPPED, int(_WORTH / wall))
        tally.left, tally.stands_for = skipped, 1 + skipped
        with self._lock:
            is_first = not self._news
            profile = self._news.get(tally.function)
            if profile is None:
                profile = self._news[tally.function] = Profile()
            profile.count += weight
            profile.wall.add(wall, weight)
            profile.size.add(size, weight)
            if cpu is not None:
                profile.cpu.add(cpu, weight)
            if memory is not None:
                profile.memory.add(memory, weight)
        if is_first:
            self._on_news()

    def take(self) -> dict[str, Profile]:
        """What was recorded since the last time, by function."""
        with self._lock:
            news, self._news = self._news, {}
        return news


def _process_time() -> float:
    # What a process that was started and waited for has burnt is known only as that of all of them.
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


class _Memory:
    """The peak of this process's memory. Linux lets it be reset; elsewhere only what is still held is seen."""

    def __init__(self) -> None:
        self._can_reset = True

    def begin(self) -> int | None:
        """The memory that the process holds now, in bytes; None where it cannot be told."""
        if self._can_reset:
            self._can_reset = _reset_peak()
        return _held()

    def end(self, before: int) -> int | None:
        """By how much it grew at most since then, in bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS if self._can_reset else _held()
        return None if peak is None else max(0, peak - before)


def _reset_peak() -> bool:
    # Opened each time: a node may close files that it does not know, and the number would be another file's.
    try:
        file = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(file, b"5")
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _held() -> int | None:
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None

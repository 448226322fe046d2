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

# Measuring costs some 25 us, so that executions shorter than this many seconds are not each measured.
_WORTH = 5e-3
_MOST_SKIPPED = 1000
# The first so many of a function are, since nothing is known of them.
_FIRST = 8
# Functions that a process remembers.
_MOST_FUNCTIONS = 1000

_PAGE = resource.getpagesize()
_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(slots=True)
class _Tally:
    """How many executions of a function were measured in this process, and for how many the next one stands."""

    measured: int = 0
    stands_for: int = 1


class Recorder:
    """What the executions of one process take.

    Args:
        on_news: called when something is recorded for the first time since the last `take`.
        alone: executions have this process for themselves, so that its memory and CPU time are theirs.
    """

    def __init__(self, on_news: Callable[[], None], *, alone: bool) -> None:
        self._on_news = on_news
        self._alone = alone
        self._to_skip: dict[str, int] = {}
        self._tallies: dict[str, _Tally] = {}
        self._news: dict[str, Profile] = {}
        self._memory = _Memory()
        self._lock = threading.Lock()

    def wants(self, function: str) -> bool:
        """Whether the next execution of a function, named by the reference of its code, shall be measured."""
        left = self._to_skip.get(function, 0)
        if left:
            self._to_skip[function] = left - 1
            return False
        return True

    def measure(self, function: str, *, shares_thread: bool = False, shares_process: bool = False) -> Measure:
        """Measure an execution.

        Args:
            shares_thread: others take turns with it on its thread, so that nobody can tell its CPU time.
            shares_process: others run on other threads of its process, so that nobody can tell its memory.
        """
        alone = self._alone and not shares_process
        tally = self._tallies.get(function)
        # Of tiny ones nobody asks how long they wait for a core.
        is_tiny = tally is not None and tally.stands_for > 1
        return Measure(self, self._memory, function, alone=alone, shares_thread=shares_thread, is_tiny=is_tiny)

    def take(self) -> dict[str, Profile]:
        """What was recorded since the last time, by function."""
        with self._lock:
            news, self._news = self._news, {}
        return news

    def record(
        self,
        function: str,
        *,
        wall: float,
        cpu: float | None,
        queued: float | None,
        memory: int | None,
        size: int,
    ) -> None:
        """Record an execution, and as many as were skipped since the last one. Times in seconds, sizes in bytes."""
        with self._lock:
            is_first = not self._news
            weight = float(self._plan(function, wall))
            profile = self._news.get(function)
            if profile is None:
                profile = self._news[function] = Profile()
            profile.count += weight
            profile.wall.add(wall, weight)
            profile.size.add(size, weight)
            if cpu is not None:
                profile.cpu.add(cpu, weight)
            if queued is not None:
                profile.queued.add(queued, weight)
            if memory is not None:
                profile.memory.add(memory, weight)
        if is_first:
            self._on_news()

    def _plan(self, function: str, wall: float) -> int:
        # How many this execution stands for; and how many of those that come are skipped.
        if function not in self._tallies and len(self._tallies) >= _MOST_FUNCTIONS:
            self._tallies.clear()
            self._to_skip.clear()
        tally = self._tallies.setdefault(function, _Tally())
        stands_for = tally.stands_for
        tally.measured += 1
        skipped = 0 if wall >= _WORTH or tally.measured < _FIRST else min(_MOST_SKIPPED, int(_WORTH / wall))
        tally.stands_for = 1 + skipped
        self._to_skip[function] = skipped
        return stands_for


class Measure:
    """One execution that is measured; one that fails, and is tried again, begins anew.

    Attributes:
        cpu: seconds of CPU time that its calls have taken so far; None where they are not measured.
        memory: by how many bytes the process grew at most in one of them; None where that is not measured.
    """

    def __init__(
        self,
        recorder: Recorder,
        memory: _Memory,
        function: str,
        *,
        alone: bool,
        shares_thread: bool,
        is_tiny: bool,
    ) -> None:
        self._recorder = recorder
        self._function = function
        self._memory = memory if alone and not shares_thread else None
        self._clock = None if shares_thread else _process_time if alone else time.thread_time
        self._held: int | None = None
        self._running = False
        self.cpu: float | None = None
        self.memory: int | None = None
        self._sees_queue = not (shares_thread or is_tiny)
        self._cpu = self._started = 0.0
        self._queued: float | None = None

    def begin(self) -> None:
        """It begins, on this thread."""
        if self._memory is not None:
            self._held = self._memory.begin()
        if self._clock is not None:
            self._cpu = self._clock()
        if self._sees_queue:
            self._queued = _queued()
        self._started = time.perf_counter()
        self._running = True

    def fail(self) -> None:
        """It failed, on the same thread: nothing is learned of that, but it has taken what it took."""
        if self._running:
            self._take()

    def end(self, size: int) -> None:
        """It ended well, on the same thread, with a result of so many bytes."""
        wall = time.perf_counter() - self._started
        cpu, memory = self._take()
        before, now = self._queued, None if self._queued is None else _queued()
        queued = None if before is None or now is None else max(0.0, now - before)
        self._recorder.record(self._function, wall=wall, cpu=cpu, queued=queued, memory=memory, size=size)

    def _take(self) -> tuple[float | None, int | None]:
        self._running = False
        cpu = None if self._clock is None else self._clock() - self._cpu
        memory = None if self._memory is None or self._held is None else self._memory.end(self._held)
        if cpu is not None:
            self.cpu = cpu + (self.cpu or 0.0)
        if memory is not None:
            self.memory = max(memory, self.memory or 0)
        return cpu, memory


def _queued() -> float | None:
    # How long this thread has waited for a core so far, which only Linux tells.
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(file, 64).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(file)


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
    return held("self")


def held(pid: int | str) -> int | None:
    """The memory that a process holds now (RSS), in bytes; None where it cannot be told."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None

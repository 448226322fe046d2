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

# Other threads of its process that compute for less of an execution's time do not keep it from its own work.
_QUIET = 0.10

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
        alone: one lane at a time has this process, so that its memory and CPU time are those of the lane's execution.
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
            shares_process: others of its lane run on other threads of its process, so that nobody can tell its memory.
        """
        tally = self._tallies.get(function)
        # Of tiny ones nobody asks how long they wait.
        is_tiny = tally is not None and tally.stands_for > 1
        return Measure(
            self,
            self._memory,
            function,
            of_one_lane=self._alone,
            shares_process=shares_process or not self._alone,
            shares_thread=shares_thread,
            is_tiny=is_tiny,
        )

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
        waits: float | None,
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
            if waits is not None:
                profile.waits.add(waits, weight)
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
        of_one_lane: bool,
        shares_process: bool,
        shares_thread: bool,
        is_tiny: bool,
    ) -> None:
        self._recorder = recorder
        self._function = function
        self._of_one_lane = of_one_lane
        self._shares_process = shares_process
        self._memory = None if shares_process or shares_thread else memory
        self._shares_thread = shares_thread
        self._is_tiny = is_tiny
        self._held: int | None = None
        self._running = False
        self.cpu: float | None = None
        self.memory: int | None = None
        self._clocks = _Clocks()
        self._queued = self._started = 0.0

    def begin(self) -> None:
        """It begins, on this thread."""
        if self._memory is not None:
            self._held = self._memory.begin()
        if not self._shares_thread:
            self._clocks = _Clocks.now()
            self._queued = 0.0 if self._is_tiny else _queued()
        self._started = time.perf_counter()
        self._running = True

    def fail(self) -> None:
        """It failed, on the same thread: nothing is learned of that, but it has taken what it took."""
        if self._running:
            self._take(self._spent())

    def end(self, size: int) -> None:
        """It ended well, on the same thread, with a result of so many bytes."""
        wall = time.perf_counter() - self._started
        spent = self._spent()
        waits = None if spent is None or self._is_tiny else self._waits(wall, spent)
        cpu, memory = self._take(spent)
        self._recorder.record(self._function, wall=wall, cpu=cpu, waits=waits, memory=memory, size=size)

    def _spent(self) -> _Clocks | None:
        return None if self._shares_thread else _Clocks.now().since(self._clocks)

    def _waits(self, wall: float, spent: _Clocks) -> float | None:
        # How long it waited for others at least; None where that cannot be told. Who waits for a core, or for the
        # interpreter that another thread has, waits for none of those.
        if spent.children:
            # Nobody tells how long those waited for a core.
            return None
        queued = max(0.0, _queued() - self._queued)
        beside = spent.process - spent.thread
        if self._shares_process and spent.thread:
            # What others compute lasts longer where cores are short, as what it computes itself does.
            beside *= 1.0 + queued / spent.thread
        if self._of_one_lane and beside > _QUIET * wall:
            # Beside others that the lane has width for, the least that it can have waited would take that width away.
            return None
        return max(0.0, wall - queued - spent.thread - beside)

    def _cpu(self, spent: _Clocks) -> float | None:
        if not self._shares_process:
            return spent.process + spent.children
        # Nobody tells whose the processes are that have ended.
        return None if spent.children else spent.thread

    def _take(self, spent: _Clocks | None) -> tuple[float | None, int | None]:
        self._running = False
        cpu = None if spent is None else self._cpu(spent)
        memory = None if self._memory is None or self._held is None else self._memory.end(self._held)
        if cpu is not None:
            self.cpu = cpu + (self.cpu or 0.0)
        if memory is not None:
            self.memory = max(memory, self.memory or 0)
        return cpu, memory


@dataclass(frozen=True, slots=True)
class _Clocks:
    """CPU time, in seconds: of this thread, of all the process's, and of the processes that it has waited for."""

    thread: float = 0.0
    process: float = 0.0
    children: float = 0.0

    @classmethod
    def now(cls) -> _Clocks:
        """All that was burnt so far."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.thread_time(), time.process_time(), ended.ru_utime + ended.ru_stime)

    def since(self, before: _Clocks) -> _Clocks:
        """What was burnt since then."""
        return _Clocks(self.thread - before.thread, self.process - before.process, self.children - before.children)


def _queued() -> float:
    # How long this thread has waited for a core so far, in seconds, which only Linux tells.
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return int(os.read(file, 64).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
    finally:
        os.close(file)


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

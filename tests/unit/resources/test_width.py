"""How many branches of ``io=True`` a lane runs at a time as ever more is learned of them, in simulated processes."""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from egregore_dist.client import advice
from egregore_dist.resources import profile, recorder, router
from egregore_dist.resources.profile import Profile
from egregore_dist.resources.recorder import Recorder
from egregore_dist.resources.report import Report
from egregore_dist.resources.router import Cluster, Demand, Widths

CLUSTER = Cluster(
    [
        Report(
            worker="w",
            pid=1,
            slots=1,
            host="h",
            cores=1.0,
            memory_available=2**36,
            memory_total=2**36,
            queues=("home",),
        )
    ]
)
MOST = 32
CALLS = 200


@dataclass(frozen=True)
class Work:
    """What a branch does: it computes, waits for others, and computes again. Times in seconds.

    Attributes:
        cpu: CPU time that it takes.
        wait: how long it waits.
        stretch: how much longer its computing lasts, since others have the core.
        by: who computes: its own "thread", "helpers" (other threads of its process), or a "child" process.
    """

    cpu: float
    wait: float
    stretch: float = 1.0
    by: str = "thread"


class Simulated:
    """A process whose threads compute in turns, first come, first served, and the clocks that it has.

    Args:
        threads: each makes one call after the other.
    """

    def __init__(self, work: Work, threads: int) -> None:
        self.work = work
        self.calls: list[tuple[float, float]] = []
        self.now = self.own = self.queued = 0.0
        self._began: list[float] = []
        self._ended: list[float] = []
        waiting = [(number * 1e-6, number, math.nan) for number in range(threads)]
        order, free, part = itertools.count(threads), 0.0, work.cpu * work.stretch / 2
        while len(self.calls) < CALLS:
            ready, _, began = heapq.heappop(waiting)
            start = max(ready, free)
            free = start + part
            self._began.append(start)
            self._ended.append(free)
            if math.isnan(began):
                heapq.heappush(waiting, (free + work.wait, next(order), ready))
            else:
                self.calls.append((began, free))
                heapq.heappush(waiting, (free, next(order), math.nan))

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.own

    def process_time(self) -> float:
        if self.work.by == "child":
            return 0.0
        at = bisect.bisect_right(self._began, self.now)
        last = min(self.now, self._ended[at - 1]) - self._began[at - 1] if at else 0.0
        return max(0, at - 1) * self.work.cpu / 2 + last / self.work.stretch

    def getrusage(self, _who: int) -> SimpleNamespace:
        ended = bisect.bisect_right(self._ended, self.now) if self.work.by == "child" else 0
        return SimpleNamespace(ru_utime=ended * self.work.cpu / 2, ru_stime=0.0, ru_maxrss=0)


def learned(monkeypatch: pytest.MonkeyPatch, work: Work, width: int, slots: int) -> Profile:
    """What a worker learns of branches of lanes of such a width; with more slots than one, they share a process."""
    process = Simulated(work, width * slots)
    for module, names in (("time", ("perf_counter", "thread_time", "process_time")), ("resource", ("getrusage",))):
        clocks = {name: getattr(process, name) for name in names}
        monkeypatch.setattr(recorder, module, SimpleNamespace(**clocks, RUSAGE_SELF=0, RUSAGE_CHILDREN=-1))
    monkeypatch.setattr(recorder, "_queued", lambda: process.queued)
    monkeypatch.setattr(recorder, "_reset_peak", lambda: False)
    recorded = Recorder(lambda: None, alone=slots == 1)
    own = work.cpu if work.by == "thread" else 0.0002
    for began, ended in process.calls:
        measure = recorded.measure("f", shares_process=width > 1)
        process.now, process.own, process.queued = began, 0.0, 0.0
        measure.begin()
        process.now, process.own, process.queued = ended, own, own * (work.stretch - 1)
        measure.end(1)
    return recorded.take()["f"]


def widths(monkeypatch: pytest.MonkeyPatch, *worked: tuple[Work, int], width: int = 1) -> list[int]:
    """The width after each of some rounds, all learned from in turn: what is done, and the slots of the process."""
    return [width for width, _ in planned(monkeypatch, *worked, width=width)]


def planned(monkeypatch: pytest.MonkeyPatch, *worked: tuple[Work, int], width: int = 1) -> list[tuple[int, str | None]]:
    """The same, each with what would be advised if nothing were declared."""
    known: Profile | None = None
    found = []
    for at, (work, slots) in enumerate(worked):
        new = learned(monkeypatch, work, width, slots)
        new.at = at * 1000
        known = new if known is None else profile.merge(known, new)
        branches = profile.of_branches({("f",): 1}, {"f": known})
        demand = Demand(queue="home", branches=10_000, batched=True, io=True, learned=branches)
        width = router.plan([demand], CLUSTER, widths=Widths(threads=MOST)).tracks[0].width
        found.append((width, advice.sentence(["f"], branches, MOST)))
    return found


@pytest.mark.parametrize("stretch", [1.0, 2.0, 5.0])
@pytest.mark.parametrize(
    ("cpu", "wait", "width"),
    [
        (0.0003, 0.1, MOST),
        (0.005, 0.096, 20),
        (0.010, 0.095, 10),
        (0.008, 0.012, 2),
        (0.009, 0.011, 2),
        (0.012, 0.008, 1),
        (0.05, 0.0, 1),
    ],
)
def test_the_width_is_that_which_leaves_a_process_busy(
    monkeypatch: pytest.MonkeyPatch, cpu: float, wait: float, width: int, stretch: float
) -> None:
    """It comes at once from what one branch alone takes, on a crowded machine too, and stays whatever it is then."""
    work = Work(cpu, wait, stretch)

    found = widths(monkeypatch, *[(work, 1)] * 10)

    assert set(found) == {width}


@pytest.mark.parametrize("by", ["child", "helpers"])
@pytest.mark.parametrize("stretch", [1.0, 2.5])
def test_what_others_compute_for_a_branch_is_no_wait(monkeypatch: pytest.MonkeyPatch, by: str, stretch: float) -> None:
    """A branch whose work is done by a process that it starts, or by other threads, is not taken for one that waits."""
    work = Work(0.05, 0.01, stretch, by)
    found = [
        *planned(monkeypatch, *[(work, 1)] * 10),
        *planned(monkeypatch, *[(work, 4)] * 5, *[(work, 1)] * 5),
    ]

    assert {text for _, text in found} == {None}
    assert {width for width, _ in found[:10]} == {1}


@pytest.mark.parametrize("stretch", [1.0, 3.0, 10.0])
def test_threads_that_compute_learn_no_width(monkeypatch: pytest.MonkeyPatch, stretch: float) -> None:
    """Lanes that share a process wait for its interpreter, which is no wait for others: there, or anywhere else."""
    work = Work(0.05, 0.0, stretch)

    assert set(widths(monkeypatch, *[(work, 4)] * 5, *[(work, 1)] * 5)) == {1}


def test_threads_learn_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that share a process learn width where they all leave it idle; they never learn more than there is."""
    light, heavy = Work(0.0003, 0.1), Work(0.005, 0.095)

    assert widths(monkeypatch, (light, 4)) == [MOST]
    assert min(widths(monkeypatch, *[(light, 4)] * 10)) > 16
    assert 1 < max(widths(monkeypatch, *[(heavy, 4)] * 10)) <= 20


def test_a_branch_that_computes_more_gets_less_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy its process is, what it computes is seen, and makes the lanes narrower."""
    before, since = Work(0.001, 0.1), Work(0.05, 0.05)

    found = widths(monkeypatch, *[(before, 1)] * 2, *[(since, 1)] * 10)

    assert found[:2] == [MOST, MOST]
    assert found[-1] <= 3
    assert found == sorted(found, reverse=True)

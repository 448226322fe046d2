"""What is measured: the cases, and how long each would take at the least."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.peers import makespan
from bench.peers.protocol import Setup, Work

KB, MB = 1000, 1_000_000
SIZES = (KB, 100 * KB, MB, 10 * MB, 50 * MB)
CLIENTS = 8
CAP, SLOTS = 3, 4
LARGE_INPUT, READERS = 50 * MB, 100
TWO = Setup(workers=1, processes=2)
FOUR = Setup(workers=2, processes=2)
#: The path of an answer of the benchmark's web server; the address is put in front of it when it is known.
PAGE = "/"
ANSWER_AFTER = 0.05
_SMALL_COUNT, _SMALL_SIZE = 8, 100 * KB
# Repetitions by the number of trivial branches.
_FEW, _MANY = {1: 20, 3: 40, 10: 20, 100: 8}, {1000: 5, 10_000: 1, 100_000: 1}

Mode = Literal["measure", "runs", "beside", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Some work, and how it is measured.

    Attributes:
        name: how it is chosen and recorded.
        workload: the family that it belongs to: a table and a plot.
        title: what it is, for the table.
        work: what is done.
        setup: the cluster that does it.
        mode: how: timed, from several clients, beside a large block, or for its memory.
        repeats: times a round.
        within: seconds after which no further repetition begins.
        warm: times before that, untimed.
        ideal: seconds that nobody can be faster than, where that is known.
        x: its place on the axis of the workload's plot.
        large: the block that it is measured beside.
    """

    name: str
    workload: str
    title: str
    work: Work
    setup: Setup = TWO
    mode: Mode = "measure"
    repeats: int = 1
    within: float = 2.0
    warm: int = 0
    ideal: float | None = None
    x: float = 0.0
    large: Work | None = None

    def as_dict(self) -> dict[str, Any]:
        """What the tables and plots need."""
        names = ("workload", "title", "x", "amount", "ideal")
        return {name: getattr(self, name) for name in names}

    @property
    def amount(self) -> float:
        """What its time grows with, within one workload."""
        work = self.work
        size = work.item if work.function == "make" else work.size
        return float(work.expected * max(size, 1))


def every(*, quick: bool = False) -> list[Case]:
    """All cases; small ones where it has to be quick, to see that they work."""
    # Small ones first: they tell what the larger ones would take. Memory before what is large, and large data last:
    # what stays of one is not the other's.
    cases = [*_trivial(_FEW), *_memory(), *_trivial(_MANY), *_busy(), *_waiting(), *_runs(), *_skewed(), *_nested()]
    cases += [*_scale(), *_beside(), *_sizes()]
    return [small(case) for case in cases] if quick else cases


def durations(count: int = 60) -> list[float]:
    """Skewed durations, always the same: most of some tens of milliseconds, a few of hundreds, none of those last."""
    chance = random.Random(4)
    drawn = [min(0.6, 0.02 * chance.paretovariate(1.1)) for _ in range(count)]
    head, tail = drawn[: count // 2], sorted(drawn[count // 2 :], reverse=True)
    return [round(each, 3) for each in head + tail]


def small(case: Case) -> Case:
    """The same case with little to do, to see that it works; its figures mean nothing."""
    work = _less(case.work)
    return replace(
        case,
        work=work,
        large=None if case.large is None else replace(case.large, count=2000),
        repeats=min(case.repeats, 2),
        within=1.0,
        ideal=None if case.ideal is None else shortest(work, case.setup.slots),
    )


def _less(work: Work) -> Work:
    item = work.item
    if isinstance(item, float):
        item /= 10
    elif isinstance(item, int):
        item = min(item, _SMALL_SIZE)
    return replace(
        work,
        count=min(work.count, _SMALL_COUNT),
        item=item,
        items=None if work.items is None else [each / 10 for each in work.items[:_SMALL_COUNT]],
        size=min(work.size, _SMALL_SIZE),
        depth=min(work.depth, 3),
    )


def shortest(work: Work, slots: int, *, width: int = 1, async_width: int = 1) -> float:
    """Seconds that the work takes at the least where each of ``slots`` processes runs so many branches at a time."""
    if work.kind != "each" or work.function not in ("spin", "doze", "asleep", "fetch"):
        return 0.0
    at_a_time = slots * {"spin": 1, "asleep": async_width}.get(work.function, width)
    seconds = [ANSWER_AFTER] * work.count if work.function == "fetch" else [float(each) for each in work.inputs]
    return makespan.bound(seconds, min(at_a_time, work.cap or at_a_time))


def _trivial(sizes: dict[int, int]) -> Iterator[Case]:
    for count, repeats in sizes.items():
        yield Case(
            name=f"trivial-{count}",
            workload="trivial",
            title=f"{count} trivial branches",
            work=Work(count=count),
            repeats=repeats,
            within=3.0,
            warm=3 if count <= 10 else 1 if count <= 1000 else 0,
            x=count,
        )


def _busy() -> Iterator[Case]:
    for milliseconds, count in ((1, 400), (10, 100), (100, 20)):
        work = Work(function="spin", item=milliseconds / 1000, count=count)
        yield Case(
            name=f"cpu-{milliseconds}ms",
            workload="cpu",
            title=f"{count} branches of {milliseconds} ms of computing",
            work=work,
            repeats=3,
            warm=1,
            ideal=shortest(work, TWO.slots),
            x=milliseconds,
        )


def _waiting() -> Iterator[Case]:
    yield Case(
        name="blocking",
        workload="waiting",
        title="100 branches of `time.sleep(0.1)`, second run",
        work=Work(function="doze", item=0.1, count=100, io=True),
        warm=1,
        x=0,
    )
    yield Case(
        name="async",
        workload="waiting",
        title="1000 branches of `await asyncio.sleep(1)`",
        work=Work(function="asleep", item=1.0, count=1000),
        x=1,
    )
    yield Case(
        name="http",
        workload="waiting",
        title=f"100 requests to a web server that answers after {ANSWER_AFTER * 1000:.0f} ms",
        work=Work(function="fetch", item=PAGE, count=100, io=True),
        repeats=2,
        warm=1,
        x=2,
    )


def _skewed() -> Iterator[Case]:
    seconds = durations()
    shortest_one, longest_one = min(seconds) * 1000, max(seconds) * 1000
    work = Work(function="doze", items=seconds, count=len(seconds), cap=CAP)
    yield Case(
        name="skewed",
        workload="skewed",
        title=f"{len(seconds)} branches of {shortest_one:.0f} to {longest_one:.0f} ms, cap {CAP} of {SLOTS} slots",
        work=work,
        setup=FOUR,
        repeats=2,
        ideal=shortest(work, FOUR.slots),
    )


def _sizes() -> Iterator[Case]:
    for size in SIZES:
        work = Work(kind="share", function="measure", size=size, count=10)
        yield _sized("input", size, f"an input of {_size(size)} to 10 branches", work)
    yield Case(
        name="input-50MB-100",
        workload="input",
        title=f"an input of 50 MB to {READERS} branches",
        work=Work(kind="share", function="measure", size=LARGE_INPUT, count=READERS),
        x=LARGE_INPUT,
    )
    for size in SIZES:
        work = Work(function="make", item=size, count=2)
        yield _sized("result", size, f"results of {_size(size)} from 2 branches", work)


def _sized(workload: str, size: int, title: str, work: Work) -> Case:
    return Case(
        name=f"{workload}-{_size(size)}",
        workload=workload,
        title=title,
        work=work,
        repeats=3 if size <= MB else 1,
        warm=1,
        x=size,
    )


def _nested() -> Iterator[Case]:
    for depth in range(1, 7):
        yield Case(
            name=f"nested-{depth}",
            workload="nested",
            title=f"blocks of 2 in blocks of 2, {depth} deep: {2**depth} leaves",
            work=Work(kind="nest", depth=depth, fan=2),
            repeats=5,
            warm=1,
            x=depth,
        )


def _scale() -> Iterator[Case]:
    for workers in range(1, 5):
        work, setup = Work(function="doze", item=0.02, count=100), Setup(workers=workers, processes=1)
        yield Case(
            name=f"workers-{workers}",
            workload="workers",
            title=f"100 branches of `time.sleep(0.02)`, first run, {workers} worker(s) of one process",
            work=work,
            setup=setup,
            x=workers,
        )


def _runs() -> Iterator[Case]:
    yield Case(
        name="runs",
        workload="runs",
        title=f"small runs of 3 trivial branches from {CLIENTS} client threads: time a run",
        work=Work(count=3),
        mode="runs",
        within=3.0,
        warm=CLIENTS,
    )


def _beside() -> Iterator[Case]:
    for name, large in (("beside", 100_000), ("beside-10000", 10_000)):
        yield Case(
            name=name,
            workload="beside",
            title=f"3 trivial branches while {large} run",
            work=Work(count=3),
            large=Work(count=large),
            mode="beside",
            repeats=20,
            x=large,
        )


def _memory() -> Iterator[Case]:
    yield Case(
        name="memory",
        workload="memory",
        title="memory while 1000 trivial branches run, again and again for three seconds",
        work=Work(count=1000),
        mode="memory",
    )


def _size(size: int) -> str:
    return f"{size // MB}MB" if size >= MB else f"{size // KB}kB"

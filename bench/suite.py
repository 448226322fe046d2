"""The measurements, each a function that gives figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from bench import workloads
from bench.figures import Figure
from bench.measure import Sample, alternate, ratio
from bench.plain import PlainCelery
from egregore_dist.client import session

# Figures to reach: at most these, by the number of branches where they depend on it.
OVER_CHORD = {3: 0.45, 1000: 0.02}
SUBMIT, SUBMIT_BRANCH = 3e-3, 5e-6
WRITTEN_OVER_INPUT = 1.05
ASYNC = 2.0
MEMORY_BRANCH = 1000.0
# What may stay of the memory when the runs are deleted: the allocator's own noise.
MEMORY_LEFT = 0.05

_INPUT = 20_000_000
_STRING = 100
_READERS = 100
_SLEEPERS = 500
_SETTLE_TIMEOUT = 60.0
# Seconds for the blocks of one size.
_WITHIN = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What the measurements need.

    Attributes:
        celery: the plain side.
        server: the server that both sides use.
        queue: the queue of our worker.
        quick: measure less often.
    """

    celery: PlainCelery
    server: redis.Redis
    queue: str
    quick: bool

    def rounds(self, most: int) -> int:
        """How often to measure what would be measured ``most`` times."""
        return max(2, most // 4) if self.quick else most

    def settle(self) -> None:
        """Wait until the queue is empty: lanes that came too late to find work are still messages."""
        limit = time.monotonic() + _SETTLE_TIMEOUT
        while self.server.llen(self.queue) or self.server.hlen("unacked"):
            if time.monotonic() > limit:
                raise TimeoutError(f"queue {self.queue!r} was not empty after {_SETTLE_TIMEOUT:.0f} s")
            time.sleep(0.002)

    def stat(self, section: str, name: str) -> int:
        """A number that the server tells about itself."""
        info: Any = self.server.info(section)
        return int(info[name])


def overhead(bench: Bench, count: int) -> Iterator[Figure]:
    """Trivial branches, in turn with a chord of as many tasks."""
    flow, whole, each = workloads.branches(count), workloads.branches(count, optimize=False), workloads.mapped()
    items = list(range(count))
    cases: dict[str, Callable[[], object]] = {
        "parallel": lambda: flow(1),
        "map": lambda: each(items),
        "chord": lambda: bench.celery.chord(count),
    }
    # One message a branch, as the chord: it is here to inform, and slow.
    if count <= 1000:
        cases["parallel, optimization_enabled=False"] = lambda: whole(1)
    warm = 3 if count <= 10 else 1
    taken = alternate(cases, bench.rounds(_rounds(count)), warm=warm, within=_WITHIN, settle=bench.settle)
    for name in ("parallel", "map"):
        yield Figure(
            name=f"N={count}: {name} / chord",
            sample=Sample.of([ratio(taken[name], taken["chord"])]),
            unit="ratio",
            target=OVER_CHORD.get(count),
        )
    for name, sample in taken.items():
        yield Figure(name=f"N={count}: {name}", sample=sample, unit="s")


def submitting(bench: Bench, count: int) -> Iterator[Figure]:
    """How long ``submit`` takes; the runs are waited for in between."""
    flow = workloads.branches(count)
    taken = []
    for _ in range(1 + bench.rounds(20 if count <= 1000 else 8)):
        bench.settle()
        started = time.perf_counter()
        run = flow.submit(1)
        taken.append(time.perf_counter() - started)
        run.result(progress=False)
    first, *others = taken
    target = SUBMIT + SUBMIT_BRANCH * count
    yield Figure(name=f"submit, N={count}", sample=Sample.of(others), unit="s", target=target)
    yield Figure(name=f"submit, N={count}, a workflow's first", sample=Sample.of([first]), unit="s")


def large_input(bench: Bench) -> Iterator[Figure]:
    """What the server is sent for one large input to many branches, without what it is sent anyway."""
    started, before = time.monotonic(), bench.stat("stats", "total_net_input_bytes")
    time.sleep(2.0)
    idle = (bench.stat("stats", "total_net_input_bytes") - before) / (time.monotonic() - started)
    flow = workloads.readers(_READERS)
    inputs: dict[str, bytes | list[str]] = {
        "bytes": bytes(_INPUT),
        "list of strings": ["x" * _STRING] * (_INPUT // _STRING),
    }
    for name, data in inputs.items():
        written = []
        for _ in range(bench.rounds(3)):
            started, before = time.monotonic(), bench.stat("stats", "total_net_input_bytes")
            run = flow.submit(data)
            run.result(progress=False)
            sent = bench.stat("stats", "total_net_input_bytes") - before
            written.append((sent - idle * (time.monotonic() - started)) / _INPUT)
            session.current().ledger.delete(run.id)
        yield Figure(
            name=f"written / input, 20 MB ({name}) to {_READERS} branches",
            sample=Sample.of(written),
            unit="ratio",
            target=WRITTEN_OVER_INPUT,
        )


def waiting(bench: Bench) -> Iterator[Figure]:
    """Async branches that wait, on one worker."""
    flow = workloads.sleepers(_SLEEPERS)
    taken = alternate({"async": lambda: flow(1)}, bench.rounds(3), settle=bench.settle)
    yield Figure(
        name=f"{_SLEEPERS} async branches of {workloads.SLEEP:.0f} s", sample=taken["async"], unit="s", target=ASYNC
    )


def memory(bench: Bench, count: int) -> Iterator[Figure]:
    """What finished runs take of the server's memory, and what is left of that when they are deleted."""
    ledger = session.current().ledger
    # Enough runs that the server's buffers, some tens of kB that come and go, are small beside them.
    flow, runs = workloads.branches(count), max(2, 20_000 // count)
    grown, left = [], []
    for number in range(1 + bench.rounds(4)):
        base = _settled(bench)
        submitted = [flow.submit(1) for _ in range(runs)]
        for run in submitted:
            run.result(progress=False)
        full = _settled(bench)
        for run in submitted:
            ledger.delete(run.id)
        # The first round makes what stays for good: scripts, queues, connections.
        if number:
            grown.append((full - base) / (runs * count))
            left.append(max(0, _settled(bench) - base) / (full - base))
    yield Figure(name=f"memory a branch, N={count}", sample=Sample.of(grown), unit="B", target=MEMORY_BRANCH)
    yield Figure(
        name=f"memory left / grown after deletion, N={count}", sample=Sample.of(left), unit="ratio", target=MEMORY_LEFT
    )


def everything(bench: Bench, sizes: Sequence[int]) -> Iterator[Figure]:
    """Every figure, as it is measured."""
    for count in sizes:
        yield from overhead(bench, count)
    for count in (3, 100, 1000, 10_000):
        yield from submitting(bench, count)
    yield from large_input(bench)
    yield from waiting(bench)
    for count in (1000, 10_000):
        yield from memory(bench, count)


def _rounds(count: int) -> int:
    # Enough of them that the whole takes a few minutes; the chord takes some milliseconds a task.
    return 40 if count <= 10 else 12 if count <= 100 else 5 if count <= 1000 else 2


def _settled(bench: Bench) -> int:
    bench.settle()
    # The data, without the buffers of clients. Keys are freed in the background: the least of some moments.
    readings = []
    for _ in range(5):
        time.sleep(0.1)
        readings.append(bench.stat("memory", "used_memory_dataset"))
    return min(readings)

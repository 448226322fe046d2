"""The figures that this package has to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.peers.peers import OURS
from bench.peers.results import SECONDS, Results

Unit = Literal["s", "x"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table of figures.

    Attributes:
        name: what is held against what.
        most: what the figure may be.
        value: the figure, None where it was not measured.
        unit: seconds, or a factor.
    """

    name: str
    most: float
    value: float | None
    unit: Unit = "x"

    @property
    def reached(self) -> bool | None:
        """Whether it is reached; None where it was not measured."""
        return None if self.value is None else self.value <= self.most


def targets(results: Results) -> Iterator[Target]:
    """Every figure to reach, in the order that they were asked for."""

    def against(case: str, peer: str) -> float | None:
        return results.ratio((case, OURS, SECONDS), (case, peer, SECONDS))

    def scaled(value: float | None, by: float | None) -> float | None:
        return value / by if value is not None and by else None

    yield Target(name="1000 trivial branches / a Celery chord", most=0.02, value=against("trivial-1000", "celery"))
    yield Target(name="1000 trivial branches / Ray", most=0.10, value=against("trivial-1000", "ray"))
    yield Target(name="1000 trivial branches / the original", most=0.10, value=against("trivial-1000", "egregore"))
    yield Target(name="3 trivial branches / a Celery chord", most=0.45, value=against("trivial-3", "celery"))
    large, middling = ("trivial-100000", OURS, SECONDS), ("trivial-1000", OURS, SECONDS)
    a_branch = scaled(results.ratio(large, middling), 100)
    yield Target(name="time a branch, 100 000 / 1000 trivial branches", most=1.3, value=a_branch)
    yield Target(
        name="1000 branches of `await asyncio.sleep(1)`", most=1.3, value=results.median("async", OURS), unit="s"
    )
    yield Target(
        name="100 branches of `time.sleep(0.1)`, second run", most=0.7, value=results.median("blocking", OURS), unit="s"
    )
    ideal = results.cases.get("skewed", {}).get("ideal")
    yield Target(
        name="skewed durations, cap 3 of 4 slots / ideal",
        most=1.08,
        value=scaled(results.median("skewed", OURS), ideal),
    )
    yield Target(name="branches of 10 ms of computing / a process pool", most=1.10, value=against("cpu-10ms", "pool"))
    yield Target(name="small runs of 8 threads: a run / Celery chord", most=0.65, value=against("runs", "celery"))
    yield Target(
        name="3 branches while 100 000 run / on an idle cluster",
        most=10.0,
        value=results.ratio(("beside", OURS, SECONDS), ("beside", OURS, "idle")),
    )
    yield Target(name="3 branches while 100 000 run", most=3.0, value=results.median("beside", OURS), unit="s")
    yield Target(
        name="50 MB to 100 branches: bytes written / input",
        most=1.05,
        value=results.median("input-50MB-100", OURS, "written"),
    )

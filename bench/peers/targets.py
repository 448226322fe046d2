"""The figures that this package has to reach, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.peers.peers import OURS
from bench.peers.results import SECONDS, Results, medians

Unit = Literal["s", "x"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table of figures, before it is measured.

    Attributes:
        name: what is held against what.
        most: what the figure may be.
        case: the case of ours that is measured.
        metric: of it.
        peer: whose time it is held against, in the same rounds.
        below: the case that it is held against; where there is a peer and no such case, its own.
        below_metric: of that.
        is_makespan: whether it is held against what nobody can be faster than.
        by: what the figure is divided by besides.
    """

    name: str
    most: float
    case: str
    metric: str = SECONDS
    peer: str | None = None
    below: str | None = None
    below_metric: str = SECONDS
    is_makespan: bool = False
    by: float = 1.0

    @property
    def other(self) -> tuple[str, str, str] | None:
        """Case, peer and metric that it is held against in the same rounds."""
        if self.peer is None and self.below is None:
            return None
        return self.below or self.case, self.peer or OURS, self.below_metric

    @property
    def unit(self) -> Unit:
        """Seconds, or a factor."""
        return "s" if self.other is None and not self.is_makespan and self.metric == SECONDS else "x"

    @property
    def needs(self) -> set[tuple[str, str]]:
        """The cases that it is made of, each with its peer."""
        return {(self.case, OURS), *([self.other[:2]] if self.other else [])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table of figures.

    Attributes:
        line: what is held against what.
        values: the figure, once for each round that has all it is made of.
        missing: why there is none.
    """

    line: Line
    values: list[float]
    missing: str = ""

    @property
    def value(self) -> float | None:
        """The median of the rounds; None where there is none."""
        return statistics.median(self.values) if self.values else None

    @property
    def reached(self) -> bool | None:
        """Whether it is reached; None where it was not measured."""
        return None if self.value is None else self.value <= self.line.most


LINES = (
    Line(name="1000 trivial branches / a Celery chord", most=0.02, case="trivial-1000", peer="celery"),
    Line(name="1000 trivial branches / Ray", most=0.10, case="trivial-1000", peer="ray"),
    Line(name="1000 trivial branches / the original", most=0.10, case="trivial-1000", peer="egregore"),
    Line(name="3 trivial branches / a Celery chord", most=0.45, case="trivial-3", peer="celery"),
    Line(
        name="time a branch, 100 000 / 1000 trivial branches",
        most=1.3,
        case="trivial-100000",
        below="trivial-1000",
        by=100,
    ),
    Line(name="1000 branches of `await asyncio.sleep(1)`", most=1.3, case="async"),
    Line(name="100 branches of `time.sleep(0.1)`, second run", most=0.7, case="blocking"),
    Line(name="skewed durations, cap 3 of 4 slots / ideal", most=1.08, case="skewed", is_makespan=True),
    Line(name="branches of 10 ms of computing / a process pool", most=1.10, case="cpu-10ms", peer="pool"),
    Line(name="small runs of 8 threads: a run / Celery chord", most=0.65, case="runs", peer="celery"),
    Line(
        name="3 branches while 100 000 run / on an idle cluster",
        most=10.0,
        case="beside",
        below="beside",
        below_metric="idle",
    ),
    Line(name="3 branches while 100 000 run", most=3.0, case="beside"),
    Line(name="50 MB to 100 branches: bytes written / input", most=1.05, case="input-50MB-100", metric="written"),
)


def targets(results: Results) -> Iterator[Target]:
    """Every figure to reach, in the order that they were asked for."""
    for line in LINES:
        found = _values(results, line)
        yield Target(
            line=line, values=[value / line.by for value in found], missing="" if found else _missing(results, line)
        )


def _values(results: Results, line: Line) -> list[float]:
    if line.other is not None:
        return results.ratios((line.case, OURS, line.metric), line.other)
    ideal = results.cases.get(line.case, {}).get("ideal") if line.is_makespan else 1.0
    return [value / ideal for value in medians(results.rounds(line.case, OURS, line.metric))] if ideal else []


def _missing(results: Results, line: Line) -> str:
    sides = [(line.case, OURS, line.metric), *([line.other] if line.other else [])]
    return "no round has both" if all(results.rounds(*side) for side in sides) else "not measured"

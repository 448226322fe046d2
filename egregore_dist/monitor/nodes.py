"""What is learned of nodes, and what became of them in the newest runs, by the function that each calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from markupsafe import Markup

from egregore_dist import errors
from egregore_dist.cli import nodes as told
from egregore_dist.cli import show
from egregore_dist.client import accounting
from egregore_dist.client.runreport import NodeReport
from egregore_dist.ledger import ENDED, Ledger, RunRecord, Work
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.monitor import svg
from egregore_dist.monitor.kept import Kept, Shared
from egregore_dist.resources.profile import Profile

#: The newest runs are looked at, so many at most, for so many seconds.
RUNS_LOOKED_AT = 25
_SECONDS = 0.3

_KEPT = 500

# Pixels of a trend.
_BAR, _GAP, _HIGH = 5, 1, 22


_Called = set[told.Called]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What became of a function in one run. Times in seconds.

    Attributes:
        run: its id.
        at: when it was submitted, in seconds since 1970.
        ok: executions that gave a value.
        failed: that failed.
        lost: whose process died, or that were stopped.
        mean: how long those took that gave a value or failed and called nothing else, or None.
        slowest: the longest of them, or None.
    """

    run: str
    at: float
    ok: int
    failed: int
    lost: int
    mean: float | None
    slowest: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A function and its nodes.

    Attributes:
        function: as people write it.
        names: of the nodes that call it, in the newest runs.
        profile: what was learned of it, an empty one where nothing was.
        points: the runs that were looked at and have it, the oldest first.
        advice: what ``io=True`` would do for its nodes, or None.
    """

    function: str
    names: tuple[str, ...]
    profile: Profile
    points: tuple[Point, ...]
    advice: str | None = None

    @property
    def total(self) -> float:
        """How long all that was learned of took together, in seconds."""
        return self.profile.seconds

    @property
    def executions(self) -> int:
        """In the runs that were looked at."""
        return sum(point.ok + point.failed + point.lost for point in self.points)

    @property
    def failed(self) -> int:
        """Of these that failed."""
        return sum(point.failed for point in self.points)

    @property
    def lost(self) -> int:
        """Of these that were lost or stopped."""
        return sum(point.lost for point in self.points)

    @property
    def slowest(self) -> Point | None:
        """The run that has the longest execution."""
        known = [point for point in self.points if point.slowest is not None]
        return max(known, key=lambda point: point.slowest or 0.0, default=None)

    @property
    def trend(self) -> Markup | None:
        """How long an execution took on average, run by run; None of fewer than two."""
        means = [point.mean for point in self.points if point.mean is not None]
        return _trend(means) if len(means) > 1 else None


#: What the table can be sorted by: the greatest first, but names.
SORTS: Mapping[str, Callable[[Row], float | str]] = {
    "function": lambda row: row.function,
    "executions": lambda row: row.profile.count,
    "total": lambda row: row.total,
    "p50": lambda row: row.profile.wall.quantile(0.5),
    "p95": lambda row: row.profile.wall.quantile(0.95),
    "cpu50": lambda row: row.profile.cpu.quantile(0.5),
    "cpu95": lambda row: row.profile.cpu.quantile(0.95),
    "memory50": lambda row: row.profile.memory.quantile(0.5),
    "memory95": lambda row: row.profile.memory.quantile(0.95),
    "result": lambda row: row.profile.size.quantile(0.95),
    "failed": lambda row: row.failed,
    "slowest": lambda row: row.slowest.slowest or 0.0 if row.slowest is not None else -1.0,
    "learned": lambda row: row.profile.at,
}
BY_DEFAULT = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How the table is sorted: by one of `SORTS`, or the other way round."""

    by: str = BY_DEFAULT
    turned: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Order:
        """Read it from a query; what cannot be read is as if it were not there."""
        by = query.get("sort", BY_DEFAULT)
        return cls(by=by, turned=query.get("turned") == "1") if by in SORTS else cls()

    def address(self, by: str) -> str:
        """The address that sorts by this; where it is sorted so already, the other way round."""
        turns = by == self.by and not self.turned
        return f"/nodes?sort={by}" + ("&turned=1" if turns else "")

    def said(self, by: str) -> str:
        """How a column is sorted, as ``aria-sort`` has it."""
        if by != self.by:
            return "none"
        return "ascending" if (by == "function") is not self.turned else "descending"

    def sort(self, rows: Sequence[Row]) -> list[Row]:
        """The rows in this order; those that are alike by name."""
        by_name = sorted(rows, key=lambda row: row.function)
        # A sort keeps the order of what is alike, turned round or not.
        return sorted(by_name, key=SORTS[self.by], reverse=(self.by == "function") is self.turned)


class Nodes:
    """Reads what there is of a cluster's nodes.

    Args:
        thread_width: how many branches a lane may run at a time on threads.
    """

    def __init__(self, ledger: Ledger, thread_width: int) -> None:
        self._ledger = ledger
        self._thread_width = thread_width
        # A run that has ended does not change, unless it is retried.
        self._ended: Kept[tuple[str, float], dict[str, Point]] = Kept(_KEPT)
        self._functions: Kept[bytes, _Called] = Kept(_KEPT)
        self._shared: Shared[str, tuple[tuple[Row, ...], int]] = Shared(1)

    def rows(self) -> tuple[tuple[Row, ...], int]:
        """Every function that is known of, and how many runs were looked at."""
        return self._shared.get("", self._read)

    def _read(self) -> tuple[tuple[Row, ...], int]:
        known = Profiles(self._ledger).everything()
        runs = self._ledger.runs(told.RUNS_READ)
        called = {run: self._called(work) for run, work in self._ledger.works([record.id for record in runs]).items()}
        nodes: dict[str, _Called] = {}
        for node in (node for each in called.values() for node in each):
            nodes.setdefault(node.function, set()).add(node)
        looked = self._points(runs[:RUNS_LOOKED_AT], called)
        # Of what has never given a value, nothing is learned.
        for function in (function for points in looked for function in points):
            known.setdefault(function, Profile())
        return tuple(
            Row(
                function=told.function_name(function),
                names=tuple(sorted({node.name for node in nodes.get(function, ())})),
                profile=profile,
                points=tuple(points[function] for points in looked if function in points),
                advice=told.advised(nodes.get(function, ()), profile, self._thread_width),
            )
            for function, profile in known.items()
        ), len(looked)

    def _called(self, work: Work) -> _Called:
        def read() -> _Called:
            try:
                return told.functions_of(work)
            except (msgspec.MsgspecError, IndexError):
                return set()  # another release wrote it

        return self._functions.get(work.spec + work.functions, read)

    def _points(self, runs: Sequence[RunRecord], called: Mapping[str, _Called]) -> list[dict[str, Point]]:
        until = time.monotonic() + _SECONDS
        found: list[dict[str, Point]] = []
        for record in runs:
            if found and time.monotonic() > until:
                break
            try:
                found.append(self._of_run(record, called.get(record.id, set())))
            except errors.RunNotFound:
                continue  # it has expired
        return found[::-1]

    def _of_run(self, record: RunRecord, called: _Called) -> dict[str, Point]:
        if record.state not in ENDED or record.ended is None:
            return self._look(record, called)
        return self._ended.get((record.id, record.ended), lambda: self._look(record, called))

    def _look(self, record: RunRecord, called: _Called) -> dict[str, Point]:
        functions: dict[str, list[str]] = {}
        for name, function in {(node.name, node.function) for node in called}:
            functions.setdefault(name, []).append(function)
        of_function: dict[str, list[NodeReport]] = {}
        for node in accounting.nodes_of(self._ledger, record.id):
            # Two nodes of one name cannot be told from each other.
            if len(known := functions.get(node.name, [])) == 1:
                of_function.setdefault(known[0], []).append(node)
        return {function: _point(record, reports) for function, reports in of_function.items()}


def _point(record: RunRecord, reports: Sequence[NodeReport]) -> Point:
    executions = [report.executions for report in reports]
    durations = [each.durations for each in executions if each.durations.count]
    count = sum(each.count for each in durations)
    return Point(
        run=record.id,
        at=record.created,
        ok=sum(each.ok for each in executions),
        failed=sum(each.failed for each in executions),
        lost=sum(each.lost + each.stopped for each in executions),
        mean=sum(each.total for each in durations) / count if count else None,
        slowest=max((each.max or 0.0 for each in durations), default=None),
    )


def _trend(means: Sequence[float]) -> Markup:
    most = max(means) or 1.0
    bars = [
        svg.tag(
            "rect",
            x=number * (_BAR + _GAP),
            y=float(_HIGH - height),
            width=_BAR,
            height=float(height),
            class_="bar",
        )
        for number, mean in enumerate(means)
        if (height := max(1.0, _HIGH * mean / most))
    ]
    said = f"{show.duration(means[0])} in the oldest of {len(means)} runs, {show.duration(means[-1])} in the newest"
    return svg.picture(len(means) * (_BAR + _GAP), _HIGH, said, *bars, class_="trend")

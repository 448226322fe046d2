"""The table of nodes: how it is sorted, and what it says of runs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from egregore_dist.monitor.nodes import BY_DEFAULT, SORTS, Order, Point, Row
from egregore_dist.resources.profile import Histogram, Profile
from tests.unit.monitor.tables import first_row
from tests.unit.monitor.test_escaping import page


def row(name: str, seconds: float, count: float = 1.0, *points: Point) -> Row:
    """A function whose executions took so long."""
    wall = Histogram()
    wall.add(seconds, count)
    return Row(function=name, names=(), profile=Profile(count=count, wall=wall), points=points)


def point(run: str, *, failed: int = 0, mean: float | None = 1.0) -> Point:
    """What became of a function in a run."""
    return Point(run=run, at=1.0, ok=1, failed=failed, lost=0, mean=mean, slowest=mean)


ROWS = [row("b", 3.0), row("a", 1.0, 10.0), row("c", 3.0)]


def sorted_by(query: dict[str, str]) -> list[str]:
    """The functions in the order that an address asks for."""
    return [row.function for row in Order.of(query).sort(ROWS)]


def test_the_greatest_first() -> None:
    """What takes longest in all is first; what is alike is sorted by name, whichever way round."""
    assert sorted_by({}) == ["a", "b", "c"]
    assert sorted_by({"sort": "p50"}) == ["b", "c", "a"]
    assert sorted_by({"sort": "p50", "turned": "1"}) == ["a", "b", "c"]
    assert sorted_by({"sort": "function"}) == ["a", "b", "c"]
    assert sorted_by({"sort": "function", "turned": "1"}) == ["c", "b", "a"]


@pytest.mark.parametrize("query", [{"sort": "nonsense"}, {"sort": "<script>", "turned": "1"}, {"sort": ""}])
def test_what_cannot_be_sorted_by(query: dict[str, str]) -> None:
    """It is as if nothing had been asked for."""
    assert Order.of(query) == Order()


def test_an_address_turns_the_order_round() -> None:
    """The address of the column that it is sorted by sorts the other way, and back; the reader is told which way."""
    order = Order.of({"sort": "p95"})

    assert (order.address("p95"), order.said("p95")) == ("/nodes?sort=p95&turned=1", "descending")
    turned = Order.of({"sort": "p95", "turned": "1"})
    assert (turned.address("p95"), turned.said("p95")) == ("/nodes?sort=p95", "ascending")
    assert (order.address("function"), order.said("function")) == ("/nodes?sort=function", "none")
    assert Order.of({"sort": "function"}).said("function") == "ascending"


@pytest.mark.parametrize("by", SORTS)
def test_every_column_sorts_rows_of_all_kinds(by: str) -> None:
    """With runs and without, with what was measured and without."""
    rows = [*ROWS, Row(function="d", names=(), profile=Profile(), points=(point("r"),))]

    assert len(Order(by=by).sort(rows)) == 4
    assert BY_DEFAULT in SORTS


def test_what_a_row_says_of_runs() -> None:
    """Failures are added up, the slowest has its run, and the trend is a picture that says what it shows."""
    points = (point("r1", failed=2), point("r2", mean=4.0), point("r3", mean=None))
    found = row("f", 1.0, 1.0, *points)

    assert (found.executions, found.failed, found.lost) == (5, 2, 0)
    assert found.slowest is not None
    assert found.slowest.run == "r2"
    assert found.trend is not None
    assert found.trend.count("<rect") == 2
    assert "<title>1.0 s in the oldest of 2 runs, 4.0 s in the newest</title>" in found.trend


def test_a_row_that_no_run_has() -> None:
    """There is no trend of one run, and no slowest of none."""
    assert row("f", 1.0).slowest is None
    assert row("f", 1.0, 1.0, point("r")).trend is None


def test_times_of_calls_and_of_branches_are_not_taken_for_each_other() -> None:
    """A branch is more than the call in it, so what is told of either says of which."""
    html = page("nodes.html")

    assert re.search(r">Call p50( <span|<)", html)
    assert re.search(r">Slowest branch( <span|<)", html)
    assert ">Trend of branches<" in html


def test_the_page_shows_advice() -> None:
    """Below the function; nothing where there is none."""
    html = page("nodes.html", rows=[replace(row("f", 1.0), advice="`<f>` waits")])

    assert first_row(html)["Function and its nodes"] == "f `<f>` waits"
    assert first_row(page("nodes.html", rows=[row("f", 1.0)]))["Function and its nodes"] == "f"


def test_the_page_shows_the_trend() -> None:
    """As a picture, in the column that is called so; and a dash where there is none."""
    html = page("nodes.html", rows=[row("f", 1.0, 1.0, point("r1"), point("r2", mean=4.0))])

    assert re.search(r'<td><svg [^>]*class="trend"', html)
    assert first_row(html)["Trend of branches"] == "1.0 s in the oldest of 2 runs, 4.0 s in the newest"
    assert first_row(page("nodes.html", rows=[row("f", 1.0)]))["Trend of branches"] == "-"

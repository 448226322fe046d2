"""The pure parts of the benchmark: medians, turns, what is shown, and that what is shown was measured."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from bench import figures, measure, suite
from bench.figures import Figure
from bench.measure import Sample

SOURCES = sorted(Path(suite.__file__).parent.glob("*.py"))


def clock(step: float) -> Callable[[], float]:
    """A clock that goes on by ``step`` seconds whenever it is asked."""
    ticks = count()
    return lambda: next(ticks) * step


def drawn(*shown: Figure) -> str:
    """The table of these figures as text."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(figures.table(shown))
    return captured.get()


def test_a_sample_has_a_median_and_a_spread() -> None:
    """The figure of a sample is its median, so that one slow round does not move it."""
    sample = Sample.of([3.0, 1.0, 100.0])

    assert (sample.median, sample.least, sample.most) == (3.0, 1.0, 100.0)


def test_an_empty_sample_is_refused() -> None:
    """Nothing measured is an error and not a figure."""
    with pytest.raises(ValueError, match="at least one"):
        Sample.of([])


def test_the_ratio_is_that_of_the_medians() -> None:
    """Our median over theirs."""
    assert measure.ratio(Sample.of([1.0, 2.0, 9.0]), Sample.of([8.0, 7.0, 100.0])) == 0.25


def test_every_case_comes_once_a_round_and_first_in_turn() -> None:
    """Each case is measured once a round, and no case always follows the same noise: the first one changes."""
    assert ["".join(turn) for turn in measure.turns("abc", 4)] == ["abc", "bca", "cab", "abc"]


def test_alternate_times_each_case_by_the_clock() -> None:
    """Each case is called for warmth, then timed as often as there are rounds, after the machine has settled."""
    called: list[str] = []
    cases = {name: lambda name=name: called.append(name) for name in "ab"}
    taken = measure.alternate(cases, 2, warm=1, settle=lambda: called.append("-"), clock=clock(0.5))

    assert called == [*"ab", *"-a-b", *"-b-a"]
    assert {name: sample.values for name, sample in taken.items()} == {"a": (0.5, 0.5), "b": (0.5, 0.5)}


def test_no_round_begins_when_the_time_is_over() -> None:
    """A slow machine measures less often, yet each case at least twice."""
    taken = measure.alternate({"a": lambda: None}, 9, within=1.0, clock=clock(1.0))

    assert len(taken["a"].values) == 2


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.000_045, "s", "45 µs"),
        (2.5, "s", "2.5 s"),
        (0.0, "s", "0 µs"),
        (0.0312, "ratio", "0.0312"),
        (999.6, "B", "1000 B"),
        (1000.0, "B", "1 kB"),
        (120.4, "B", "120 B"),
        (24_000_000.0, "B", "24 MB"),
    ],
)
def test_values_are_shown_with_their_unit(value: float, unit: figures.Unit, text: str) -> None:
    """Three digits and the unit that fits."""
    assert figures.shown(value, unit) == text


@pytest.mark.parametrize(("target", "reached"), [(2.1, True), (2.0, True), (1.9, False), (None, None)])
def test_a_figure_is_held_against_its_target(target: float | None, reached: bool | None) -> None:
    """A median that is at most the target reaches it; without a target there is no verdict."""
    figure = Figure(name="x", sample=Sample.of([1.0, 2.0, 50.0]), unit="s", target=target)

    assert figure.reached is reached
    assert figure.as_dict()["reached"] is reached


def test_the_table_shows_what_was_measured() -> None:
    """Two measurements of one thing give two different lines, with the verdict of each."""
    fast, slow = (
        drawn(Figure(name="x", sample=Sample.of(values), unit="s", target=0.05))
        for values in ([0.01, 0.02, 0.03], [0.07, 0.08, 0.09])
    )

    assert all(text in fast for text in ("20 ms", "10 ms", "30 ms", "50 ms", "ok"))
    assert all(text in slow for text in ("80 ms", "70 ms", "90 ms", "50 ms", "not ok"))
    assert "not ok" not in fast


def test_the_document_has_every_number() -> None:
    """What a program reads has the median, the spread, the count and the target."""
    figure = Figure(name="x", sample=Sample.of([1.0, 2.0, 4.0]), unit="B", target=3.0)

    assert figure.as_dict() == {
        "name": "x",
        "unit": "B",
        "median": 2.0,
        "min": 1.0,
        "max": 4.0,
        "count": 3,
        "target": 3.0,
        "reached": True,
    }


def made_figures() -> Iterator[ast.Call]:
    """Every place in the benchmark where a figure is made."""
    for path in SOURCES:
        for found in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == "Figure":
                yield found


def test_no_figure_is_written_into_the_source() -> None:
    """Whatever a figure's values are made of holds no number: they are measured."""
    made = list(made_figures())
    samples = [keyword.value for call in made for keyword in call.keywords if keyword.arg == "sample"]
    numbers = [
        part.value
        for sample in samples
        for part in ast.walk(sample)
        if isinstance(part, ast.Constant) and isinstance(part.value, (int, float))
    ]

    assert len(samples) == len(made) > 0
    assert numbers == []


def test_the_targets_are_those_that_were_asked_for() -> None:
    """What is to be reached stands in one place and is not softened."""
    assert suite.OVER_CHORD == {3: 0.45, 1000: 0.02}
    assert (suite.SUBMIT, suite.SUBMIT_BRANCH) == (3e-3, 5e-6)
    assert (suite.WRITTEN_OVER_INPUT, suite.ASYNC, suite.MEMORY_BRANCH) == (1.05, 2.0, 1000.0)

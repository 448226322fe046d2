"""A figure: what was measured, what it should be at most, and how both are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table

from bench.measure import Sample

Unit = Literal["s", "ratio", "B"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the report.

    Attributes:
        name: what was measured.
        sample: the values; the median is the figure.
        unit: of the values and of the target: seconds, a ratio, or bytes.
        target: the most that the figure may be; None where it only informs.
    """

    name: str
    sample: Sample
    unit: Unit
    target: float | None = None

    @property
    def value(self) -> float:
        """The figure."""
        return self.sample.median

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target is None else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """The figure for a program to read."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.value,
            "min": self.sample.least,
            "max": self.sample.most,
            "count": len(self.sample.values),
            "target": self.target,
            "reached": self.reached,
        }


def shown(value: float, unit: Unit) -> str:
    """A value with its unit, to three digits."""
    if unit == "ratio":
        return f"{value:.3g}"
    steps = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")), "B": ((1e6, "MB"), (1e3, "kB"), (1.0, "B"))}[unit]
    scale, word = next(((scale, word) for scale, word in steps if abs(value) >= scale), steps[-1])
    scaled = value / scale
    return f"{scaled:.3g} {word}" if abs(scaled) < 999.5 else f"{scaled:.0f} {word}"


def table(figures: Iterable[Figure]) -> Table:
    """The figures as a table."""
    made = Table(box=box.SIMPLE)
    made.add_column("figure")
    for title in ("median", "min", "max", "at most"):
        made.add_column(title, justify="right")
    made.add_column("")
    for figure in figures:
        sample, unit = figure.sample, figure.unit
        spread = (shown(sample.least, unit), shown(sample.most, unit)) if len(sample.values) > 1 else ("", "")
        made.add_row(
            figure.name,
            shown(figure.value, unit),
            *spread,
            "" if figure.target is None else shown(figure.target, unit),
            {None: "", True: "[green]ok[/]", False: "[red]not ok[/]"}[figure.reached],
        )
    return made

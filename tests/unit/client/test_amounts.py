"""Amounts as people say them."""

from __future__ import annotations

import pytest

from egregore_dist.client import amounts


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (0.0, "0 ms"), (0.25, "250 ms"), (1.0, "1.0 s"), (100.0, "1 min 40 s"), (7260.0, "2 h 01 min")],
)
def test_durations(seconds: float | None, said: str) -> None:
    """Short ones to the millisecond, long ones in minutes and hours."""
    assert amounts.duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0.0, "0 B"), (999.0, "999 B"), (1000.0, "1.0 kB"), (52_428_800.0, "52 MB"), (3e12, "3.0 TB")],
)
def test_sizes(number: float, said: str) -> None:
    """Bytes in the unit that leaves few digits."""
    assert amounts.size(number) == said


@pytest.mark.parametrize(
    ("number", "what", "said"),
    [(0, "branch", "no branches"), (1, "branch", "1 branch"), (2, "branch", "2 branches"), (3, "slot", "3 slots")],
)
def test_counts(number: int, what: str, said: str) -> None:
    """One of a thing has its own word, and none is said as that."""
    assert amounts.count(number, what) == said

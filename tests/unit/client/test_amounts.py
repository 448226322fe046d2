"""Amounts as people say them."""

from __future__ import annotations

import pytest

from egregore_dist.client import amounts


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (0.0123, "12 ms"), (1.26, "1.3 s"), (99.9, "99.9 s"), (150, "2 min 30 s"), (7260, "2 h 01 min")],
)
def test_durations(seconds: float | None, said: str) -> None:
    """Durations are said as people say them."""
    assert amounts.duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (14_362_124, "14 MB"), (2.5e12, "2.5 TB")],
)
def test_sizes(number: float, said: str) -> None:
    """Sizes are in decimal units."""
    assert amounts.size(number) == said


@pytest.mark.parametrize(
    ("number", "what", "said"),
    [(0, "branch", "no branches"), (1, "branch", "1 branch"), (2, "branch", "2 branches"), (3, "slot", "3 slots")],
)
def test_counts(number: int, what: str, said: str) -> None:
    """One of a thing has its own word, and none is said as that."""
    assert amounts.count(number, what) == said

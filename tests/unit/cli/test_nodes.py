"""What is learned of nodes, as it is printed."""

from __future__ import annotations

import pytest

from egregore_dist.cli import nodes


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], "-"),
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
    ],
)
def test_names_that_are_many_are_counted(names: list[str], shown: str) -> None:
    """A function that very many nodes call does not fill the table."""
    assert nodes._some(names) == shown

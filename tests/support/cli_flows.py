"""Workflows that the tests of the command line run by name."""

from __future__ import annotations

from pathlib import Path

from egregore_dist import Limit, Sequence, node, parallel
from tests.support.waiting import until

#: Not a workflow.
NUMBER = 3


@node
def double(x: int) -> int:
    return 2 * x


@node
def total(values: list[int]) -> int:
    return sum(values)


@node
def failing(x: int) -> int:
    raise ValueError(f"first line\nsecond line {x}")


@node(limit=Limit(concurrent=2, name="cli.limited"))
def limited(x: int) -> int:
    return x


@node
def gate(path: str) -> str:
    Path(f"{path}.reached").touch()
    until(Path(path).exists, what="the gate")
    return "open"


flow = Sequence(double.map(), total, name="doubles")
bad = parallel(double, failing, name="pair")
gated = parallel(gate, name="gated")

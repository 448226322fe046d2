"""Workflows for the tests of the monitor."""

from __future__ import annotations

import time
from pathlib import Path

from egregore_dist import Limit, Sequence, node, parallel
from tests.support.waiting import until

EVIL = "<img src=x onerror=alert(1)>\"' key"


@node
def gate(path: str) -> str:
    """Wait until there is a file."""
    Path(f"{path}.reached").touch()
    until(Path(path).exists, seconds=60, what="the gate")
    return "open"


@node
def patient(path: str) -> str:
    """The same, in one test alone: of nodes that take no time now and then, a sample is measured."""
    Path(f"{path}.reached").touch()
    until(Path(path).exists, seconds=60, what="the gate")
    return "open"


@node
def lingering(path: str) -> str:
    """The same, and it takes a while to leave."""
    try:
        return patient.fn(path)
    finally:
        time.sleep(1.0)
        Path(f"{path}.left").touch()


@node
def quick(data: object) -> str:
    """Take no time."""
    return "quick"


@node
def breaks(data: object) -> None:
    """Fail with script in the error."""
    raise ValueError("</pre><script>alert(1)</script>")


@node
def stumbles(data: object) -> None:
    """Fail as one of several nodes in a branch."""
    raise ValueError(data)


@node
def echo(data: object) -> object:
    """Hand on."""
    return data


@node
def count(n: int) -> list[int]:
    """The numbers below n."""
    return list(range(n))


@node
async def same(n: int) -> int:
    """Hand on."""
    return n


@node(limit=Limit(concurrent=2, key="model", name="models"))
def asks(model: str, path: str) -> str:
    """Wait until there is a file, with a place of a limit."""
    Path(f"{path}.asking").touch()
    until(Path(path).exists, seconds=60, what="the gate")
    return model


gated = Sequence(parallel(gate, quick, name="gates"), echo, name="gated")
measured = Sequence(parallel(patient, quick, name="gates"), echo, name="measured")
staged = parallel(Sequence(echo.alias("before"), gate, echo.alias("after"), name="stages"), quick, name="both")
failing = Sequence(quick, parallel(breaks, quick, name="pair"), echo, name="failing")
stumbling = parallel(Sequence(echo, stumbles, name="two"), quick, name="stumbling")
keyed = Sequence(echo.map(), echo, name="keyed")
numbers = Sequence(count, same.map(), echo, name="numbers")
asking = Sequence(asks.map(), echo, name="asking")
nested = Sequence(parallel(same, same.alias("again"), name="inner").map(), echo, name="nested")

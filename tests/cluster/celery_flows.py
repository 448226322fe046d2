"""Workflows for the tests of Celery's own tools."""

from __future__ import annotations

import time
from pathlib import Path

from egregore_dist import Limit, Sequence, node, parallel
from tests.support.waiting import until


@node
def nap(seconds: float) -> str:
    """Take so long."""
    time.sleep(seconds)
    return "a secret result"


@node
def fails(data: object) -> None:
    """Fail."""
    raise ValueError("a secret message")


@node
async def hop(data: object) -> object:
    """Take no time, among many."""
    return data


@node
def held(path: str) -> str:
    """Wait until there is a file."""
    until(Path(path).exists, seconds=60, what="the gate")
    return "open"


def _second_time(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        raise ValueError("a secret message")
    return "done"


@node(retries=1, retry_delay=0.05, limit=Limit(concurrent=1, name="knocks"))
def knock(path: str) -> str:
    """Fail the first time."""
    return _second_time(path)


@node(retries=1, retry_delay=0.05, limit=Limit(concurrent=1, name="knocks"))
async def aknock(path: str) -> str:
    """The same, among many."""
    return _second_time(f"{path}.async")


naps = Sequence(parallel(nap, nap.alias("doze"), fails, name="beds", on_error="collect"), name="naps")
deep = Sequence(parallel(nap >> hop, parallel(nap, nap.alias("again"), name="inner"), name="outer"), name="deep")
hops = Sequence(hop.map(), name="hops")
knocks = Sequence(parallel(knock, aknock, name="doors"), name="knocks")
holds = Sequence(parallel(held, held.alias("other"), name="doors"), name="holds")

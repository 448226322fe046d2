"""The functions that branches run, the same for every peer."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable
from typing import Any


def trivial(_item: object) -> int:
    """The least that a branch can do."""
    return 1


def spin(seconds: float) -> int:
    """Compute for this much CPU time of the thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return 1


def doze(seconds: float) -> int:
    """Wait and hold the thread, as for an answer from elsewhere."""
    time.sleep(seconds)
    return 1


async def asleep(seconds: float) -> int:
    """Wait without holding a thread."""
    await asyncio.sleep(seconds)
    return 1


def fetch(url: str) -> int:
    """Ask the benchmark's own web server."""
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - its own server, on loopback
        return len(answer.read())


def measure(text: str) -> int:
    """How long the input is; it has to be there for that."""
    return len(text)


def make(size: int) -> str:
    """A result of this many bytes."""
    return "x" * size


def collect(results: list[Any]) -> list[Any]:
    """Join branches."""
    return results


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (trivial, spin, doze, asleep, fetch, measure, make)
}
ASYNC = frozenset({"asleep"})


def leaves(result: object) -> int:
    """How many results there are in nested dicts and lists."""
    if isinstance(result, dict):
        return sum(map(leaves, result.values()))
    if isinstance(result, (list, tuple)):
        return sum(map(leaves, result))
    return 1

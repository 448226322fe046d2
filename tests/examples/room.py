"""A room where nodes meet: proof of what ran beside what, and how often, on any process of this machine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Span = dict[str, Any]

# Long for a machine that does other things too, short beside the time limit of a test.
PATIENCE = 20.0
_POLL = 0.005


class Alone(RuntimeError):
    """Raised when the others did not come: they do not run beside the node that waits for them."""


def work(
    data: Mapping[str, Any], name: str, *, together: int = 1, after: Iterable[str] = (), ended: bool = False
) -> Span:
    """The body of a node: be in the room until the others have come.

    Args:
        data: what the node was given; ``data["room"]`` is the folder.
        name: the node's name.
        together: how many different nodes must have started.
        after: nodes that must have started, or with ``ended`` must have ended.

    Returns:
        The node's name and when it started and ended, in ns of a clock that all processes of a machine share.

    Raises:
        Alone: they did not come in time.
    """
    folder, others = Path(data["room"]), tuple(after)
    with _visit(folder, name) as span:
        while not _have_come(folder, together, others, ended):
            _check_patience(span)
            time.sleep(_POLL)
    return span


async def awork(
    data: Mapping[str, Any], name: str, *, together: int = 1, after: Iterable[str] = (), ended: bool = False
) -> Span:
    """The same for an ``async def`` node."""
    folder, others = Path(data["room"]), tuple(after)
    with _visit(folder, name) as span:
        while not _have_come(folder, together, others, ended):
            _check_patience(span)
            await asyncio.sleep(_POLL)
    return span


def times(room: Path, name: str) -> int:
    """How often a node has started."""
    return len(list(room.glob(f"{name}~*.started")))


def peak(spans: Iterable[Span]) -> int:
    """The most nodes that ran at one moment."""
    # An end before a start of the same moment: touching is not overlapping.
    moments = sorted(moment for span in spans for moment in ((span["started"], 1), (span["ended"], -1)))
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


def order(spans: Iterable[Span]) -> list[str]:
    """The names of the nodes in the order in which they started."""
    return [span["name"] for span in sorted(spans, key=lambda span: span["started"])]


@contextmanager
def _visit(folder: Path, name: str) -> Iterator[Span]:
    visit = f"{name}~{uuid.uuid4().hex}"
    span: Span = {"name": name, "started": time.monotonic_ns(), "ended": 0}
    (folder / f"{visit}.started").touch()
    try:
        yield span
    finally:
        span["ended"] = time.monotonic_ns()
        (folder / f"{visit}.ended").touch()


def _have_come(folder: Path, together: int, others: tuple[str, ...], ended: bool) -> bool:
    if len(_names(folder, "started")) < together:
        return False
    return set(others) <= _names(folder, "ended" if ended else "started")


def _names(folder: Path, what: str) -> set[str]:
    return {path.name.partition("~")[0] for path in folder.glob(f"*.{what}")}


def _check_patience(span: Span) -> None:
    if time.monotonic_ns() - span["started"] > PATIENCE * 1e9:
        raise Alone(f"node {span['name']!r} waited {PATIENCE} s for others that did not come")

"""How many branches each lane of this process may run at a time, for the report of a worker whose pool it is itself."""

from __future__ import annotations

_RUNNING: dict[str, int] = {}


def tell(lane: str, width: int) -> None:
    """A lane is at a block where it may run so many."""
    _RUNNING[lane] = width


def forget(lane: str) -> None:
    """A lane has ended."""
    _RUNNING.pop(lane, None)


def running() -> dict[str, int]:
    """The lanes that run now, by the ids of their tasks."""
    return dict(_RUNNING)

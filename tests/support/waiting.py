"""Waiting for a condition, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], *, seconds: float = 20.0, what: str = "the condition") -> None:
    """Return once ``condition()`` is true; fail after ``seconds``."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)


def let_pass(seconds: float) -> None:
    """Let time pass: only where something must not happen in it."""
    time.sleep(seconds)

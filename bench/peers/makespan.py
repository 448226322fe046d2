"""How soon branches of known durations can be done."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def bound(durations: Sequence[float], slots: int) -> float:
    """Seconds that no schedule on so many slots beats: the work shared evenly, or the longest branch."""
    return max(sum(durations) / slots, max(durations, default=0.0))


def sliding(durations: Sequence[float], slots: int) -> float:
    """Seconds that a window takes which slides without delay: each branch in its turn, as soon as a slot is free."""
    free = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def extrapolated(known: Sequence[tuple[float, float]], amount: float) -> float:
    """Seconds for so much work, from what smaller amounts took: a straight line through the two largest.

    One alone says nothing, since nobody knows what part of it grows.

    Args:
        known: amounts and seconds.
        amount: of the work.
    """
    if len(known) < 2:
        return 0.0
    (less, before), (more, after) = sorted(known)[-2:]
    return after + max(0.0, after - before) / (more - less) * (amount - more)

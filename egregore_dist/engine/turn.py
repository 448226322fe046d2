"""When a lane gives its slot back: it has had its turn, and others wait for a slot."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

#: Seconds that a lane serves at least, before it looks whether others wait. Coming anew costs some milliseconds.
TURN = 0.015

# It is also so many times as long as coming took: a large input is not read for a few branches. No more than the
# second, in seconds, or what coming took up to the third, which may have been an outage: others wait for it.
_COMING, _COMING_MOST, _AS_LONG = 3, 1.0, 10.0
# A lane of many can leave only when all of them have ended. Where that takes longer than the first, in seconds, it
# stays for the second, or twice as long as it has tried to leave: else its slot would stand idle behind a few long
# ones. Each time it tries twice as long, so that it leaves at last, whatever its branches take.
_DRAIN, _STAY = 1.0, 10.0


class Turn:
    """The turn of one lane, from now on.

    Args:
        others_wait: whether somebody has been seen to wait for a slot since a time; asked after every lease, so it must
            cost nothing.
    """

    def __init__(self, others_wait: Callable[[float], bool]) -> None:
        self._others_wait = others_wait
        self._began = monotonic()
        self._until = self._began + TURN
        self._has_come = False
        self._over: float | None = None
        self._drain = _DRAIN

    def came(self) -> None:
        """The lane calls a node; coming ends with the first one."""
        if not self._has_come:
            self._has_come, now = True, monotonic()
            took = now - self._began
            self._until = max(self._until, now + min(_COMING * took, max(_COMING_MOST, min(took, _AS_LONG))))

    def is_over(self) -> bool:
        """Whether the lane should leave; once it should, that stays so."""
        # Who was seen before it began may have been this lane.
        if self._over is None and (now := monotonic()) >= self._until and self._others_wait(self._began):
            self._over = now
        return self._over is not None

    def extend(self) -> None:
        """The lane should have left, and has branches that go on: it stays where they take too long."""
        if self._over is not None and (now := monotonic()) - self._over > self._drain:
            self._over, self._until = None, now + max(_STAY, 2 * self._drain)
            self._drain *= 2

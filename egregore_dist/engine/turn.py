"""When a lane gives its slot back: it has had its turn, and others wait for a slot."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

#: Seconds that a lane serves at least, before it looks whether others wait. Coming anew costs some milliseconds.
TURN = 0.015

# It is also so many times as long as coming took: a large input is not read for a few branches. No more than the
# second, in seconds, or what coming took up to the third, which may have been an outage: others wait for it.
_COMING, _COMING_MOST, _AS_LONG = 3, 1.0, 10.0
# A lane of many can leave only when all of them have ended, and its slot stands idle for those that have. Where that
# costs more than the first, in seconds of the whole slot, or, while they end one after another, a share of its time
# here, up to the last, it stays for some times as long: else a few long ones would hold a slot that others of their
# block could use. The next time it may cost more, so that the lane leaves at last, whatever its branches take.
_DRAIN, _SHARE, _MOST = 1.0, 0.4, 30.0
_STAY, _MORE = 3, 2


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
        self._served = self._began
        self._has_come = False
        self._over: float | None = None
        self._drain = _DRAIN
        # Since it should leave: how long its slot was idle when this was seen, and the part that has been idle since.
        self._idle = self._part = self._seen = self._ended = 0.0

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

    def extend(self, held: int, of: int) -> None:
        """The lane should have left, and has branches that go on: it stays where waiting for them costs much.

        Args:
            held: how many go on.
            of: how many have gone on at a time here.
        """
        if self._over is None:
            return
        now = monotonic()
        part = 1 - held / of
        if self._seen < self._over:
            self._idle, self._part, self._seen, self._ended = 0.0, part, self._over, now
        if part > self._part:
            self._ended = now
        self._idle += self._part * (now - self._seen)
        self._part, self._seen = part, now
        may_cost = self._drain
        if now - self._ended <= max(_DRAIN, (now - self._over) / 2):
            may_cost = max(may_cost, min(_SHARE * (now - self._served), _MOST))
        if self._idle > may_cost:
            self._over, self._served = None, now
            self._until, self._drain = now + _STAY * may_cost, _MORE * may_cost

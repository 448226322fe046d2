"""The lookout of a worker: sees whether somebody waits for one of its slots, for the lanes that have had their turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import Protocol

from egregore_dist.engine import others

# Seconds between two looks: while lanes ask, and without any at work.
OFTEN, SELDOM = 0.02, 0.2
# A lane that is at a long branch cannot leave yet: it is looked for less often the longer it has not asked.
_SHARE, _AT_LEAST_EVERY = 0.1, 1.0
# The pool says so much later at most which lanes it has begun.
_NEWS = 1.0
# So long after the last look the broker's connection is closed: nobody keeps it alive.
_KEPT = 10.0


class Queues(Protocol):
    """The queues of the broker."""

    def waiting(self, names: Iterable[str]) -> int | None:
        """How many messages wait on these; None where the broker does not say."""

    def close(self) -> None:
        """Close the connection until it is needed again."""


class Lookout:
    """Looks, when it is told to, if any lane asks for it.

    Args:
        queues: asked for what this worker has not received.
        names: the queues that this worker takes lanes of.
    """

    def __init__(self, queues: Queues, names: Callable[[], Collection[str]]) -> None:
        self._queues = queues
        self._names = names
        self._none_at = monotonic()
        self._next = 0.0

    def look(self, *, lanes: int, at_work: int, received: int, slots: int, is_short: bool = False) -> float:
        """Look whether somebody waits, and say so; returns the seconds until the next look.

        Args:
            lanes: how many lanes are at work.
            at_work: how many tasks are, lanes and others.
            received: how many tasks this worker has taken from its queues and not begun.
            slots: how many shall be at work at a time; more are, where it has just become less.
            is_short: whether lanes are known to wait for what those at work have of the machine.
        """
        now, asked = monotonic(), others.asked()
        if not lanes:
            self._none_at = now
            if now > self._next + _KEPT:
                self._queues.close()
            return SELDOM
        if asked > self._none_at - _NEWS and now >= self._next:
            self._next = now + min(max(OFTEN, _SHARE * (now - asked)), _AT_LEAST_EVERY)
            others.say(
                at_work >= slots and self._somebody_waits(received, at_work > slots),
                for_room=is_short,
            )
        return OFTEN

    def _somebody_waits(self, received: int, is_over: bool) -> bool:
        # A lane that leaves publishes its successor, so without the broker it stays, whoever waits.
        waiting = self._queues.waiting(self._names())
        return waiting is not None and (is_over or waiting + received > 0)

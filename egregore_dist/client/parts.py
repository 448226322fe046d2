"""What a branch did itself that met blocks: its parts before, between and behind these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from egregore_dist.client.timeline import Attempt

#: Seconds: instants of events are whole milliseconds, so a part of one of these may have been nothing.
NEGLIGIBLE = 0.0015


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an attempt in which it did not wait for a block. Times are seconds.

    Attributes:
        start: when it began.
        end: when the branch met a block, or the attempt ended; None while it goes on.
        how: as `Attempt.how`; "ok" where the branch came to a block.
        worker: where; "" where that is not known.
        told: whether events tell that it had begun, and was not waiting for a lane.
        after: the block that it came behind, or "".
        until: the block that the branch came to, or "".
    """

    start: float
    end: float | None
    how: str
    worker: str
    told: bool
    after: str
    until: str

    def seconds(self, now: float) -> float:
        """How long it took, until now at most."""
        return (now if self.end is None else self.end) - self.start


def of(attempt: Attempt) -> list[Part] | None:
    """The parts of an attempt; None where events that would tell them are missing."""
    if attempt.cut is not None:
        return None
    found: list[Part] = []
    start, worker, told, after = attempt.start, attempt.worker, True, attempt.behind
    for park in attempt.parks:
        found.append(Part(start, park.since, "ok", worker, told, after, park.block))
        if park.until is None:
            return None if attempt.how == "ok" else found
        start, worker, told, after = park.until, park.worker, park.told, park.block
    return [*found, Part(start, attempt.end, attempt.how, worker, told, after, "")]


def between_blocks(attempts: Iterable[Attempt]) -> list[list[Part]] | None:
    """The parts of a branch, those together that lie behind the same block, in several attempts; None as above."""
    known: list[Part] = []
    for attempt in attempts:
        its = of(attempt)
        if its is None:
            return None
        # What took no time is none: a retry parks a branch again where it was.
        known += [part for part in its if part.end is None or part.end > part.start]
    return [list(alike) for _, alike in groupby(known, key=lambda part: part.after)]

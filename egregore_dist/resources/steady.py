"""Decisions that stay while what they come from is noisy: pure, and fed once a round."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from egregore_dist.resources.amounts import size
from egregore_dist.resources.report import Machine

#: Rounds in a row that must agree before a number falls since all have more than there is, before it falls since others
#: want more, and before it rises.
FALLS_AFTER, YIELDS_AFTER, RISES_AFTER = 2, 4, 2

# Left of the memory: below the first part of it, or so many bytes where that is less, nothing more is begun; above half
# as much again it is.
_LEFT, _LEFT_AT_MOST = 0.10, 512 * 2**20
_RELIEVED = 1.5
# Readings in a row.
_PRESSED_AFTER, _RELIEVED_AFTER = 2, 3


class Number:
    """A number that changes only once it has been wrong, in one direction, for some rounds in a row.

    After a change everything is seen anew. For others it falls by half at most: they may want less again soon.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int, bool]] = deque(maxlen=max(FALLS_AFTER, YIELDS_AFTER, RISES_AFTER))

    def next(self, now: int, least: int, most: int, *, is_over: bool = False) -> int:
        """What the number shall be, where it is ``now`` and should be between ``least`` and ``most``.

        Args:
            is_over: there is less than what all have together.
        """
        self._seen.append((least, most, is_over))
        found = now
        if (too_many := self._last(FALLS_AFTER)) and all(over and most < now for _, most, over in too_many):
            found = max(most for _, most, _ in too_many)
        elif (idle := self._last(YIELDS_AFTER)) and all(most < now for _, most, _ in idle):
            found = max(now // 2, *(most for _, most, _ in idle))
        elif (short := self._last(RISES_AFTER)) and all(least > now for least, _, _ in short):
            found = min(least for least, _, _ in short)
        if found != now:
            self._seen.clear()
        return found

    def _last(self, rounds: int) -> list[tuple[int, int, bool]]:
        return list(self._seen)[-rounds:] if len(self._seen) >= rounds else []


@dataclass(slots=True)
class Pressure:
    """Whether the memory is so short that nothing more should be begun; over again with a margin."""

    is_on: bool = False
    _disagreeing: int = 0

    def look(self, machine: Machine) -> str:
        """Take a measurement; returns why nothing more should be begun, "" where it may be."""
        available, total = min(_memories(machine), key=lambda one: one[0] / reserve(one[1]))
        below, above = reserve(total), int(_RELIEVED * reserve(total))
        disagrees = available >= above if self.is_on else available < below
        self._disagreeing = self._disagreeing + 1 if disagrees else 0
        if self._disagreeing >= (_RELIEVED_AFTER if self.is_on else _PRESSED_AFTER):
            self.is_on, self._disagreeing = not self.is_on, 0
        if not self.is_on:
            return ""
        marks = f"lanes end below {size(below)}, and are taken from {size(above)} on"
        return f"{size(available)} of {size(total)} left; {marks}"


def reserve(total: int) -> int:
    """Bytes that have to be left of so much memory."""
    return max(1, int(min(_LEFT * total, _LEFT_AT_MOST)))


def _memories(machine: Machine) -> list[tuple[int, int]]:
    found = [(machine.memory_available, machine.memory_total)]
    if machine.machine_total:
        found.append((machine.machine_available, machine.machine_total))
    return found

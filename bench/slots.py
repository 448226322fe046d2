"""Where the time of a block goes that has so many slots: a sum whose parts make up the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a branch, in seconds of one clock."""

    start: float
    end: float


def parts(
    executions: Sequence[Execution], *, asked: float, slots: int, submitted: float, ended: float, wall: float
) -> dict[str, float]:
    """The parts of a run's wall time, in seconds; together they are the wall time.

    Args:
        executions: of all branches.
        asked: seconds that the branches' own work takes together.
        slots: how many may run at a time.
        submitted: when the run was, on the executions' clock.
        ended: when it ended, on the same.
        wall: seconds from the client's call until it had the result.
    """
    first, last = min(each.start for each in executions), max(each.end for each in executions)
    last_start = max(each.start for each in executions)
    taken = sum(each.end - each.start for each in executions)
    idle_at_end = sum(max(0.0, last - max(end, last_start)) for end in _slots_end(executions, slots, last_start))
    between = slots * (last - first) - taken - idle_at_end
    return {
        "the work itself, shared evenly": asked / slots,
        "branches that took longer than asked": (taken - asked) / slots,
        "slots that were free while branches were left": between / slots,
        "slots that were free at the end, when none was left": idle_at_end / slots,
        "before the first branch began": first - submitted,
        "after the last branch had ended": ended - last,
        "the client, before and after": wall - (ended - submitted),
    }


def _slots_end(executions: Sequence[Execution], slots: int, last_start: float) -> list[float]:
    """When each slot was free for good: not before the last start, since until then branches were left."""
    ends = sorted((each.end for each in executions if each.end > last_start), reverse=True)[:slots]
    return ends + [last_start] * (slots - len(ends))

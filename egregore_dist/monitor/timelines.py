"""The timelines of runs, each read on from where it was read to before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from egregore_dist.client.timeline import Attempt, Timeline, read_on
from egregore_dist.ledger import Ledger
from egregore_dist.ledger.browse import BlockGlance, Branch

# Runs whose timelines are remembered.
_RUNS_KEPT = 8


def times(timeline: Timeline, block: BlockGlance, row: Branch) -> tuple[float | None, Attempt | None]:
    """How long a branch waited before it first ran, and its last attempt: None where that is not known."""
    attempts = timeline.attempts.get((block.id, row.position))
    if not attempts:
        return None, None
    first, last = attempts[0], attempts[-1]
    waited = first.start - block.opened / 1000
    if not timeline.lacks(block.id):
        return waited, last
    # There may have been another attempt since; and where it has met a block, what was seen may be how it went on.
    is_last = {"running": last.end is None, "ok": last.how == "ok", "error": last.how == "error"}.get(row.state, True)
    if row.at or last.cut is not None or not is_last:
        return None, None
    is_first = first.number == 1 and first.cut is None and block.reopened is None
    return waited if is_first else None, last


class Timelines:
    """The timelines of the runs that were looked at last, each read on where it is asked for again."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: OrderedDict[tuple[str, float], tuple[threading.Lock, Timeline]] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def read(self, run: str, created: float) -> Iterator[Timeline]:
        """A run's timeline up to now; nobody else changes it within the body.

        Args:
            run: its id.
            created: when it was submitted: an id may be used again after a run was deleted.
        """
        with self._lock:
            key = (run, created)
            if key not in self._known:
                self._known[key] = (threading.Lock(), Timeline())
            self._known.move_to_end(key)
            lock, timeline = self._known[key]
            while len(self._known) > _RUNS_KEPT:
                self._known.popitem(last=False)
        with lock:
            read_on(self._ledger, run, timeline)
            yield timeline

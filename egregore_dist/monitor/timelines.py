"""The timelines of runs, each read on from where it was read to before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from egregore_dist.client.timeline import Timeline, read_on
from egregore_dist.ledger import Ledger

# Runs whose timelines are remembered.
_RUNS_KEPT = 8


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

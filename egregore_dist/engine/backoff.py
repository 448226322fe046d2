"""Tells people of branches that wait before a node of theirs is called again; nothing depends on it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import replace

from egregore_dist import errors
from egregore_dist.engine.later import Later
from egregore_dist.ledger import Ledger, Waiting

log = logging.getLogger(__name__)

# Seconds: what is over before somebody could read it is not told.
_WORTH = 1.0
# Branches that one call tells of.
_AT_ONCE = 200
# Of those that nobody could be told of yet, the latest.
_KEPT = 10_000


class Backoffs:
    """The waits of one process.

    Args:
        later: writes to the ledger off the lane's thread.
    """

    def __init__(self, ledger: Ledger, later: Later) -> None:
        self._ledger = ledger
        self._later = later
        self._news: deque[tuple[str, float, Waiting]] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def tell(self, run: str, waiting: Waiting) -> None:
        """A branch waits, from now on."""
        if waiting.seconds < _WORTH:
            return
        with self._lock:
            self._news.append((run, time.monotonic() + waiting.seconds, waiting))
        self._later.put("branches that wait", 0.0, self._tell)

    def _tell(self) -> None:
        with self._lock:
            news = list(self._news)
            self._news.clear()
        by_run: dict[str, list[Waiting]] = {}
        now = time.monotonic()
        for run, until, waiting in news:
            if until > now:
                by_run.setdefault(run, []).append(replace(waiting, seconds=until - now))
        try:
            for run, found in by_run.items():
                for start in range(0, len(found), _AT_ONCE):
                    self._ledger.backoff(run, found[start : start + _AT_ONCE])
        except errors.BrokerUnavailable as error:
            log.info("branches that wait are not told of: %s", error, extra={"action": "not_told"})

"""The deadlines of a run that is waited for: kept by who waits, where no janitor is there to do it."""

from __future__ import annotations

import time
from functools import partial

from egregore_dist import errors
from egregore_dist.client.session import Session
from egregore_dist.engine import publish
from egregore_dist.ledger import openblocks

# Seconds after its deadline in which a janitor, where there is one, has ended a block.
_LATE = 1.0
# Seconds until the first look, and between two: many runs have ended before.
_LOOK_EVERY = 2.0


class Deadlines:
    """Those of one run, while somebody waits for it."""

    def __init__(self, session: Session, run: str) -> None:
        self._session = session
        self._run = run
        self._cursor = 0
        self._due = time.monotonic() + _LOOK_EVERY

    def is_due(self) -> bool:
        """Whether it is time to look."""
        return time.monotonic() >= self._due

    def keep(self) -> None:
        """End the blocks that should have ended, as a janitor does; where one does it at the same time, that is all."""
        pause = _LOOK_EVERY
        try:
            found, self._cursor = openblocks.deadlines(self._session.ledger, self._run, self._cursor)
            for block, left in found.items():
                if left <= -_LATE:
                    self._end(block)
                else:
                    pause = min(pause, left + _LATE)
        except errors.BrokerUnavailable:
            # Whoever waits is told of that otherwise.
            pass
        self._due = time.monotonic() + pause

    def _end(self, block: str) -> None:
        wanted = self._session.ledger.sweep(self._run, "deadline", block, workers=None)
        if wanted:
            # A broker that does not answer must not hold up who waits.
            messages = partial(publish.messages, self._session.app, self._run, wanted)
            self._session.later.put(f"deadline {self._run} {block}", 0.0, messages)

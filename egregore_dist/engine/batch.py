"""The branches that a lane has leased at once, one of which it executes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from egregore_dist.ledger import Commit, Lease


class Batch:
    """The leases of one round, and what became of them; a lane that is long over one of them gives back the others.

    Args:
        serve: takes commits, and branches that are given back, and whether other lanes are called for these.
    """

    def __init__(self, serve: Callable[[list[Commit], list[int], bool], object]) -> None:
        self._serve = serve
        self._lock = threading.RLock()
        self._waiting: list[Lease] = []
        self._commits: list[Commit] = []

    def take(self, leases: list[Lease]) -> None:
        """Begin with these."""
        self._waiting = list(leases)

    def next(self) -> Lease | None:
        """The next to execute."""
        with self._lock:
            return self._waiting.pop(0) if self._waiting else None

    def add(self, commit: Commit) -> None:
        """One has ended."""
        with self._lock:
            self._commits.append(commit)

    def rest(self) -> tuple[list[Commit], list[int]]:
        """What has ended and what was not begun, since the last time."""
        with self._lock:
            commits, self._commits = self._commits, []
            waiting, self._waiting = self._waiting, []
            return commits, [lease.branch for lease in waiting]

    def share(self, *, calls: bool = True) -> None:
        """Commit what has ended and give back what was not begun, while one is executed.

        Args:
            calls: have another lane called for what is given back; not where others are called anyway.
        """
        # Under the lock, so that the lane does not speak to the ledger before it knows of this.
        with self._lock:
            commits, releases = self.rest()
            if not commits and not releases:
                return
            try:
                self._serve(commits, releases, calls)
            except Exception:
                # What has ended is not lost with the question; what was given back may have arrived, and is not begun.
                self._commits = commits + self._commits
                raise

"""The brake on guessed passwords."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

# Entries of each kind. A name or an address is one of them by a keyed hash: nobody can choose whose entry to share, and
# however many names and addresses a guesser has, no count is ever dropped to make room for another.
_ENTRIES = 2**16


class Attempts:
    """Counts wrong logins per name and per address, and makes each of them wait longer after each further one.

    The first ``allowed`` wrong logins cost nothing. After each further one the wait doubles, from ``first`` up to
    ``longest`` seconds. A count is forgotten once ``forget`` seconds have passed without a wrong login.

    Args:
        allowed: wrong logins without a wait.
        first: seconds of the first wait.
        longest: seconds of the longest wait.
        forget: seconds without a wrong login after which a count is forgotten.
        clock: the time, in seconds.
    """

    def __init__(
        self,
        allowed: int = 10,
        first: float = 10.0,
        longest: float = 300.0,
        forget: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = allowed
        self._first = first
        self._longest = longest
        self._forget = forget
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._wrong: dict[tuple[str, int], tuple[float, int]] = {}

    def wait(self, *subjects: tuple[str, str]) -> float:
        """Seconds until all of these may try again; 0 if they may now.

        Args:
            subjects: each as kind and value, such as ``("name", "admin")``.
        """
        return max(0.0, *(self._wait(self._entry(subject)) for subject in subjects))

    def begin(self, *subjects: tuple[str, str]) -> None:
        """Count a login as wrong, until `succeeded` takes that back."""
        now = self._clock()
        for entry in map(self._entry, subjects):
            self._wrong[entry] = (now, self._count(entry) + 1)

    def succeeded(self, *subjects: tuple[str, str]) -> None:
        """Take back the last `begin`."""
        for entry in map(self._entry, subjects):
            at, wrong = self._wrong.pop(entry, (0.0, 0))
            if wrong > 1:
                self._wrong[entry] = (at, wrong - 1)

    def _entry(self, subject: tuple[str, str]) -> tuple[str, int]:
        kind, value = subject
        digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, key=self._key).digest()
        return kind, int.from_bytes(digest) % _ENTRIES

    def _count(self, entry: tuple[str, int]) -> int:
        at, wrong = self._wrong.get(entry, (0.0, 0))
        return wrong if self._clock() - at < self._forget else 0

    def _wait(self, entry: tuple[str, int]) -> float:
        over = self._count(entry) - self._allowed
        if over < 0:
            return 0.0
        seconds = min(self._longest, self._first * 2.0 ** min(over, 32))
        return self._wrong[entry][0] + seconds - self._clock()

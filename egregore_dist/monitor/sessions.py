"""Who is logged in. Sessions are kept by the monitor, so that each can be ended at once; they end with it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from egregore_dist.monitor.users import User, Users

#: Seconds that a session lasts.
LASTS = 12 * 3600.0

#: Sessions of one user at a time: a further login ends the oldest.
AT_MOST = 100

_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Session:
    """A user at work.

    Attributes:
        user: who.
        id: the secret that the browser holds, or "" for a bearer of the token.
    """

    user: User
    id: str = field(repr=False)

    @property
    def has_cookie(self) -> bool:
        """Whether a browser holds the session, and sends it with whatever another site has it ask."""
        return bool(self.id)

    @property
    def csrf(self) -> str:
        """The token that each form of this session must have."""
        return hmac.digest(self.user.key, f"form {self.id}".encode(), "sha256").hex()

    def sent_by(self, csrf: str) -> bool:
        """Whether a form with this token is from a page of this session."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


class Sessions:
    """The sessions of browsers, by the hash of their secret.

    A session ends after `LASTS` seconds, at logout, and when its user is removed or has another password or role.

    Args:
        users: who may log in.
        clock: the time, in seconds.
    """

    def __init__(self, users: Users, clock: Callable[[], float] = time.monotonic) -> None:
        self._users = users
        self._clock = clock
        # The oldest first: by the digest of the secret, whose it is and since when.
        self._held: OrderedDict[bytes, tuple[User, float]] = OrderedDict()

    def begin(self, user: User) -> Session:
        """Start the session of a user who has just logged in."""
        session = Session(user, secrets.token_urlsafe(32))
        self._held[_digest(session.id)] = (user, self._clock())
        own = [digest for digest, (other, _) in self._held.items() if other.name == user.name]
        for digest in own[:-AT_MOST]:
            del self._held[digest]
        return session

    def find(self, secret: str) -> Session | None:
        """The session of a cookie, or None if there is none or it has ended."""
        if len(secret) > _LONGEST:
            return None
        digest = _digest(secret)
        user, since = self._held.get(digest, (None, 0.0))
        if user is None:
            return None
        if self._clock() - since >= LASTS or self._users.get(user.name) != user:
            del self._held[digest]
            return None
        return Session(user, secret)

    def end(self, session: Session) -> None:
        """End one session."""
        self._held.pop(_digest(session.id), None)

    def end_all(self, name: str) -> None:
        """End every session of a user."""
        for digest in [digest for digest, (user, _) in self._held.items() if user.name == name]:
            del self._held[digest]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()

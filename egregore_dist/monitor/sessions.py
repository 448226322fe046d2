"""Sessions without a store: a signed cookie, a token against forged forms, and the brake on guessed passwords."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from egregore_dist.monitor.users import User, Users

#: Seconds that a session lasts.
LASTS = 12 * 3600.0

_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Session:
    """A user at work.

    Attributes:
        user: who.
        id: what the token of their forms is made of.
        cookie: whether a browser holds the session.
    """

    user: User
    id: str = field(repr=False)
    cookie: bool = True

    @property
    def csrf(self) -> str:
        """Must be in every form that changes something."""
        return hmac.digest(self.user.key, f"form {self.id}".encode(), "sha256").hex()

    def sent_by(self, csrf: str) -> bool:
        """Whether a form with this token is from a page of this session."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


class _Ticket(msgspec.Struct, array_like=True):
    name: str
    at: float
    nonce: str


def issue(user: User, *, now: float | None = None) -> str:
    """A cookie for who has just logged in."""
    at = time.time() if now is None else now
    ticket = msgspec.json.encode(_Ticket(user.name, at, secrets.token_urlsafe(9)))
    return f"{_text(ticket)}.{_text(_sign(user, ticket))}"


def open_cookie(cookie: str, users: Users, *, now: float | None = None) -> Session | None:
    """The session of a cookie, or None where it is forged, too old, or of nobody."""
    if len(cookie) > _LONGEST:
        return None
    body, _, signature = cookie.partition(".")
    try:
        raw, given = _bytes(body), _bytes(signature)
        ticket = msgspec.json.decode(raw, type=_Ticket)
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        return None
    user = users.get(ticket.name)
    if user is None or not hmac.compare_digest(_sign(user, raw), given):
        return None
    age = (time.time() if now is None else now) - ticket.at
    return Session(user, cookie) if age < LASTS else None


def _sign(user: User, ticket: bytes) -> bytes:
    return hmac.digest(user.key, b"cookie" + ticket, "sha256")


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


class Attempts:
    """Slows down guessing: so many wrong logins for a name or from an address, then none for a while.

    Args:
        allowed: wrong logins within the window.
        window: seconds.
        clock: tells the time.
    """

    # Addresses are cheap to whoever has many of them; what is remembered of them is bounded.
    _REMEMBERED = 10_000

    def __init__(self, allowed: int = 10, window: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed = allowed
        self._window = window
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait(self, *subjects: str) -> float:
        """Seconds until these may try again; 0 where they may now."""
        left = 0.0
        for subject in subjects:
            since, wrong = self._wrong.get(subject, (0.0, 0))
            if wrong >= self._allowed:
                left = max(left, since + self._window - self._clock())
        return left

    def begin(self, *subjects: str) -> None:
        """Count a login as wrong, until it turns out that it is not."""
        now = self._clock()
        for subject in subjects:
            since, wrong = self._wrong.pop(subject, (now, 0))
            fresh = now - since < self._window
            self._wrong[subject] = (since, wrong + 1) if fresh else (now, 1)
        while len(self._wrong) > self._REMEMBERED:
            self._wrong.popitem(last=False)

    def succeeded(self, *subjects: str) -> None:
        """Take back the last `begin`."""
        for subject in subjects:
            since, wrong = self._wrong.pop(subject, (0.0, 1))
            if wrong > 1:
                self._wrong[subject] = (since, wrong - 1)

"""Who may do what: roles, the file of users, the token."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from egregore_dist import errors
from egregore_dist.wire import private_file, strength

log = logging.getLogger(__name__)

SHORTEST_PASSWORD = 8
# Longer ones would only keep scrypt busy.
LONGEST_PASSWORD = 1024

# Seconds between two looks at the file of users.
_LOOK_AGAIN = 1.0

_COST, _BLOCK, _LANES = 2**14, 8, 1
_WHAT = "the users' file"
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_HASH = re.compile(r"scrypt\$([A-Za-z0-9+/]{22}==)\$([A-Za-z0-9+/]{43}=)")


class Role(IntEnum):
    """What somebody may do; each role may do what those below it may."""

    VIEWER = 1
    """See runs, their pictures and timelines, and workers; no data of the nodes, and no error's text."""
    OPERATOR = 2
    """See inputs, results and tracebacks; cancel, pause, resume and retry runs."""
    ADMIN = 3
    """Delete runs."""

    @property
    def word(self) -> str:
        """As it is written in a file of users."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may use the monitor.

    Attributes:
        name: "" for who has the token, or needs none.
        role: what they may do.
        key: signs their sessions: those end when the password changes.
    """

    name: str
    role: Role
    key: bytes = field(repr=False)


class Users:
    """Everybody that may use the monitor: by a password, or by the token.

    Args:
        hashes: role and hashed password by name, as `read` gives them.
        token: opens the monitor to who has it.
        role: of who has the token.
        file: read anew once it has changed, in place of ``hashes``.

    Raises:
        errors.ConfigurationError: the token is weak.
    """

    def __init__(
        self,
        hashes: Mapping[str, tuple[Role, str]],
        token: str | None = None,
        role: Role = Role.OPERATOR,
        *,
        file: Path | None = None,
    ) -> None:
        if token is not None:
            strength.refuse_weak(token, "the monitor's token")
        self._hashes = dict(hashes)
        # It is long and random, so that a quick hash protects it as well as a slow one.
        self._token = None if token is None else hashlib.sha256(token.encode()).digest()
        self._role = role
        # What the password of a name that nobody has is compared with, so that it takes as long.
        self._nobody = hash_password(secrets.token_hex(16))
        self._file = file
        self._version = None if file is None else _version(file)
        self._looked = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._hashes) or self._token is not None

    @property
    def has_names(self) -> bool:
        """Whether anybody has a name, and not only the token."""
        return bool(self._hashes)

    def get(self, name: str) -> User | None:
        """The user of this name; of "" who has the token."""
        if name == "":
            return None if self._token is None else User("", self._role, _key(self._token))
        self._read_anew()
        if name not in self._hashes:
            return None
        role, hashed = self._hashes[name]
        return User(name, role, _key(hashed.encode()))

    def by_token(self, token: str) -> User | None:
        """Who has this token, or None."""
        given = hashlib.sha256(token.encode()).digest()
        if self._token is None or not hmac.compare_digest(given, self._token):
            return None
        return self.get("")

    def by_password(self, name: str, password: str) -> User | None:
        """The user of this name and password, or None; slow on purpose."""
        self._read_anew()
        _, hashed = self._hashes.get(name, (None, self._nobody))
        fits = _fits(password[:LONGEST_PASSWORD], hashed)
        return self.get(name) if fits and name in self._hashes else None

    def _read_anew(self) -> None:
        """Take over the file of users where it has changed; one that cannot be read leaves them as they were."""
        if self._file is None or time.monotonic() - self._looked < _LOOK_AGAIN:
            return
        self._looked = time.monotonic()
        version = _version(self._file)
        if version == self._version:
            return
        self._version = version
        try:
            self._hashes = read(self._file)
        except errors.ConfigurationError as error:
            log.error("monitor: the users stay as they were: %s", error, extra={"action": "users_unreadable"})


def read(path: Path) -> dict[str, tuple[Role, str]]:
    """The users of a file: role and hashed password by name.

    Raises:
        errors.ConfigurationError: it cannot be read, others can read it, or a line of it is wrong.
    """
    return parse(private_file.read(path, _WHAT), path)


def parse(text: str, path: Path) -> dict[str, tuple[Role, str]]:
    """The users of the text of a file: a line each, ``name:role:hash``.

    Args:
        text: what the file holds.
        path: the file, for errors.

    Raises:
        errors.ConfigurationError: a line is wrong, or there is no user.
    """
    users: dict[str, tuple[Role, str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        word, _, hashed = rest.partition(":")
        if not _NAME.fullmatch(name) or word.upper() not in Role.__members__ or not _HASH.fullmatch(hashed):
            # The line may hold a password that somebody wrote in plain.
            raise errors.ConfigurationError(
                f"line {number} of the users' file {path} is not name:role:hash; make one with: "
                f"egregore-dist monitor --users {path} --add-user NAME --role viewer|operator|admin"
            )
        if name in users:
            raise errors.ConfigurationError(f"line {number} of the users' file {path}: there is another {name!r}")
        users[name] = (Role[word.upper()], hashed)
    if not users:
        raise errors.ConfigurationError(f"the users' file {path} has no user")
    return users


def add(path: Path, name: str, role: Role, password: str) -> None:
    """Add a user to a file, or give one another password and role; the file is made where there is none.

    Raises:
        errors.ConfigurationError: the name or the password cannot be, or the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise errors.ConfigurationError(f"user {name!r}: letters, digits, '_', '.', '@' and '-' only, 1 to 64 of them")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise errors.ConfigurationError(
            f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, this one {len(password)}"
        )
    lines = private_file.read(path, _WHAT).splitlines() if os.path.lexists(path) else []
    kept = [line for line in lines if line.partition(":")[0].strip() != name]
    try:
        # A name that nobody can have made before, opened for its owner alone.
        descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write("\n".join([*kept, f"{name}:{role.word}:{hash_password(password)}", ""]))
            os.replace(new, path)
        except BaseException:
            os.unlink(new)
            raise
    except OSError as error:
        raise errors.ConfigurationError(f"the users' file {path} cannot be written: {error.strerror}") from error


def _version(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def hash_password(password: str) -> str:
    """A password as it is stored."""
    salt = os.urandom(16)
    return f"scrypt${base64.b64encode(salt).decode()}${base64.b64encode(_scrypt(password, salt)).decode()}"


def _fits(password: str, hashed: str) -> bool:
    match = _HASH.fullmatch(hashed)
    assert match is not None
    try:
        salt, wanted = (base64.b64decode(part, validate=True) for part in match.groups())
    except binascii.Error:
        return False
    return hmac.compare_digest(_scrypt(password, salt), wanted)


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_LANES, dklen=32)


def _key(hashed: bytes) -> bytes:
    return hmac.digest(hashed, b"sessions of the monitor", "sha256")

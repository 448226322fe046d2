"""Files that hold a secret: read only where nobody else can read or replace them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from egregore_dist import errors

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read(path: Path, what: str, mode: int = 0o600) -> str:
    """The text of a file that belongs to this user or to root, and that is not open to others.

    Everything is checked on the open file, so that it cannot be exchanged in between.

    Args:
        path: the file itself; a symbolic link is refused.
        what: what the file is, for errors, such as ``"the users' file"``.
        mode: what its group and others may do at most.

    Raises:
        errors.ConfigurationError: the file cannot be read, or is not private; names the path and the cure.
    """
    try:
        descriptor = os.open(path, _FLAGS)
        with open(descriptor, encoding="utf-8") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise errors.ConfigurationError(f"{what} {path} is not a regular file")
            if status.st_uid not in (0, os.geteuid()):
                raise errors.ConfigurationError(f"{what} {path} belongs to another user: chown {os.geteuid()} {path}")
            if status.st_mode & 0o077 & ~mode:
                raise errors.ConfigurationError(f"{what} {path} is open to others: chmod {mode:o} {path}")
            return file.read()
    except UnicodeDecodeError:
        raise errors.ConfigurationError(f"{what} {path} cannot be read: it is not UTF-8") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise errors.ConfigurationError(f"{what} {path} is a symbolic link: name the file itself") from None
        raise errors.ConfigurationError(f"{what} {path} cannot be read: {error.strerror}") from None

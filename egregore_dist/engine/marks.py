"""Marks the processes that branches start. The worker ends them by their mark when their pool process has died.

On Linux, the mark is the soft value of a resource limit: each process inherits it, whatever its parent, session and
environment. Elsewhere, it is an environment variable.
"""

from __future__ import annotations

import os
import resource
from hashlib import blake2b
from pathlib import Path

import psutil

_VARIABLE = "_EGREGORE_BRANCH_OF"
# Bytes of a mark: so many that no two are alike, and that it is below "unlimited".
_SIZE = 7


def _unused_limit() -> int | None:
    # Linux has not enforced the limit of file locks since 2.4.25. A sandbox may refuse to set it.
    limit: int | None = getattr(psutil, "RLIMIT_LOCKS", None)
    if limit is not None:
        before = resource.getrlimit(limit)
        try:
            resource.setrlimit(limit, (2 ** (8 * _SIZE), before[1]))
            resource.setrlimit(limit, before)
        except (OSError, ValueError):
            return None
    return limit


_LIMIT = _unused_limit()
_UNMARKED, _HARD = (0, 0) if _LIMIT is None else resource.getrlimit(_LIMIT)


def of(board: Path) -> str:
    """The mark of what is started by the branches of the pool process that has this board."""
    return str(int.from_bytes(blake2b(str(board).encode(), digest_size=_SIZE).digest()))


def put_on(mark: str) -> None:
    """Mark the processes that this one starts from now on."""
    if _LIMIT is not None:
        resource.setrlimit(_LIMIT, (int(mark), _HARD))
    else:
        os.environ[_VARIABLE] = mark


def take_off() -> None:
    """Do not mark the processes that this one starts from now on."""
    if _LIMIT is not None:
        resource.setrlimit(_LIMIT, (_UNMARKED, _HARD))
    else:
        os.environ.pop(_VARIABLE, None)


def read(process: psutil.Process) -> str:
    """The mark of a process, or a text that is no mark.

    Raises:
        psutil.Error: the process has ended, or belongs to another user.
    """
    if _LIMIT is not None:
        return str(process.rlimit(_LIMIT)[0])
    return process.environ().get(_VARIABLE, "")

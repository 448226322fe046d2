"""Where the boards of a pool's processes are: in a folder that the pool's worker makes."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

from egregore_dist.engine.board import Board

log = logging.getLogger(__name__)

#: Names the folder to a pool's processes, however they are started.
FOLDER = "_EGREGORE_BOARDS"

_PREFIX = "egregore-boards-"


def path() -> Path | None:
    """The file of this process's board: in the folder of the worker that started it, if there is one."""
    folder = os.environ.get(FOLDER)
    return Path(folder) / str(os.getpid()) if folder else None


def mine() -> Board:
    """The board of this process, which nobody reads if no worker has started it."""
    try:
        return Board(path())
    except OSError as error:
        # What there is of the file tells the worker that there will be none.
        log.warning("this process cannot be watched: %s", error, extra={"action": "no_board"})
        return Board()


class Folder:
    """Where the boards of this process's pool are; the processes that it starts find it."""

    def __init__(self) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            # Held while this process, or one of its pool, lives.
            held = _held(self.path)
            if held is not None:
                break
        self._lock = held
        os.environ[FOLDER] = str(self.path)

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        os.environ.pop(FOLDER, None)
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _held(folder: Path) -> int | None:
    """A lock on a new folder; None where another worker has taken it for one that was left, before it was locked."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    if folder.exists():
        return lock
    os.close(lock)
    return None


def remove_left() -> None:
    """Remove the folders of processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            # It is not ours.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)

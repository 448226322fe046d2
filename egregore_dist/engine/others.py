"""Whether others wait for a slot of this worker: its main process knows, and lanes that have had their turn ask.

Two times that the processes of a pool share with the worker that forked them: a look at memory, which nothing holds up.
"""

from __future__ import annotations

import mmap
import struct
from time import monotonic

_TIME = struct.Struct("@d")
_ASKED, _SEEN = 0, _TIME.size
_memory = mmap.mmap(-1, 2 * _TIME.size)


def wait(since: float) -> bool:
    """Whether somebody has been seen to wait, then or later; asked by a lane that would leave for them."""
    _TIME.pack_into(_memory, _ASKED, monotonic())
    (seen,) = _TIME.unpack_from(_memory, _SEEN)
    return bool(seen >= since)


def asked() -> float:
    """When a lane asked last; 0 where none did."""
    return float(_TIME.unpack_from(_memory, _ASKED)[0])


def say(waiting: bool) -> None:
    """Say whether somebody waits now."""
    _TIME.pack_into(_memory, _SEEN, monotonic() if waiting else 0.0)

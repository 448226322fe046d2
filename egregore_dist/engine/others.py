"""Whether others wait for a slot of this worker: its main process knows, and lanes that have had their turn ask.

Times that the processes of a pool share with the worker that forked them: a look at memory, which nothing holds up.
"""

from __future__ import annotations

import mmap
import struct
from time import monotonic

_TIME = struct.Struct("@d")
_ASKED, _SEEN, _SHORT = 0, _TIME.size, 2 * _TIME.size
_memory = mmap.mmap(-1, 3 * _TIME.size)


def wait(since: float, *, has_room: bool = False) -> bool:
    """Whether somebody has been seen to wait, then or later; asked by a lane that would leave for them.

    Args:
        since: when the lane began.
        has_room: whether it has room of the machine, for which others may wait too.
    """
    _TIME.pack_into(_memory, _ASKED, monotonic())
    (seen,), (short,) = _TIME.unpack_from(_memory, _SEEN), _TIME.unpack_from(_memory, _SHORT)
    return bool(seen >= since or (has_room and short >= since))


def asked() -> float:
    """When a lane asked last; 0 where none did."""
    return float(_TIME.unpack_from(_memory, _ASKED)[0])


def say(waiting: bool, *, for_room: bool = False) -> None:
    """Say whether somebody waits now, for a slot or only for room of the machine."""
    now = monotonic()
    _TIME.pack_into(_memory, _SEEN, now if waiting else 0.0)
    _TIME.pack_into(_memory, _SHORT, now if for_room else 0.0)

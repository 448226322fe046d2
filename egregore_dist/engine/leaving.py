"""Whether this worker was told to stop: its lanes then end after the branches that they are at.

One byte that the processes of a pool share with the worker that forked them.
"""

from __future__ import annotations

import mmap

_told = mmap.mmap(-1, 1)


def tell(leaving: bool) -> None:
    """Tell every lane of this worker to leave, or, before the first, to stay."""
    _told[0] = leaving


def told() -> bool:
    """Whether lanes shall leave."""
    return _told[0] == 1

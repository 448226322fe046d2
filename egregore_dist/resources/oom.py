"""Which process the kernel ends where memory is short."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger(__name__)

# Of a thousand: as if a process held so much more of the memory that there is.
_MORE, _MOST = 200, 1000


def end_first(pid: int) -> None:
    """Have the kernel end a process rather than the one that started it, if it holds about as much memory.

    What it starts itself counts as it does. Where there is no such kernel, or it does not allow it, nothing changes.
    """
    path = Path(f"/proc/{pid}/oom_score_adj")
    try:
        path.write_text(str(min(_MOST, int(path.read_text()) + _MORE)))
    except (OSError, ValueError) as error:
        log.debug("process %d is not ended first: %s", pid, error)

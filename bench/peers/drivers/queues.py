"""A Celery queue in Redis."""

from __future__ import annotations

import time
from typing import Any

_TIMEOUT = 60.0


def wait_until_empty(server: Any, queue: str) -> None:
    """Wait until all messages are acknowledged: what one piece of work leaves behind is not the next one's."""
    limit = time.monotonic() + _TIMEOUT
    while server.llen(queue) or server.hlen("unacked"):
        if time.monotonic() > limit:
            raise TimeoutError(f"queue {queue!r} was not empty after {_TIMEOUT:.0f} s")
        time.sleep(0.002)

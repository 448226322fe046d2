"""The chord's counter: Celery's Redis backend, without listening for results that never come."""

from __future__ import annotations

from typing import Any

import redis.connection
from celery.backends.redis import RedisBackend, SentinelBackend

from egregore_dist.ledger.connection import outlasting


class ChordBackend(RedisBackend):
    """Counts the lanes of a chord. A group listens for the result of each of its tasks, and lanes have none."""

    def _get_pool(self, **params: Any) -> Any:
        pool = super()._get_pool(**params)  # type: ignore[misc]
        pool.connection_class = outlasting(pool.connection_class)
        return pool

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        params: dict[str, Any] = super()._params_from_url(url, defaults)  # type: ignore[misc]
        if url.startswith("rediss://"):
            # Celery takes ssl_check_hostname=false for true, since it is a text.
            read = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
            params |= {name: value for name, value in read.items() if name.startswith("ssl_")}
        return params

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Listen for nothing."""

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """Remember nothing."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Forget nothing."""
        return result


class SentinelChordBackend(ChordBackend, SentinelBackend):
    """The same on the primary that sentinels name."""

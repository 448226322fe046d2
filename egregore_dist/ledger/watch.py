"""Connections to the ledger: how they are made, how their loss is told, and waiting in an event loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from egregore_dist import errors
from egregore_dist.ledger import replies
from egregore_dist.ledger.keys import Keys

# A connection that died in silence is noticed, and made again, within ten seconds.
CONNECTION: dict[str, Any] = {"socket_timeout": 6.0, "socket_connect_timeout": 3.0, "socket_keepalive": True}
EVENTS_READ = 1000

# How a server says that it takes no write, itself or (up to Redis 6) within the error of a script.
_REFUSALS = {
    "OOM": "its memory is full (maxmemory): raise the limit, or wait until finished runs have expired",
    "READONLY": "it is read-only, as a replica is: use the primary's address, or wait for the failover",
    "MISCONF": "it cannot write to its disk: make room there, and see the server's log",
    "UNBLOCKED": "it has just become a replica: use the primary's address, or wait for the failover",
    "NOREPLICAS": "it has too few replicas that follow it (min-replicas-to-write)",
}
_CODE = re.compile(rf"(?:^|[\s-])({'|'.join(_REFUSALS)})\s")


class Watch:
    """Waits for one run without a thread; an async context manager.

    Every method raises `errors.BrokerUnavailable` where the server cannot be reached.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        backoff = ExponentialWithJitterBackoff(cap=1.0, base=0.02)
        self._redis = redis.asyncio.Redis.from_url(url, retry=Retry(backoff, retries=3), **CONNECTION)
        self._keys = keys

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._redis.aclose()

    async def wait(self, run: str, seconds: float) -> bool:
        """As `Ledger.wait`."""
        with reachable():
            return bool(await self._redis.execute_command(*replies.wait_command(self._keys, run, seconds)))  # type: ignore[no-untyped-call]

    async def events(self, run: str, after: str, seconds: float) -> list[tuple[str, dict[str, bytes]]]:
        """As `Ledger.events`."""
        streams: dict[Any, Any] = {self._keys.part(run, "events"): after}
        with reachable():
            found = await self._redis.xread(streams, count=EVENTS_READ, block=max(1, int(seconds * 1000)))
        return replies.stream(found)


@contextmanager
def reachable() -> Iterator[None]:
    """Turn what redis-py raises into errors that a user can meet.

    Raises:
        errors.BrokerUnavailable: the server cannot be reached.
        errors.BrokerFull: it can, and refuses to write.
    """
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise errors.BrokerUnavailable(
            f"the ledger cannot be reached: {error}; is the server up, and the URL right?"
        ) from error
    except redis.exceptions.ResponseError as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise errors.BrokerFull(f"the server takes nothing more: {reason}") from error


def refusal(error: BaseException) -> str | None:
    """Why the server takes no write, and what to do; None where the error says something else."""
    if not isinstance(error, redis.exceptions.ResponseError):
        return None
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return _REFUSALS["OOM"]
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return _REFUSALS["READONLY"]
    found = _CODE.search(str(error))
    return _REFUSALS[found[1]] if found else None

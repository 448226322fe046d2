"""Waiting for a run in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from egregore_dist import errors
from egregore_dist.ledger import replies
from egregore_dist.ledger.connection import Refusals, async_client, options, reachable
from egregore_dist.ledger.keys import Keys
from egregore_dist.ledger.records import StreamOfRun


class Watch:
    """Waits for one run without a thread; an async context manager.

    Every method raises `errors.BrokerUnavailable` where the server cannot be reached.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        backoff = ExponentialWithJitterBackoff(cap=1.0, base=0.02)
        self._redis = async_client(url, retry=Retry(backoff, retries=3), **options(url))
        self._keys = keys
        self._refusals = Refusals()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._redis.aclose()

    async def wait(self, run: str, seconds: float) -> bool:
        """As `Ledger.wait`."""
        try:
            with _cancellable(), reachable():
                return bool(await self._redis.execute_command(*replies.wait_command(self._keys, run, seconds)))  # type: ignore[no-untyped-call]
        except errors.BrokerFull as error:
            with _cancellable(), reachable():
                has_ended = bool(await self._redis.exists(self._keys.part(run, "end")))
            if not has_ended:
                self._refusals.tell(error)
                await asyncio.sleep(replies.pause_for(seconds))
            return has_ended

    async def events(
        self, run: str, after: str, seconds: float, part: StreamOfRun = "events"
    ) -> list[tuple[str, dict[str, bytes]]]:
        """As `Ledger.events`."""
        streams: dict[Any, Any] = {self._keys.part(run, part): after}
        with _cancellable(), reachable():
            found = await self._redis.xread(streams, count=replies.EVENTS_READ, block=replies.block_for(seconds))
        return replies.stream(found)

    async def last(
        self, run: str, after: Mapping[StreamOfRun, str], seconds: float
    ) -> dict[StreamOfRun, tuple[str, dict[str, bytes]]]:
        """The last entries after these cursors, of the streams that have any; waits so long for one."""
        parts = {self._keys.part(run, part): part for part in after}
        streams: dict[Any, Any] = {key: after[part] for key, part in parts.items()}
        last: dict[StreamOfRun, tuple[str, dict[str, bytes]]] = {}
        block = replies.block_for(seconds)
        while streams:
            with _cancellable(), reachable():
                found = replies.streams(await self._redis.xread(streams, count=replies.EVENTS_READ, block=block))
            last |= {parts[key]: entries[-1] for key, entries in found.items()}
            streams = {key: entries[-1][0] for key, entries in found.items() if len(entries) == replies.EVENTS_READ}
            block = replies.block_for(0.001)
        return last


@contextmanager
def _cancellable() -> Iterator[None]:
    """Raise a cancellation that a call has swallowed.

    Until Python 3.12 `asyncio.wait_for`, with which redis-py sends, returns what is done where its task is cancelled at
    that moment: who waits for a run would wait on.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

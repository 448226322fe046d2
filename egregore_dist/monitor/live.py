"""Server-sent events: a page hears that what it shows has changed, and reads itself anew."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, replace

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from egregore_dist import errors
from egregore_dist.ledger import Ledger, runlist
from egregore_dist.ledger import limits as known_limits
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.ledger.records import StreamOfRun
from egregore_dist.monitor import lists
from egregore_dist.monitor.guard import Answer, Asked
from egregore_dist.monitor.lists import Filters
from egregore_dist.monitor.nodes import RUNS_LOOKED_AT
from egregore_dist.monitor.workers import machines

#: Pages that follow changes at a time, and those of one user.
STREAMS_AT_MOST = 200
STREAMS_OF_ONE = 100

# Seconds: between two messages to one page; between two looks at the list of runs, at the workers, at limits, at nodes
# and at what was set aside; until a silent connection is tried; until a browser asks again, since its user may not be
# let in any more.
_BETWEEN = 0.2
_LOOK_AT_RUNS = 0.5
_LOOK_AT_WORKERS = 2.0
_LOOK_AT_LIMITS = 1.0
_LOOK_AT_NODES = 2.0
_LOOK_AT_ASIDE = 1.0
_TRY = 15.0
_LASTS = 1800.0
# A look that takes long is taken less often, so that all of them together take a tenth of the time.
_SHARE = 10

_CURSOR = re.compile(r"[0-9]{1,16}(-[0-9]{1,10})?")


@dataclass(slots=True)
class _Look:
    """What was seen last at one list, for every page that shows it."""

    at: float
    seen: Hashable
    lock: asyncio.Lock
    pages: int = 0


class _Stream(StreamingResponse):
    """Server-sent events that release their place however they end, also before they begin."""

    def __init__(self, messages: AsyncIterator[str], release: Callable[[], None]) -> None:
        super().__init__(messages, media_type="text/event-stream")
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


class Live:
    """Tells pages of changes.

    Args:
        ledger: where they happen.
        stopping: whether the server ends, and the streams with it.
    """

    def __init__(self, ledger: Ledger, stopping: Callable[[], bool] = lambda: False) -> None:
        self._ledger = ledger
        self._stopping = stopping
        self._streams: Counter[str] = Counter()
        self._looks: dict[str, _Look] = {}

    def answers(self) -> dict[str, Answer]:
        """What answers each route, by its name."""
        return {"run_events": self._run, "logs_events": self._logs, "runs_events": self._list}

    async def _run(self, asked: Asked) -> Response:
        return self._stream(asked, self._of_run(asked.parts["run"], {"events": _cursor(asked)}))

    async def _logs(self, asked: Asked) -> Response:
        after: dict[StreamOfRun, str] = {"log": _cursor(asked)}
        if (events := asked.query.get("events")) is not None:
            # After a lost connection some of them may be told again, and the page reads itself once more.
            after["events"] = _known(events)
        return self._stream(asked, self._of_run(asked.parts["run"], after))

    async def _list(self, asked: Asked) -> Response:
        looks: dict[str, tuple[Callable[[], Hashable], float]] = {
            "workers": (self._workers, _LOOK_AT_WORKERS),
            "limits": (self._limits, _LOOK_AT_LIMITS),
            "nodes": (self._nodes, _LOOK_AT_NODES),
            "aside": (self._aside, _LOOK_AT_ASIDE),
        }
        if (of := asked.query.get("of")) in looks:
            return self._stream(asked, self._of_look(of, *looks[of]))
        # Pages that begin further back do not follow, and all that do share what was seen under one address.
        filters = replace(Filters.of(asked.query), before=None)
        return self._stream(asked, self._of_look(filters.address(), lambda: self._runs(filters), _LOOK_AT_RUNS))

    def _stream(self, asked: Asked, messages: AsyncIterator[str]) -> Response:
        # Bearers of the token have no name.
        user = (asked.session.user.name if asked.session else "") or f"address {asked.address}"
        if self._streams.total() >= STREAMS_AT_MOST or self._streams[user] >= STREAMS_OF_ONE:
            return PlainTextResponse("too many pages are open", 503, headers={"retry-after": "30"})
        # Counted now: a stream that begins later would let any number of others pass.
        self._streams[user] += 1
        return _Stream(self._guarded(messages), lambda: self._release(user))

    def _release(self, user: str) -> None:
        self._streams[user] -= 1
        if not self._streams[user]:
            del self._streams[user]

    async def _guarded(self, messages: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            yield "retry: 2000\n\n"
            async for message in messages:
                yield message
        except errors.BrokerUnavailable:
            # The browser asks again, with the cursor that it had.
            yield "event: away\ndata: {}\n\n"

    async def _of_run(self, run: str, after: dict[StreamOfRun, str]) -> AsyncIterator[str]:
        begun, tried, first = time.monotonic(), time.monotonic(), next(iter(after))
        async with self._ledger.watch() as watch:
            while time.monotonic() - begun < _LASTS and not self._stopping():
                found = await watch.last(run, after, 1.0)
                if found:
                    after |= {part: cursor for part, (cursor, _) in found.items()}
                    _, fields = found.get("events") or found["log"]
                    yield _message("change", after[first], fields.get("event", b"lines").decode())
                    tried = time.monotonic()
                    await asyncio.sleep(_BETWEEN)
                elif time.monotonic() - tried > _TRY:
                    tried = time.monotonic()
                    yield ": still here\n\n"

    async def _of_look(self, name: str, see: Callable[[], Hashable], every: float) -> AsyncIterator[str]:
        begun = tried = time.monotonic()
        look = self._looks.setdefault(name, _Look(0.0, None, asyncio.Lock()))
        before: Hashable = None
        look.pages += 1
        try:
            while time.monotonic() - begun < _LASTS and not self._stopping():
                took = await self._see(look, see, every)
                if look.seen != before:
                    # The first one too: something may have changed since the page was made.
                    before, tried = look.seen, time.monotonic()
                    yield _message("change", None, name)
                elif time.monotonic() - tried > _TRY:
                    tried = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(max(every, took * _SHARE * len(self._looks)))
        finally:
            look.pages -= 1
            if not look.pages:
                self._looks.pop(name, None)

    async def _see(self, look: _Look, see: Callable[[], Hashable], every: float) -> float:
        async with look.lock:
            begun = time.monotonic()
            if begun - look.at < every:
                return 0.0
            look.seen = await run_in_threadpool(see)
            look.at = time.monotonic()
            return look.at - begun

    def _runs(self, filters: Filters) -> Hashable:
        return runlist.find(self._ledger, filters.wanted, limit=lists.RUNS_SHOWN).runs

    def _workers(self) -> Hashable:
        return tuple(worker.report for machine in machines(self._ledger) for worker in machine.workers)

    def _limits(self) -> Hashable:
        return tuple(known_limits.every(self._ledger))

    def _nodes(self) -> Hashable:
        learned = {(name, profile.at) for name, profile in Profiles(self._ledger).everything().items()}
        return frozenset(learned), tuple(self._ledger.runs(RUNS_LOOKED_AT))

    def _aside(self) -> Hashable:
        return tuple(self._ledger.aside(lists.ASIDE_SHOWN))


def _cursor(asked: Asked) -> str:
    return _known(asked.headers.get("last-event-id") or asked.query.get("after") or "0")


def _known(cursor: str) -> str:
    return cursor if _CURSOR.fullmatch(cursor) else "0"


def _message(event: str, cursor: str | None, what: str) -> str:
    id = "" if cursor is None else f"id: {cursor}\n"
    data = msgspec.json.encode({"what": what}).decode()
    return f"{id}event: {event}\ndata: {data}\n\n"

"""What many pages that are open cost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from typing import Any, cast

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message

from egregore_dist.ledger import Ledger, runlist
from egregore_dist.monitor import routes
from egregore_dist.monitor.guard import Asked
from egregore_dist.monitor.live import STREAMS_AT_MOST, STREAMS_OF_ONE, Live
from egregore_dist.monitor.sessions import Session
from egregore_dist.monitor.users import Role, User

TAKES = 0.02
LISTS = 40
REST = (Role.VIEWER, b"key")


class Looks:
    """Takes the place of the list of runs, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self.all_seen = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **options: Any) -> runlist.Page:
        with self._lock:
            self.count += 1
        if self.count >= LISTS:
            self.all_seen.set()
        time.sleep(TAKES)
        return runlist.Page(runs=(), next=None, looked=0)


async def is_gone() -> bool:
    return False


def asked(query: str, address: str = "127.0.0.1") -> Asked:
    found = routes.find("GET", "/events")
    assert found.route is not None
    return Asked(
        route=found.route,
        parts={},
        query={"text": query},
        form={},
        session=None,
        path="/events",
        address=address,
        headers={},
        is_gone=is_gone,
    )


def live() -> Live:
    return Live(cast(Ledger, None))


def test_many_searches_cost_a_share(monkeypatch: Any) -> None:
    """However many lists are open, each with a search of its own, looking at them takes a tenth of the time or so."""
    looks = Looks()
    monkeypatch.setattr(runlist, "find", looks)

    async def watch() -> int:
        made, before = live(), 0
        async with AsyncExitStack() as stack:
            streams = []
            for number in range(LISTS):
                answer = await made.answers()["runs_events"](asked(str(number)))
                assert isinstance(answer, StreamingResponse)
                streams.append(await stack.enter_async_context(aclosing(cast(Any, answer.body_iterator))))
            reading = [asyncio.ensure_future(read(stream)) for stream in streams]
            assert await asyncio.to_thread(looks.all_seen.wait, 20)
            before = looks.count
            await asyncio.sleep(3)
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
        assert not made._looks
        return looks.count - before

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    assert asyncio.run(watch()) * TAKES < 0.3 * 3


def test_a_made_up_page_is_not_what_others_see(monkeypatch: Any) -> None:
    """Whatever page is asked for, what is looked at is the list that its address names."""
    wanted: list[runlist.Wanted] = []

    def find(ledger: Ledger, asked: runlist.Wanted, **options: Any) -> runlist.Page:
        wanted.append(asked)
        return runlist.Page(runs=(), next=None, looked=0)

    monkeypatch.setattr(runlist, "find", find)

    async def watch() -> None:
        made = live()
        query = {"text": "order", "before": "1000-order-1"}
        answer = cast(StreamingResponse, await made.answers()["runs_events"](replace(asked(""), query=query)))
        async with aclosing(cast(Any, answer.body_iterator)) as stream:
            await anext(stream)
            await anext(stream)
            assert list(made._looks) == ["/?text=order"]

    asyncio.run(watch())
    assert wanted == [runlist.Wanted(text="order")]


ANN, BOB = (Session(User(name, Role.VIEWER, b"key"), name) for name in ("ann", "bob"))


def test_s20_one_user_leaves_streams_for_others() -> None:
    """A user with as many pages open as one may have gets no more, from whichever address; another user does."""

    async def ask() -> list[int]:
        made = live()
        for number in range(STREAMS_OF_ONE):
            await made.answers()["runs_events"](replace(asked("", f"192.0.2.{number}"), session=ANN))
        answers = [
            await made.answers()["runs_events"](replace(asked("", address), session=session))
            for session, address in ((ANN, "192.0.2.1"), (ANN, "198.51.100.1"), (BOB, "192.0.2.1"))
        ]
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [503, 503, 200]


def test_s20_streams_are_reserved_before_they_begin() -> None:
    """However many ask at the same moment, no more than the limit of all users together get a stream."""

    async def ask() -> list[int]:
        made = live()
        asks = [
            made.answers()["runs_events"](replace(asked(""), session=Session(User(f"user {number}", *REST), "x")))
            for number in range(STREAMS_AT_MOST + 10)
        ]
        return [answer.status_code for answer in await asyncio.gather(*asks)]

    assert Counter(asyncio.run(ask())) == {200: STREAMS_AT_MOST, 503: 10}


def test_s20_a_stream_that_never_began_gives_its_place_back(monkeypatch: Any) -> None:
    """A browser that has gone before the first byte holds no place."""
    monkeypatch.setattr(runlist, "find", Looks())

    async def ask() -> int:
        made = live()
        for _ in range(STREAMS_OF_ONE):
            answer = await made.answers()["runs_events"](replace(asked(""), session=ANN))

            async def receive() -> Message:
                return {"type": "http.disconnect"}

            async def send(message: Message) -> None:
                raise OSError("the browser has gone")

            with suppress(OSError, ClientDisconnect, BaseExceptionGroup):
                await answer({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
        return (await made.answers()["runs_events"](replace(asked(""), session=ANN))).status_code

    assert asyncio.run(ask()) == 200

"""What many pages that are open cost."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, cast

from starlette.responses import StreamingResponse

from egregore_dist.ledger import Ledger, runlist
from egregore_dist.monitor import routes
from egregore_dist.monitor.guard import Asked
from egregore_dist.monitor.live import STREAMS_OF_ONE, Live

TAKES = 0.02
LISTS = 40


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


def test_one_user_leaves_streams_for_others(monkeypatch: Any) -> None:
    """Who has as many pages open as one may have gets no more; somebody elsewhere does."""
    monkeypatch.setattr(runlist, "find", Looks())

    async def ask() -> tuple[int, int]:
        made = live()
        async with AsyncExitStack() as stack:
            for _ in range(STREAMS_OF_ONE):
                answer = cast(StreamingResponse, await made.answers()["runs_events"](asked("")))
                stream = await stack.enter_async_context(aclosing(cast(Any, answer.body_iterator)))
                await anext(stream)
            mine = await made.answers()["runs_events"](asked(""))
            other = await made.answers()["runs_events"](asked("", "192.0.2.1"))
        again = await made.answers()["runs_events"](asked(""))
        assert again.status_code == 200
        return mine.status_code, other.status_code

    assert asyncio.run(ask()) == (503, 200)

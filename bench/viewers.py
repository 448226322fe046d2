"""Pages that are held open as browsers hold them, by a process of its own: on a real one they take another machine."""

from __future__ import annotations

import asyncio
import html
import multiprocessing
import os
import re
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from types import TracebackType

import httpx
import msgspec

_STREAM = re.compile(r'<body data-stream="([^"]+)"')
# As the monitor's own script has it: what goes on is read anew every so many seconds, and a page that takes long less
# often.
_GOES_ON = re.compile(r"state-running|state-open|state-pending|bar-running")
_EVERY, _PAUSES = 5.0, 19
_OPENED_WITHIN = 30.0


class WrongPage(Exception):
    """What was loaded is not the page that was meant."""


class Page(msgspec.Struct, frozen=True):
    """A page, and how to know it.

    Attributes:
        path: where it is.
        has: texts that no other page has all of.
    """

    path: str
    has: tuple[str, ...]

    def check(self, status: int, text: str) -> None:
        """Raises `WrongPage` where an answer is not this page."""
        missing = [part for part in self.has if part not in text]
        if status != 200 or missing:
            raise WrongPage(f"{self.path} has answered {status}, without {missing}")


def options(link: str) -> dict[str, object]:
    """What a client of httpx needs to load pages, from the link with the token."""
    address, _, token = link.partition("/?token=")
    return {"base_url": address, "headers": {"authorization": f"Bearer {token}"}, "timeout": 60}


class Viewers:
    """A process that holds pages open: it hears of changes and loads what changed anew.

    Args:
        link: the monitor's, with the token.
    """

    def __init__(self, link: str) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(options(link), theirs), daemon=True)
        self._owed = 0

    def __enter__(self) -> Viewers:
        self._process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.send(None)
        self._process.join(10)

    def open(self, pages: Iterable[Page]) -> None:
        """Begin to open pages, beside those that are open."""
        self._pipe.send(list(pages))
        self._owed += 1

    def opened(self) -> None:
        """Wait until they are open. Raises `WrongPage`."""
        while self._owed:
            self._owed -= 1
            if not self._pipe.poll(2 * _OPENED_WITHIN):
                raise TimeoutError("the pages did not open")
            self._take()

    def shut(self) -> int:
        """Close all pages; how often they were loaded in all. Raises `WrongPage`."""
        self.opened()
        self._pipe.send([])
        return self._take()

    def _take(self) -> int:
        said = self._pipe.recv()
        if isinstance(said, str):
            raise WrongPage(said)
        return int(said)


def _serve(given: dict[str, object], pipe: Connection) -> None:
    # What browsers do takes nothing from the machine that is measured.
    os.nice(19)
    asyncio.run(_obey(given, pipe))


async def _obey(given: dict[str, object], pipe: Connection) -> None:
    looking: list[asyncio.Task[None]] = []
    loads: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, **given) as http:  # type: ignore[arg-type]
        while (pages := await asyncio.to_thread(pipe.recv)) is not None:
            if pages:
                opened = [asyncio.Event() for _ in pages]
                made = [
                    asyncio.create_task(_look(http, page, event, loads))
                    for page, event in zip(pages, opened, strict=True)
                ]
                looking += made
                all_open = asyncio.create_task(_all(opened))
                await asyncio.wait({all_open, *made}, timeout=_OPENED_WITHIN, return_when=asyncio.FIRST_COMPLETED)
                is_open = all_open.done()
                all_open.cancel()
                pipe.send(_failed(looking) or (0 if is_open else "the pages did not open"))
                continue
            said = _failed(looking)
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
            pipe.send(said or len(loads))
            looking.clear()
            loads.clear()


async def _all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _failed(tasks: Iterable[asyncio.Task[None]]) -> str:
    errors = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return str(errors[0]) if errors else ""


async def _look(http: httpx.AsyncClient, page: Page, opened: asyncio.Event, loads: list[float]) -> None:
    text = await _load(http, page, loads)
    stream = _STREAM.search(text)
    if stream is None:
        raise WrongPage(f"{page.path} follows nothing")
    changed = asyncio.Event()
    hearing = asyncio.create_task(_hear(http, html.unescape(stream[1]), changed, opened))
    try:
        while not hearing.done():
            try:
                await asyncio.wait_for(changed.wait(), _EVERY)
            except TimeoutError:
                if not _GOES_ON.search(text):
                    continue
            changed.clear()
            begun = time.perf_counter()
            text = await _load(http, page, loads)
            await asyncio.sleep(min(_EVERY, _PAUSES * (time.perf_counter() - begun)))
        await hearing
    finally:
        hearing.cancel()


async def _load(http: httpx.AsyncClient, page: Page, loads: list[float]) -> str:
    begun = time.perf_counter()
    answer = await http.get(page.path)
    page.check(answer.status_code, answer.text)
    loads.append(time.perf_counter() - begun)
    return answer.text


async def _hear(http: httpx.AsyncClient, stream: str, changed: asyncio.Event, opened: asyncio.Event) -> None:
    async with http.stream("GET", stream) as answer:
        kind = answer.headers.get("content-type", "")
        if answer.status_code != 200 or not kind.startswith("text/event-stream"):
            raise WrongPage(f"{stream} has answered {answer.status_code}, {kind}")
        opened.set()
        async for line in answer.aiter_lines():
            if line == "event: change":
                changed.set()
    raise WrongPage(f"{stream} has ended")

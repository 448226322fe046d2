"""What the monitor costs, and how fast its pages are: how long a list, a run and an event take, and what pages use."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import workloads
from bench.figures import Figure
from bench.measure import Sample, alternate, ratio
from egregore_dist import LocalCluster
from egregore_dist.client import session
from egregore_dist.ledger import Work
from tests.support import browser
from tests.support.waiting import until

# What a page takes at most (seconds), and what watching may cost (ratio of times; cores).
LIST, PAINT, HEARD, COST, OPEN_PAGES = 0.3, 1.0, 0.3, 1.05, 0.5
RUNS, BRANCHES, PAGES = 100_000, 10_000, 50

_LOADS = 100
_PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
_WATCH_FOR = 10.0


class Pages:
    """A monitor's pages, as a browser asks for them that has followed a link with its token."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.address, _, token = link.partition("/?token=")
        self._options: dict[str, Any] = {
            "base_url": self.address,
            "headers": {"authorization": f"Bearer {token}"},
            "timeout": 60,
        }
        self._http = httpx.Client(**self._options)

    def load(self, path: str) -> float:
        """Seconds until a page is there."""
        started = time.perf_counter()
        self._http.get(path).raise_for_status()
        return time.perf_counter() - started

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    @contextmanager
    def watched(self, path: str, hears: Callable[[float], None] = lambda _: None) -> Iterator[None]:
        """Keep a stream of events open, as an open page does; ``hears`` is told when a message came."""
        opened, closed = threading.Event(), threading.Event()

        def read() -> None:
            with httpx.Client(**self._options) as http, http.stream("GET", path) as answer:
                answer.raise_for_status()
                opened.set()
                for line in answer.iter_lines():
                    if closed.is_set():
                        return
                    if line.startswith("data"):
                        hears(time.perf_counter())

        threading.Thread(target=read, daemon=True).start()
        if not opened.wait(10):
            raise RuntimeError(f"the stream {path} did not open")
        try:
            yield
        finally:
            # It ends with the next line, which comes within some seconds.
            closed.set()


def everything(cluster: LocalCluster, *, quick: bool) -> Iterator[Figure]:
    """Every figure of the monitor, as it is measured.

    Args:
        cluster: a cluster that this process submits to.
        quick: measure less often, with a tenth of the runs and pages.
    """
    part, rounds = (10, 5) if quick else (1, 20)
    pages = Pages(cluster.monitor_url)
    try:
        yield from _cost(pages, rounds)
        yield from _hearing(pages, rounds)
        yield from _run_page(pages, rounds, BRANCHES // part)
        yield from _open_pages(pages, PAGES // part)
        yield from _list(pages, rounds, RUNS // part)
        yield from _memory(pages)
    finally:
        pages.close()


def _cost(pages: Pages, rounds: int) -> Iterator[Figure]:
    flow, items = workloads.mapped(), list(range(20_000))

    def watched() -> None:
        run = flow.submit(items)
        # As a browser does: what changed is read anew.
        with (
            pages.watched("/events", lambda _: _load("/")),
            pages.watched(f"/runs/{run.id}/events", lambda _: _load(f"/runs/{run.id}")),
        ):
            run.result(progress=False)

    def _load(path: str) -> None:
        pages.load(path)

    taken = alternate({"watched": watched, "alone": lambda: flow(items)}, rounds)
    yield Figure(
        name=f"{len(items)} trivial branches: with two pages open / with none",
        sample=Sample.of([ratio(taken["watched"], taken["alone"])]),
        unit="ratio",
        target=COST,
    )


def _hearing(pages: Pages, rounds: int) -> Iterator[Figure]:
    flow, took = workloads.sleepers(3), []
    for _ in range(rounds):
        run, heard = flow.submit(1), threading.Event()
        told: list[float] = []

        def hears(at: float, told: list[float] = told, heard: threading.Event = heard) -> None:
            told.append(at)
            heard.set()

        with pages.watched(f"/runs/{run.id}/events", hears):
            # What had happened before is heard first.
            heard.wait(5)
            time.sleep(0.4)
            heard.clear()
            started = time.perf_counter()
            run.cancel()
            if not heard.wait(10):
                raise RuntimeError("an open page heard nothing of a cancelled run")
            took.append(told[-1] - started + pages.load(f"/runs/{run.id}"))
    yield Figure(name="an event, until the page shows it", sample=Sample.of(took), unit="s", target=HEARD)


def _run_page(pages: Pages, rounds: int, branches: int) -> Iterator[Figure]:
    run = workloads.mapped().submit(list(range(branches)))
    run.result(progress=False)
    address = f"/runs/{run.id}"
    yield Figure(
        name=f"page of a run of {branches} branches",
        sample=Sample.of(pages.load(address) for _ in range(rounds)),
        unit="s",
    )
    if browser.MISSING:
        return
    painted = []
    with tempfile.TemporaryDirectory() as folder, browser.driver(Path(folder, "driver.log")) as driver:
        window = browser.Browser(driver)
        try:
            window.go(pages.link)
            until(lambda: window.count("main") > 0, what="being let in")
            for _ in range(rounds):
                window.go(pages.address + address)
                until(lambda: window.run(_PAINTED) is not None, what="the first paint")
                painted.append(float(window.run(_PAINTED)) / 1000)
        finally:
            window.close()
    yield Figure(name="the same, first paint in Chromium", sample=Sample.of(painted), unit="s", target=PAINT)


def _open_pages(pages: Pages, count: int) -> Iterator[Figure]:
    process = _process()
    run = workloads.sleepers(200).submit(1)
    with ExitStack() as stack:
        for number in range(count):
            stack.enter_context(pages.watched("/events" if number % 2 else f"/runs/{run.id}/events"))
        used, begun = _cpu(process), time.perf_counter()
        while time.perf_counter() - begun < _WATCH_FOR:
            workloads.sleepers(20)(1)
        cores = (_cpu(process) - used) / (time.perf_counter() - begun)
    yield Figure(
        name=f"{count} open pages: cores of the monitor", sample=Sample.of([cores]), unit="ratio", target=OPEN_PAGES
    )


def _list(pages: Pages, rounds: int, runs: int) -> Iterator[Figure]:
    ledger, queue = session.current().ledger, "nowhere"
    for number in range(runs):
        id = f"listed-{number}"
        ledger.submit(id, Work("listed", b"", b""), code={"digest": b""}, input=b"\xc0", queue=queue)
        ledger.cancel(id)
    for name, path in {"": "/", ", of a state": "/?state=cancelled", ", by text": f"/?text=listed-{runs // 2}"}.items():
        taken = [pages.load(path) for _ in range(rounds)]
        yield Figure(name=f"list of {runs} runs{name}", sample=Sample.of(taken), unit="s", target=LIST)


def _memory(pages: Pages) -> Iterator[Figure]:
    process = _process()
    for _ in range(_LOADS // 2):
        pages.load("/")
    before = process.memory_info().rss
    for _ in range(_LOADS):
        pages.load("/")
    grown = process.memory_info().rss - before
    yield Figure(name=f"memory of the monitor, grown by {_LOADS} pages", sample=Sample.of([float(grown)]), unit="B")


def _process() -> psutil.Process:
    # The last of them: those before it started it.
    *_, found = [child for child in psutil.Process().children(recursive=True) if "monitor" in child.cmdline()]
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

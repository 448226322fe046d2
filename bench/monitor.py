"""What the monitor costs, and how fast its pages are: how long a list, a run and an event take, and what pages use."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from bench import workloads
from bench.figures import Figure
from bench.measure import Sample, alternate, ratio
from bench.viewers import Page, Viewers, WrongPage, options
from egregore_dist import LocalCluster, Run
from egregore_dist.client import session
from egregore_dist.ledger import Work
from tests.support import browser
from tests.support.waiting import until

# What a page takes at most (seconds), and what watching may cost (ratio of times; cores; ratio of memory).
LIST, PAINT, HEARD, COST, OPEN_PAGES, MEMORY = 0.3, 1.0, 0.3, 1.05, 0.5, 1.05
RUNS, BRANCHES, PAGES = 100_000, 10_000, 50

_ITEMS = 20_000
# What watching costs is less than two runs differ by: so many times the rounds of the others.
_MORE = 4
_LOADS = 100
_WATCH_FOR = 20.0
_PAINTED = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
# Notes when the frame comes in which a run's page first says a state.
_NOTE = """
const [state] = arguments;
new MutationObserver(() => {
  if (document.querySelector("h1 .state").innerText !== state) return;
  requestAnimationFrame(() => { window.shownAt ??= Date.now() / 1000; });
}).observe(document.body, { childList: true, subtree: true });
"""


class Pages:
    """A monitor's pages, as a browser asks for them that has followed a link with its token."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.address = link.partition("/?token=")[0]
        self._http = httpx.Client(**options(link))  # type: ignore[arg-type]

    def load(self, page: Page) -> float:
        """Seconds until a page is there. Raises `WrongPage`."""
        started = time.perf_counter()
        answer = self._http.get(page.path)
        took = time.perf_counter() - started
        page.check(answer.status_code, answer.text)
        return took

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def everything(cluster: LocalCluster, *, quick: bool) -> Iterator[Figure]:
    """Every figure of the monitor, as it is measured.

    Args:
        cluster: a cluster that this process submits to.
        quick: measure less often, with a tenth of the runs and pages.
    """
    part, rounds = (10, 5) if quick else (1, 20)
    pages = Pages(cluster.monitor_url)
    pages.load(_RUNS)
    try:
        with Viewers(pages.link) as viewers:
            yield from _cost(viewers, rounds)
            yield from _open_pages(viewers, PAGES // part)
        with _window(pages) as window:
            yield from _hearing(pages, window, rounds)
            yield from _run_page(pages, window, rounds, BRANCHES // part)
        yield from _list(pages, rounds, RUNS // part)
    finally:
        pages.close()


def _of(run: Run) -> Page:
    return Page(f"/runs/{run.id}", (f"<h1>{run.id} <span", '<section id="timeline"'))


_RUNS = Page("/", ("<h1>Runs</h1>", '<section id="list"', " in the ledger"))


def _cost(viewers: Viewers, rounds: int) -> Iterator[Figure]:
    flow, items = workloads.mapped(), list(range(_ITEMS))

    def alone() -> None:
        flow.submit(items).result(progress=False)

    def watched() -> None:
        run = flow.submit(items)
        viewers.open([_RUNS, _of(run)])
        run.result(progress=False)

    # What the viewers still load of the last run is no part of the next one.
    taken = alternate({"watched": watched, "alone": alone}, _MORE * rounds, settle=viewers.shut)
    viewers.shut()
    for name, sample in taken.items():
        yield Figure(name=f"{_ITEMS} trivial branches, {name}", sample=sample, unit="s")
    yield Figure(
        name=f"{_ITEMS} trivial branches: with the run's page and the list open / with none",
        sample=Sample.of([ratio(taken["watched"], taken["alone"])]),
        unit="ratio",
        target=COST,
    )


def _open_pages(viewers: Viewers, count: int) -> Iterator[Figure]:
    process = _process()
    # It goes on for longer than the pages are watched, and something happens in it every second.
    run = workloads.sleeping().submit(list(range(4 * int(_WATCH_FOR))))
    viewers.open([_RUNS if number % 2 else _of(run) for number in range(count)])
    viewers.opened()
    used, begun = _cpu(process), time.perf_counter()
    while time.perf_counter() - begun < _WATCH_FOR:
        workloads.sleepers(20)(1)
    cores = (_cpu(process) - used) / (time.perf_counter() - begun)
    assert run.status == "running"
    loads = viewers.shut()
    run.cancel()
    yield Figure(
        name=f"{count} open pages, loaded {loads} times in {_WATCH_FOR:.0f} s: cores of the monitor",
        sample=Sample.of([cores]),
        unit="ratio",
        target=OPEN_PAGES,
    )


@contextmanager
def _window(pages: Pages) -> Iterator[browser.Browser]:
    if browser.MISSING:
        raise RuntimeError(browser.MISSING)
    with tempfile.TemporaryDirectory() as folder, browser.driver(Path(folder, "driver.log")) as driver:
        window = browser.Browser(driver)
        try:
            window.go(pages.link)
            window.until_text("h1", "Runs")
            yield window
        finally:
            window.close()


def _go(pages: Pages, window: browser.Browser, run: Run) -> None:
    window.go(pages.address + _of(run).path)
    if run.id not in window.text("h1") or not window.count("#timeline"):
        raise WrongPage(f"the browser shows {window.text('h1')!r}, and not run {run.id}")


def _hearing(pages: Pages, window: browser.Browser, rounds: int) -> Iterator[Figure]:
    flow, took = workloads.sleepers(3), []
    for _ in range(rounds):
        run = flow.submit(1)
        _go(pages, window, run)
        window.until_text("#lamp", "live")
        window.until_text("h1", "running")
        window.run(_NOTE, "cancelled")
        started = time.time()
        run.cancel()
        until(lambda: window.run("return window.shownAt ?? null") is not None, what="a page that shows the end")
        took.append(float(window.run("return window.shownAt")) - started)
    yield Figure(name="an event, until Chromium shows it", sample=Sample.of(took), unit="s", target=HEARD)


def _run_page(pages: Pages, window: browser.Browser, rounds: int, branches: int) -> Iterator[Figure]:
    run = workloads.mapped().submit(list(range(branches)))
    run.result(progress=False)
    page = _of(run)
    painted = []
    for _ in range(rounds):
        _go(pages, window, run)
        until(lambda: window.run(_PAINTED) is not None, what="the first paint")
        painted.append(float(window.run(_PAINTED)) / 1000)
    yield Figure(
        name=f"page of a run of {branches} branches: first paint in Chromium",
        sample=Sample.of(painted),
        unit="s",
        target=PAINT,
    )
    yield Figure(
        name="the same page, until it is loaded", sample=Sample.of(pages.load(page) for _ in range(rounds)), unit="s"
    )
    yield from _memory(pages, page)


def _memory(pages: Pages, page: Page) -> Iterator[Figure]:
    process, used = _process(), []
    for _ in range(3):
        for _ in range(_LOADS):
            pages.load(page)
        used.append(float(process.memory_info().rss))
    first, *_, last = used
    yield Figure(name="memory of the monitor then", sample=Sample.of([last]), unit="B")
    yield Figure(
        name=f"memory after {3 * _LOADS} loads of that page / after {_LOADS}",
        sample=Sample.of([last / first]),
        unit="ratio",
        target=MEMORY,
    )


def _list(pages: Pages, rounds: int, runs: int) -> Iterator[Figure]:
    ledger, queue, mark = session.current().ledger, "nowhere", uuid.uuid4().hex[:8]
    for number in range(runs):
        id = f"listed-{mark}-{number}"
        ledger.submit(id, Work("listed", b"", b""), code={"digest": b""}, input=b"\xc0", queue=queue)
        ledger.cancel(id)
    newest, one = f"listed-{mark}-{runs - 1}", f"listed-{mark}-{runs // 2}"
    asked = {
        "": Page("/", (*_RUNS.has, f">{newest}<")),
        ", of a state": Page("/?state=cancelled", (*_RUNS.has, "<option selected>cancelled<", f">{newest}<")),
        ", by a whole id": Page(f"/?text={one}", (*_RUNS.has, f'value="{one}"', f">{one}<")),
        ", by a text that none has": Page("/?text=nowhere", (*_RUNS.has, 'value="nowhere"', "looked at for this page")),
    }
    for name, page in asked.items():
        taken = [pages.load(page) for _ in range(rounds)]
        yield Figure(name=f"list of {runs} runs{name}", sample=Sample.of(taken), unit="s", target=LIST)


def _process() -> psutil.Process:
    # The last of them: those before it started it.
    *_, found = [child for child in psutil.Process().children(recursive=True) if "monitor" in child.cmdline()]
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

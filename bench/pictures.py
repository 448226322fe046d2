"""``python -m bench.pictures``: make the pictures of docs/monitor anew, of a shop that is at work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import shop
from egregore_dist import LocalCluster, Run
from egregore_dist.client import session
from egregore_dist.ledger import browse
from egregore_dist.ledger.records import Aside
from tests.support import browser as chromium
from tests.support.browser import Browser
from tests.support.waiting import until

_FOLDER = Path(__file__).parent.parent / "docs" / "monitor"
# Of each look: what is added to the names, the size of the window, and whether it is dark.
_LOOKS = {"": ((1280, 900), False), "-dark": ((1280, 900), True), "-phone": ((420, 860), False)}


class _Window(Browser):
    """A window that is as high as what it shows, up to a size."""

    def __init__(self, driver: str, size: tuple[int, int], *, dark: bool) -> None:
        super().__init__(driver, size, dark=dark, zone="UTC", language="en-US")
        self._size = size

    def keep(self, path: Path) -> None:
        """Keep what is seen, without what is empty below it."""
        self._fit(self._size[1])
        bottom = self.run("return Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)")
        self._fit(min(bottom, self._size[1]))
        self.screenshot(path)
        self._fit(self._size[1])

    def _fit(self, height: int) -> None:
        self._emulate("DeviceMetrics", width=self._size[0], height=height, deviceScaleFactor=1, mobile=False)


class Looks:
    """One window of each look.

    Args:
        driver: the WebDriver's address.
    """

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._windows: dict[str, _Window] = {}

    def __enter__(self) -> Looks:
        with ExitStack() as opened:
            for look, (size, dark) in _LOOKS.items():
                self._windows[look] = _Window(self._driver, size, dark=dark)
                opened.callback(self._windows[look].close)
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def enter(self, link: str) -> None:
        """Follow a link with a token."""
        for window in self._windows.values():
            window.go(link)
            window.until_text("h1", "Runs")

    def take(self, address: str, pages: Mapping[str, tuple[str, str]]) -> None:
        """Take each page in each look.

        Args:
            address: the monitor's.
            pages: by the picture's name, its path and a text that it has.
        """
        for name, (path, text) in pages.items():
            for look, window in self._windows.items():
                window.go(address + path)
                window.until_text("main", text)
                if window.run("return 'stream' in document.body.dataset"):
                    window.until_text("#lamp", "live")
                window.keep(_FOLDER / f"{name}{look}.png")


def main() -> None:
    """Make them all."""
    if chromium.MISSING:
        raise SystemExit(chromium.MISSING)
    with tempfile.TemporaryDirectory() as folder, chromium.driver(Path(folder, "driver.log")) as driver:
        gate = Path(folder, "gate")
        os.environ[shop.GATE] = str(gate)
        try:
            with LocalCluster(workers=2, concurrency=3) as cluster, Looks(driver) as looks:
                address = cluster.monitor_url.partition("/?")[0]
                looks.take(address, {"login": ("/", "Log in")})
                looks.enter(cluster.monitor_url)
                looks.take(address, {"empty-runs": ("/", "No run yet")})
                with _at_work(gate) as runs:
                    looks.take(address, _pages(*runs))
        finally:
            gate.touch()


@contextmanager
def _at_work(gate: Path) -> Iterator[tuple[Run, Run, Run]]:
    """A run that has failed, one that is held at its last block, and one that waits for a limit."""
    for number in range(3):
        shop.greet.submit(f"greet-{number}", id=f"greet-{number}").result(progress=False)
    failed = shop.billing.submit(list(range(12)), id="billing-1")
    until(lambda: failed.status == "failed", what="a run that has failed")
    shop.nightly.submit("2026-11-23", id="nightly-1").cancel()
    at_gate = shop.nightly.submit("2026-11-24", id="nightly-2")
    until(lambda: _done(at_gate, "deliver") == 1, what="one delivery of two")
    waiting = shop.fetch_again.submit(list(range(20, 80)), id="refetch-1")
    until(lambda: _done(waiting, "fetch_again") == shop.HELD_FROM - 20, what="those that are not held")
    until(lambda: any(reason.kind == "place" for reason in waiting.why()), what="some that wait for a limit")
    aside = Aside(
        reason="it is signed with another secret",
        worker="worker1@shop-1",
        queue="egregore",
        excerpt="a task of 3 arguments, 412 bytes",
    )
    session.current().ledger.set_aside([aside] * 3)
    try:
        yield failed, at_gate, waiting
    finally:
        gate.touch()
        at_gate.result(progress=False)
        waiting.result(progress=False)


def _done(run: Run, name: str) -> int | None:
    """How many branches of a block have ended; None where it is not open."""
    found = browse.blocks(session.current().ledger, run.id, limit=10).shown
    return next((block.done for block in found if block.name == name), None)


def _pages(failed: Run, at_gate: Run, waiting: Run) -> dict[str, tuple[str, str]]:
    blocks = {block.name: block for block in browse.blocks(session.current().ledger, at_gate.id, limit=10).shown}
    (charged,) = browse.blocks(session.current().ledger, failed.id, limit=10).shown
    run = f"/runs/{at_gate.id}"
    return {
        "run": (run, "Timeline"),
        "waits": (f"/runs/{waiting.id}", "Why it waits"),
        "failed": (f"/runs/{failed.id}", "ConnectionError"),
        "runs": ("/", failed.id),
        "blocks": (f"{run}/blocks", "deliver"),
        "block": (f"{run}/blocks/{blocks['fetch_all'].id}", "fetch_all"),
        "branch": (f"/runs/{failed.id}/blocks/{charged.id}/branches/3", "ConnectionError"),
        "value": (f"{run}/blocks/0/branches/0/input", "2026-11-24"),
        "logs": (f"{run}/logs", "order 7 has no address"),
        "workers": ("/workers", "publish #0"),
        "nodes": ("/nodes", "charge"),
        "limits": ("/limits", "shops"),
        "limit": ("/limits/shops", "4 of them at once"),
        "aside": ("/aside", "another secret"),
    }


if __name__ == "__main__":
    main()

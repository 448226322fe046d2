"""The monitor in a real browser: every page, live, with its buttons, light and dark."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from egregore_dist import LocalCluster, Run, RunNotFound, node
from egregore_dist.client import session
from egregore_dist.ledger.records import ENDED, Aside
from egregore_dist.resources.report import Report
from tests.cluster.log_flows import EVIL as SAID
from tests.cluster.log_flows import both, held
from tests.cluster.monitor_flows import EVIL, asking, failing, gated, keyed, nested
from tests.cluster.test_monitor import Monitor, ended, monitor
from tests.support import browser
from tests.support.browser import ENTER, TAB, Browser
from tests.support.clusters import Clusters
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(bool(browser.MISSING), reason=browser.MISSING)

#: Where screenshots are kept, if anywhere: for people to look at.
SHOTS = os.environ.get("EGDTEST_SHOTS")

#: Makes what the page's own script loads take half a second more, and keeps when it did, in ms.
SLOWED = """
const load = fetch;
window.loads = [];
window.fetch = async (...asked) => {
  loads.push(performance.now());
  await new Promise((done) => setTimeout(done, 500));
  return load(...asked);
};
"""

#: The parts that are wider than what is seen of them.
WIDTHS = """
return [...document.querySelectorAll(".wide")].filter((part) => part.scrollWidth > part.clientWidth).map(
  (part) => [part.scrollWidth, part.clientWidth]);
"""

ACCESSIBILITY = (Path(browser.__file__).parent / "accessibility.js").read_text()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with browser.driver(tmp_path_factory.mktemp("browser") / "driver.log") as address:
        yield address


@pytest.fixture(scope="module")
def shown(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    with (
        clusters.use("valkey") as cluster,
        monitor(cluster, tmp_path_factory.mktemp("monitor"), "--role", "admin") as made,
    ):
        yield made


def entered(window: Browser, shown: Monitor) -> Browser:
    """A window whose user has followed the monitor's link."""
    window.go(shown.link)
    # The page that goes on to the address without the token names no icon.
    window.console()
    return window


@pytest.fixture(scope="module")
def opened(driver: str) -> Iterator[Browser]:
    window = Browser(driver)
    yield window
    window.close()


@pytest.fixture
def window(opened: Browser, shown: Monitor) -> Iterator[Browser]:
    """A window in which nobody has chosen anything, and on whose console nothing may be said."""
    entered(opened, shown)
    opened.go(f"{shown.address}/workers")
    opened.run("localStorage.clear()")
    yield opened
    assert opened.console() == []


def keep(window: Browser, name: str) -> None:
    if SHOTS:
        window.screenshot(Path(SHOTS) / f"{name}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("look", "size"), [("screen", (1280, 900)), ("phone", (420, 860))])
def test_every_page(
    local: LocalCluster, shown: Monitor, driver: str, tmp_path: Path, look: str, size: tuple[int, int], dark: bool
) -> None:
    """Each page says nothing on the console, fits the window, can be read and named, and runs no script of the data."""
    bad, good, inner = failing.submit(1), keyed.submit({EVIL: 1, "plain": 2}), nested.submit([1, 2, 3])
    ended(bad, "failed")
    good.result()
    inner.result()
    told = both.submit(EVIL)
    told.result()
    gate = tmp_path / "gate"
    asked = asking.submit([{"model": model, "path": str(gate)} for model in (EVIL, "small")])
    shown.until_limited("models", "&lt;img")
    # Every slot is taken now.
    waiting, paused = gated.submit(str(gate)), gated.submit(str(gate))
    paused.pause()
    until(lambda: "monitor_flows:breaks" in shown.page("/nodes"), what="what was learned")
    paths = {
        "runs": "/",
        "filtered": "/?state=failed&workflow=nothing",
        "failed": f"/runs/{bad.id}",
        "running": f"/runs/{asked.id}",
        "waiting": f"/runs/{waiting.id}",
        "paused": f"/runs/{paused.id}",
        "failed-branch": f"/runs/{bad.id}/blocks/0.0-1/branches/0",
        "nested": f"/runs/{inner.id}",
        "blocks": f"/runs/{inner.id}/blocks",
        "keyed": f"/runs/{good.id}",
        "block": f"/runs/{good.id}/blocks/0.0-0",
        "value": f"/runs/{good.id}/blocks/0/branches/0/input",
        "logs": f"/runs/{told.id}/logs",
        "said": f"/runs/{told.id}/blocks/0.0-/branches/0",
        "workers": "/workers",
        "nodes": "/nodes",
        "sorted": "/nodes?sort=function",
        "limits": "/limits",
        "limit": "/limits/models",
        "aside": "/aside",
        "nothing": "/runs/nothing",
    }
    window = entered(Browser(driver, size, dark=dark), shown)
    try:
        for name, path in paths.items():
            window.go(shown.address + path)
            assert window.run(ACCESSIBILITY) == [], name
            keep(window, f"{name}-{look}{'-dark' if dark else ''}")
            # That the page is 404 is what the console has to say of it.
            said = [line for line in window.console() if not (name == "nothing" and "404" in line)]
            assert said == [], name
            back = window.run("return getComputedStyle(document.body).backgroundColor")
            assert (back == "rgb(18, 21, 28)") == dark
            if name in ("running", "paused"):
                assert window.count(f"h1 .state-{name}") == 1
            elif name == "waiting":
                assert window.count("#waits li") >= 1
    finally:
        gate.touch()
        window.close()
    paused.resume()
    for run in (asked, waiting, paused):
        run.result()


#: Markup that would leave a mark where it became an element, on each of the ways into a page.
MARKUP = "</td></pre></script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'><b class=injected>"


def test_s10_markup_in_data_is_text_and_runs_nothing(driver: str, tmp_path: Path) -> None:
    """Names, labels, keys, errors, inputs and lines are shown letter by letter, also those that a stranger forged."""
    with LocalCluster(workers=1) as cluster, monitor(cluster, tmp_path, "--role", "admin") as shown:

        @node
        def hostile(data: str) -> str:
            print(data)
            raise ValueError(data)

        run: Run = hostile.map(name="flow").submit({MARKUP: MARKUP})
        ended(run, "failed")
        ledger = session.current().ledger
        # What no client or worker of ours writes, and whoever can write to the server may.
        ledger.redis.hset(ledger.keys.run(run.id), "workflow", MARKUP)
        (raw,) = ledger.reports().values()
        forged = msgspec.structs.replace(
            msgspec.msgpack.decode(raw, type=Report),
            worker=MARKUP,
            host=MARKUP,
            labels=(f"zone={MARKUP}",),
            version=MARKUP,
        )
        ledger.report(MARKUP, msgspec.msgpack.encode(forged), 600.0)
        ledger.set_aside([Aside(queue=MARKUP, worker=MARKUP, reason=MARKUP, excerpt=MARKUP)])
        branch = f"/runs/{run.id}/blocks/0.0-/branches/0"
        pages = ["/", f"/runs/{run.id}", f"/runs/{run.id}/logs", f"/runs/{run.id}/blocks/0.0-", branch]
        window = entered(Browser(driver), shown)
        try:
            for path in [*pages, f"{branch}/input", "/workers", "/aside"]:
                window.go(shown.address + path)
                assert "window.ran = 1" in window.text(), path
                assert window.count(".injected, img, script:not([src])") == 0, path
                assert window.run("return window.ran ?? null") is None, path
                assert window.console() == [], path
        finally:
            window.close()


def test_s10_the_browser_runs_no_inline_script(shown: Monitor, opened: Browser) -> None:
    """Where markup did become an element, by a fault of a page, the policy keeps the browser from running it."""
    entered(opened, shown)
    opened.run(
        """
        const script = document.createElement("script");
        script.textContent = "window.ran = 'script'";
        document.body.append(script);
        const part = document.createElement("div");
        part.innerHTML = "<button id=injected onclick='window.ran = 1'>press</button>";
        document.body.append(part);
        document.querySelector("#injected").click();
        """
    )

    assert opened.run("return window.ran ?? null") is None
    assert sum("Content Security Policy" in line for line in opened.console()) == 2


@pytest.mark.parametrize("page", ["workers", "runs"])
def test_tables_fit_a_screen_and_a_phone(
    local: LocalCluster, shown: Monitor, driver: str, tmp_path: Path, page: str
) -> None:
    """Nothing of the tables of workers and of runs has to be scrolled to, and of a phone's rows all can be seen."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    path = "/workers" if page == "workers" else f"/?text={run.id}"
    until(lambda: run.id in shown.page(path), what="the run on the page")
    found = {}
    try:
        for size in ((1280, 900), (420, 860)):
            window = entered(Browser(driver, size), shown)
            try:
                window.go(shown.address + path)
                window.until_text("table", run.id)
                found[size[0]] = window.run(WIDTHS), window.text("table")
                keep(window, f"{page}-{size[0]}")
            finally:
                window.close()
    finally:
        gate.touch()
    run.result()

    assert [width for width, _ in found.values()] == [[], []]
    for word in ("lanes", "by hand", "Drain", "Stop") if page == "workers" else ("gated", "running", "1/2", " s"):
        assert word in found[420][1]


def test_a_run_as_it_goes_on(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """Without a reload the page follows the run from running to its end, and what was opened stays open."""
    gate = tmp_path / "gate"
    go_to_a_run_at_the_gate(window, shown, gate)
    window.until_text("#lamp", "live")
    window.run("window.stayed = true")
    assert "running" in window.text("h1")
    assert window.count(".step.is-running") >= 1
    window.until_text("#head", "1/2")

    gate.touch()

    window.until_text("h1", "succeeded")
    window.until_text("#head", "2/2")
    until(lambda: window.count(".step.is-ok") == 3, what="three steps done")
    assert window.run("return window.stayed")
    keep(window, "live")


def test_the_list_follows(local: LocalCluster, shown: Monitor, window: Browser) -> None:
    """A run that is submitted while somebody looks at the list comes up in it, and what was chosen stays chosen."""
    first = failing.submit(1)
    ended(first, "failed")
    window.go(f"{shown.address}/?state=failed")
    window.until_text("#list", first.id)
    window.click(f"input[value='{first.id}']")

    second = failing.submit(1)

    window.until_text("#list", second.id)
    assert window.run("return document.querySelector(arguments[0]).checked", f"input[value='{first.id}']")
    assert not window.run("return document.querySelector(arguments[0]).checked", f"input[value='{second.id}']")


def go_to_a_run_at_the_gate(window: Browser, shown: Monitor, gate: Path) -> Run:
    """Open the page of a run, one branch of which waits for a file."""
    run = gated.submit(str(gate))
    until(Path(f"{gate}.reached").exists, what="the branch at the gate")
    window.go(f"{shown.address}/runs/{run.id}")
    return run


def stay(window: Browser) -> None:
    """Wait until a page follows, and mark it: a reload takes the mark away."""
    window.until_text("#lamp", "live")
    window.run("window.stayed = true")


def test_workers_as_they_work(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """Without a reload the page says which branch a worker is at, and that it is at it no more."""
    gate = tmp_path / "gate"
    window.go(f"{shown.address}/workers")
    stay(window)

    run = gated.submit(str(gate))
    until(lambda: window.count(f"#workers a[href='/runs/{run.id}']") == 1, what="the run at its worker")
    assert "gate #0 of gates" in window.text("#workers")
    gate.touch()

    until(lambda: window.count(f"#workers a[href='/runs/{run.id}']") == 0, what="a worker without the run")
    assert window.run("return window.stayed")


def test_nodes_as_they_are_learned(driver: str, tmp_path: Path) -> None:
    """Without a reload the page has nodes that ran, and how they did."""
    with LocalCluster(workers=1) as cluster, monitor(cluster, tmp_path) as shown:
        window = entered(Browser(driver), shown)
        try:
            window.go(f"{shown.address}/nodes")
            window.until_text("#nodes", "Nothing is learned yet")
            stay(window)

            ended(failing.submit(1), "failed")

            window.until_text("#nodes", "tests.cluster.monitor_flows:breaks")
            window.until_text("#nodes", "1 of 1")
            assert window.run("return window.stayed")
            assert window.console() == []
        finally:
            window.close()


def test_a_page_that_takes_long(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """It is made a twentieth of the time at most, and shows a run's end at once for all that."""
    gate = tmp_path / "gate"
    run = go_to_a_run_at_the_gate(window, shown, gate)
    stay(window)
    window.run(SLOWED)

    run.pause()
    window.until_text("h1", "paused")
    run.resume()
    until(lambda: len(window.run("return loads")) == 2, what="a second load")
    gate.touch()
    window.until_text("h1", "succeeded")

    first, second, third = window.run("return loads")[:3]
    assert second - first >= 5000
    assert third - second < 5000


def test_a_block_as_it_goes_on(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """Without a reload the page of a block follows its branches to their end."""
    gate = tmp_path / "gate"
    go_to_a_run_at_the_gate(window, shown, gate)
    window.click("#blocks a")
    window.until_text("h1", "gates")
    stay(window)
    assert "open" in window.text("h1")
    until(lambda: window.count("#block tbody .state-running") == 1, what="the branch at the gate alone")

    gate.touch()

    window.until_text("h1", "ok")
    until(lambda: window.count("#block tbody .state-ok") == 2, what="two branches done")
    assert window.run("return window.stayed")


def test_a_branch_as_it_goes_on(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """Without a reload the page of a branch has its attempt, that it ended, and its result."""
    gate = tmp_path / "gate"
    go_to_a_run_at_the_gate(window, shown, gate)
    window.click("#blocks a")
    window.until_text("h1", "gates")
    window.click("#block tbody tr:first-child a")
    window.until_text("h1", "gate running")
    stay(window)
    assert window.count("#branch a[href$='/result']") == 0

    gate.touch()

    window.until_text("h1", "gate ok")
    until(lambda: window.count("#branch tbody .state-ok") == 1, what="an attempt that ended well")
    assert window.count("#branch a[href$='/result']") == 1
    assert window.run("return window.stayed")


def test_lines_as_they_are_said(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """Without a reload the page of logs has what nodes say, of script its text; what is typed into a filter stays."""
    gate = tmp_path / "gate"
    run = held.submit(str(gate))
    window.go(f"{shown.address}/runs/{run.id}/logs")
    window.until_text("#lines", "before")
    stay(window)
    window.type("input[name=node]", "hol")

    gate.touch()

    window.until_text("#lines", SAID.partition(" ")[0])
    window.until_text("#lines", "succeeded")
    assert window.run("return document.querySelector('input[name=node]').value") == "hol"
    assert window.run("return window.stayed")


def test_lines_can_be_copied_while_more_are_said(
    local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path
) -> None:
    """What is selected stays so while its part has changed, and the part is shown anew when nothing is selected."""
    gate = tmp_path / "gate"
    run = held.submit(str(gate))
    window.go(f"{shown.address}/runs/{run.id}/logs")
    window.until_text("#lines", "before")
    stay(window)
    window.run("getSelection().selectAllChildren(document.querySelector('#lines td.text'))")
    copied = window.run("return getSelection().toString()")
    window.run(SLOWED)

    gate.touch()
    run.result()

    # The first of them is of a part that had changed.
    until(lambda: len(window.run("return loads")) >= 2, what="a second load")
    assert "before" in copied
    assert window.run("return getSelection().toString()") == copied
    assert "succeeded" not in window.text("#lines")
    window.run("getSelection().removeAllRanges()")
    window.until_text("#lines", "succeeded")


def test_buttons(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """Pause, resume, cancel, which asks first, and retry."""
    gate = tmp_path / "gate"
    go_to_a_run_at_the_gate(window, shown, gate)

    window.click("form[action$='/pause'] button")
    window.until_text("h1", "paused")
    window.click("form[action$='/resume'] button")
    window.until_text("h1", "running")
    window.click("form[action$='/cancel'] button")
    window.accept()
    window.until_text("h1", "cancelled")
    gate.touch()
    window.click("form[action$='/retry'] button")
    window.until_text("h1", "succeeded")


def reach(window: Browser, selector: str) -> None:
    """Go from one control to the next until an element is focused, and shows it."""
    focused = "return document.activeElement.matches(arguments[0])"
    for _ in range(40):
        window.press(TAB)
        if window.run(focused, selector):
            break
    assert window.run(focused, selector), selector
    assert window.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_the_keyboard_is_enough(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """What a run's page can do is reached and done without a mouse; the first stop goes past what all pages have."""
    gate = tmp_path / "gate"
    run = go_to_a_run_at_the_gate(window, shown, gate)

    window.press(TAB)
    assert window.run("return document.activeElement.hash") == "#main"
    window.press(ENTER)
    reach(window, "form[action$='/pause'] button")
    assert window.run("return document.activeElement.closest('main') !== null")
    window.press(ENTER)
    window.until_text("h1", "paused")
    reach(window, "form[action$='/resume'] button")
    window.press(ENTER)
    window.until_text("h1", "running")
    gate.touch()
    run.result()


def test_chosen_runs(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """Those that are chosen are cancelled and retried, once the viewer has said yes, and no others."""
    gate = tmp_path / "gate"
    mine = f"bulk-{uuid.uuid4().hex[:8]}"
    runs = [gated.submit(str(gate), id=f"{mine}-{number}") for number in range(3)]
    window.go(f"{shown.address}/?text={mine}")
    window.until_text("#list", runs[2].id)
    for run in runs[:2]:
        window.click(f"input[value='{run.id}']")

    window.click("button[value=cancel]")
    window.dismiss()
    assert all(run.status not in ENDED for run in runs)
    window.click("button[value=cancel]")
    window.accept()

    until(lambda: window.count("#list .state-cancelled") == 2, what="two that are cancelled")
    assert runs[2].status not in ENDED
    assert window.text("[role=status]") == "2 of 2 chosen runs are cancelled."
    assert window.run("return location.search").startswith(f"?text={mine}&done=cancel")

    window.go(f"{shown.address}/?text={mine}")
    window.until_text("#list", runs[2].id)
    window.click("#all")
    assert window.count("input[name=run]:checked") == 3
    gate.touch()
    window.click("button[value=retry]")
    window.accept()
    window.until_text("[role=status]", "2 of 3 chosen runs are retried. The others stay as they are")
    until(lambda: [run.status for run in runs] == ["succeeded"] * 3, what="the end of all")


def test_a_run_is_deleted(local: LocalCluster, shown: Monitor, window: Browser) -> None:
    """Nothing of it is left, and the list says so; who says no keeps it."""
    run = keyed.submit({"a": 1})
    run.result()
    window.go(f"{shown.address}/runs/{run.id}")

    window.click("form[action$='/delete'] button")
    window.dismiss()
    assert run.status == "succeeded"
    window.click("form[action$='/delete'] button")
    window.accept()

    window.until_text("[role=status]", "The run is deleted.")
    assert run.id not in window.text("#list")
    with pytest.raises(RunNotFound):
        _ = run.status


def test_a_worker_is_drained_resumed_and_stopped(driver: str, tmp_path: Path) -> None:
    """Each by its button; the page says what the worker does, and stopping asks first."""
    with LocalCluster(workers=1) as cluster, monitor(cluster, tmp_path, "--role", "admin") as shown:
        window = entered(Browser(driver), shown)
        try:
            window.go(f"{shown.address}/workers")
            window.until_text("#workers", cluster.workers[0].name)

            window.click("form[action$='/drain'] button")
            window.until_text("table.workers strong", "drained")
            window.click("form[action$='/resume'] button")
            until(lambda: window.count("form[action$='/drain']") == 1, what="a worker that takes lanes")
            assert keyed.submit({"a": 1}).result(timeout=30) == {"a": 1}

            window.click("form[action$='/stop'] button")
            window.dismiss()
            assert cluster.workers[0].alive
            window.click("form[action$='/stop'] button")
            window.accept()
            until(lambda: not cluster.workers[0].alive, what="the end of the worker")
            window.until_text("#workers", "No worker is alive")
            assert window.console() == []
        finally:
            window.close()


def test_limits_and_nodes(local: LocalCluster, shown: Monitor, window: Browser, tmp_path: Path) -> None:
    """A limit is changed by its form while its use is followed without a reload; the table of nodes sorts."""
    gate = tmp_path / "gate"
    run = asking.submit([{"model": "small", "path": str(gate)}])
    until(Path(f"{gate}.asking").exists, what="the branch with a place")
    window.go(f"{shown.address}/limits/models")
    window.until_text("#limit", "small")
    window.type("#edit input[name=per]", "7/s")
    window.click("#edit form[action='/limits'] button")
    window.until_text("#limit", "7/s, 1 of them at once")
    window.until_text("#lamp", "live")

    gate.touch()
    run.result()

    window.until_text("#limit", "Nothing holds a place")
    window.click("#edit form[action$='/clear'] button")
    window.accept()
    until(lambda: window.count("#edit form[action$='/clear']") == 0, what="a limit that is the code's")

    window.go(f"{shown.address}/nodes")
    window.click("thead th:first-child a")
    until(lambda: window.count("thead th:first-child[aria-sort=ascending]") == 1, what="the sorted table")


def test_filters_and_theme(local: LocalCluster, shown: Monitor, window: Browser) -> None:
    """The form filters the list; the theme that was chosen stays."""
    run = keyed.submit({"a": 1})
    run.result()
    window.go(shown.address)
    window.type("input[name=text]", run.id[:12])
    window.click("form.filters button")
    until(lambda: window.count("#list tbody tr") == 1, what="a list of one run")
    assert run.id in window.text("#list")

    for name in ("light", "dark"):
        window.click("#theme")
        window.until_text("#theme", name)
    window.go(f"{shown.address}/workers")
    assert window.run("return document.documentElement.dataset.theme") == "dark"
    assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 28)"


def test_what_is_seen_has_a_link(local: LocalCluster, shown: Monitor, window: Browser) -> None:
    """The button copies the page's address, with its filters and what was opened; there it is open again."""
    run = failing.submit(1)
    ended(run, "failed")
    window.go(f"{shown.address}/runs/{run.id}?a=b")
    window.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    window.click("#traceback summary")
    until(lambda: window.run("return location.hash") == "#traceback", what="an address that says what is open")
    window.click("#share")
    window.until_text("#share", "Copied")
    link = window.run("return window.copied")
    assert link == f"{shown.address}/runs/{run.id}?a=b#traceback"
    window.until_text("#share", "Copy link")

    window.go(f"{shown.address}/workers")
    window.go(link)
    assert window.run("return document.getElementById('traceback').open")
    window.click("#traceback summary")
    until(lambda: window.run("return location.href") == link.partition("#")[0], what="an address without it")


def test_what_is_set_aside_comes_up(local: LocalCluster, shown: Monitor, window: Browser) -> None:
    """Without a reload a message that nobody could serve is on its page."""
    window.go(f"{shown.address}/aside")
    window.until_text("#lamp", "live")
    window.run("window.stayed = true")

    session.current().ledger.set_aside([Aside(reason="a test in a browser", worker="nobody", excerpt=EVIL)])

    window.until_text("#aside", "a test in a browser")
    assert EVIL in window.text("#aside")
    assert window.run("return window.stayed")


def test_the_link_of_a_program(driver: str) -> None:
    """Who follows it sees the run, live, with the token gone from the address; another browser is asked for it."""
    window, stranger = Browser(driver), Browser(driver)
    try:
        with LocalCluster(workers=1) as cluster:
            link = cluster.monitor_url
            run = keyed.submit({"a": 1})
            run.result()
            window.go(run.monitor_url or "")
            window.until_text("h1", run.id)
            window.until_text("#lamp", "live")
            assert window.run("return location.search") == ""
            # The page that took the token is text, which has no icon of its own.
            assert [line for line in window.console() if "/favicon.ico" not in line] == []
            stranger.go(link.partition("?")[0])
            stranger.until_text("h1", "Log in")
            assert run.id not in stranger.text()
            assert stranger.run(ACCESSIBILITY) == []
            stranger.type("input[name=password]", link.partition("token=")[2])
            stranger.click("main button")
            stranger.until_text("#list", run.id)
    finally:
        window.close()
        stranger.close()


def test_a_link_on_another_site(driver: str) -> None:
    """Who is logged in comes to the page with its filters at once; who is not, after a wrong and a right token."""
    window, stranger = Browser(driver), Browser(driver)
    try:
        with LocalCluster(workers=1) as cluster:
            page, _, query = cluster.monitor_url.partition("?")
            elsewhere = f"data:text/html,<a href='{page}?state=failed'>runs</a>"
            window.go(cluster.monitor_url)
            window.until_text("h1", "Runs")
            window.go(elsewhere)
            window.click("a")
            window.until_text("h1", "Runs")
            assert window.run("return location.search") == "?state=failed"

            stranger.go(elsewhere)
            stranger.click("a")
            stranger.until_text("h1", "Log in")
            stranger.type("input[name=password]", "wrong")
            stranger.click("main button")
            stranger.until_text("[role=alert]", "wrong")
            stranger.type("input[name=password]", query.partition("token=")[2])
            stranger.click("main button")
            stranger.until_text("h1", "Runs")
            assert stranger.run("return location.search") == "?state=failed"
    finally:
        window.close()
        stranger.close()


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns"])
def test_times_are_the_viewers(local: LocalCluster, shown: Monitor, driver: str, zone: str) -> None:
    """Times are said as the viewer's zone and language say them, wherever the monitor is."""
    run = keyed.submit({"a": 1})
    run.result()
    (submitted,) = [event.time for event in run.events() if event.type == "run.submitted"]
    window = entered(Browser(driver, zone=zone, language="de-DE"), shown)
    try:
        window.go(f"{shown.address}/runs/{run.id}")
        said = window.run("return [...document.querySelectorAll('time')].map((at) => [at.dateTime, at.textContent])")
    finally:
        window.close()

    assert said[0][1] == datetime.fromtimestamp(submitted, ZoneInfo(zone)).strftime("%d.%m.%Y, %H:%M:%S")
    for moment, text in said:
        assert text == datetime.fromisoformat(moment).astimezone(ZoneInfo(zone)).strftime("%d.%m.%Y, %H:%M:%S")


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns"])
def test_filters_of_time_are_in_the_viewers_zone(local: LocalCluster, shown: Monitor, driver: str, zone: str) -> None:
    """What is typed is the viewer's own time; the address has it in UTC, and the form shows it as it was typed."""
    run = keyed.submit({"a": 1})
    run.result()
    (submitted,) = [event.time for event in run.events() if event.type == "run.submitted"]
    minute = datetime.fromtimestamp(submitted - submitted % 60, UTC)
    since, before = minute, minute + timedelta(minutes=1)
    window = entered(Browser(driver, zone=zone), shown)
    try:
        window.go(f"{shown.address}/?text={run.id}")
        assert window.text("form.filters").count("UTC") == 0
        for name, at in (("since", since), ("until", before)):
            there = at.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M")
            window.run("document.querySelector(arguments[0]).value = arguments[1]", f"input[name={name}]", there)
        window.click("form.filters button")
        until(lambda: "since=" in window.run("return location.search"), what="the filtered list")

        asked = window.run("return Object.fromEntries(new URLSearchParams(location.search))")
        form = window.run(
            "return ['since', 'until'].map((name) => document.querySelector(`input[name=${name}]`).value)"
        )
        assert run.id in window.text("#list")
        window.go(f"{shown.address}/?text={run.id}&until={since - timedelta(minutes=1):%Y-%m-%dT%H:%M}")
        assert run.id not in window.text("#list")
    finally:
        window.close()

    assert [asked["since"], asked["until"]] == [f"{at:%Y-%m-%dT%H:%M}" for at in (since, before)]
    assert form == [at.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M") for at in (since, before)]


def test_many_tabs_share_the_browsers_connections(
    local: LocalCluster, shown: Monitor, driver: str, tmp_path: Path
) -> None:
    """A browser has six connections to a server: in the eighth tab all is live and can be clicked, and in the first."""
    run = gated.submit(str(tmp_path / "gate"))
    window = entered(Browser(driver), shown)
    try:
        window.go(f"{shown.address}/runs/{run.id}")
        first = window.tab(f"{shown.address}/runs/{run.id}")
        for _ in range(6):
            window.tab(f"{shown.address}/runs/{run.id}")
        window.until_text("#lamp", "live")
        window.switch(first)
        window.until_text("#lamp", "live")
        run.cancel()
        window.until_text("h1", "cancelled")
    finally:
        window.close()
        (tmp_path / "gate").touch()

"""The monitor over a real cluster: as a program of its own, asked by HTTP."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from egregore_dist import LocalCluster, Run, node, parallel
from egregore_dist.cli import codes, main
from egregore_dist.client import session
from egregore_dist.ledger import runlist
from egregore_dist.ledger.records import Aside
from egregore_dist.monitor import users
from egregore_dist.monitor.users import Role
from tests.cluster.log_flows import goes_on, held
from tests.cluster.monitor_flows import (
    EVIL,
    asking,
    failing,
    gated,
    keyed,
    lingering,
    measured,
    nested,
    numbers,
    quick,
    staged,
    stumbling,
)
from tests.cluster.monitor_flows import gate as gated_at
from tests.support.clusters import Clusters
from tests.support.figures import MEASURED
from tests.support.hooks import SECRET
from tests.support.secret import secret_of
from tests.support.waiting import until

TOKEN = secret_of("token")
# CPU time, growth of memory, size of the value: as they are written.
TOOK = (r"[\d.]+ m?s", r"\+[\d.]+ \w*B", r"[\d.]+ \w*B")
CSRF = re.compile(r'name="csrf" value="(\w+)"')


def _secret(cluster: LocalCluster) -> dict[str, str]:
    """What signs the orders to workers."""
    secret = cluster.settings.secret
    return {"EGREGORE_SECRET": secret.get_secret_value()} if secret else {}


class Monitor:
    """A monitor as a process."""

    def __init__(self, cluster: LocalCluster, log: Path, *options: str, port: int = 0, **environment: str) -> None:
        self.log = log
        secret = cluster.settings.secret
        if secret is not None:
            environment = {"EGREGORE_SECRET": secret.get_secret_value(), **environment}
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "egregore_dist", "monitor", "--port", str(port), *options],
                env={**os.environ, "EGREGORE_BROKER_URL": cluster.url, **_secret(cluster), **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        until(lambda: self._address() or self.process.poll() is not None, what="the monitor's address")
        assert self._address(), log.read_text()
        self.link = self._address()
        self.address, _, query = self.link.partition("/?")
        self.port = port or int(self.address.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.address, headers={"origin": self.address}, timeout=30)
        if query:
            self.http.get(f"/?{query}")

    def _address(self) -> str:
        found = re.findall(r"monitor: (http\S+)", self.log.read_text())
        return found[-1] if found else ""

    def page(self, path: str, status: int = 200) -> str:
        """A page."""
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def until_limited(self, limit: str, text: str) -> None:
        """Wait until a limit is in use, and its page has a text."""

        def has_it() -> bool:
            return limit in self.page("/limits") and text in self.page(f"/limits/{limit}")

        until(has_it, what=f"{text} on the page of limit {limit}")

    def post(self, path: str, **form: Any) -> httpx.Response:
        """Send a form as a page does."""
        (csrf, *_) = CSRF.findall(self.page("/"))
        return self.http.post(path, data={"csrf": csrf, **form})

    def act(self, run: str, verb: str) -> None:
        """Press a button of a run's page."""
        answer = self.post(f"/runs/{run}/{verb}")
        assert (answer.status_code, answer.headers.get("location")) == (303, f"/runs/{run}"), answer.text

    def stop(self, sent: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(sent)
        self.process.wait(20)


@contextmanager
def monitor(cluster: LocalCluster, folder: Path, *options: str, **more: Any) -> Iterator[Monitor]:
    """A monitor that is stopped at the end."""
    made = Monitor(cluster, folder / "monitor.log", *options, **more)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def running(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """A monitor for this machine, with an admin's rights."""
    with (
        clusters.use("valkey") as cluster,
        monitor(cluster, tmp_path_factory.mktemp("monitor"), "--role", "admin") as made,
    ):
        yield made


@pytest.fixture
def shown(running: Monitor, local: LocalCluster) -> Monitor:
    """That monitor, and this process submits to the cluster that it shows."""
    return running


class Stream:
    """What one page's stream has said so far."""

    def __init__(self, monitor: Monitor, path: str, cursor: str | None = None) -> None:
        self.said: list[dict[str, str]] = []
        self._ended = False
        headers = {} if cursor is None else {"last-event-id": cursor}
        opened = threading.Event()

        def read() -> None:
            try:
                with httpx.stream(
                    "GET", monitor.address + path, headers=headers, cookies=dict(monitor.http.cookies), timeout=60
                ) as answer:
                    assert answer.headers["content-type"].startswith("text/event-stream")
                    opened.set()
                    event: dict[str, str] = {}
                    for line in answer.iter_lines():
                        name, _, value = line.partition(": ")
                        if line == "":
                            if "event" in event:
                                self.said.append({**event, "at": str(time.time())})
                            event = {}
                        else:
                            event[name] = value
            except httpx.HTTPError:
                return

        self._thread = threading.Thread(target=read, daemon=True)
        self._thread.start()
        assert opened.wait(20)

    def until(self, what: str) -> None:
        """Wait for a message that says this."""
        until(lambda: any(what in one.get("data", "") for one in self.said), what=f"{what} in {self.said}")


def ended(run: Run, state: str) -> None:
    until(lambda: run.status == state, what=f"run {run.id} as {state}")


# Reading


def test_a_run_from_its_submission_to_its_end(shown: Monitor, tmp_path: Path) -> None:
    """The list and the run's page show a run as it goes on: waiting for its gate, then ended, with its value."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    until(Path(f"{gate}.reached").exists, what="the branch at the gate")

    page = shown.page(f"/runs/{run.id}")
    assert "state-running" in page
    assert "0/2" in page or "1/2" in page
    assert run.id in shown.page("/?state=running")
    gate.touch()
    run.result()

    page = shown.page(f"/runs/{run.id}")
    assert "state-succeeded" in page
    assert 'class="step node is-ok"' in page
    assert "2/2" in page
    assert run.id not in shown.page("/?state=running")
    assert "open" in shown.page(f"/runs/{run.id}/blocks/0/branches/0/result")


def test_the_picture_shows_where_a_branch_is(shown: Monitor, tmp_path: Path) -> None:
    """Of a branch's nodes, the one that its worker is at runs; those before it are done, those after it not begun."""
    gate = tmp_path / "gate"
    run = staged.submit(str(gate))
    until(lambda: "<title>before: done</title>" in shown.page(f"/runs/{run.id}"), what="what the worker has said")
    page = shown.page(f"/runs/{run.id}")
    gate.touch()
    run.result()

    assert "<title>gate: running</title>" in page
    assert "<title>after: not begun</title>" in page


def test_a_page_says_why_its_run_waits(shown: Monitor, tmp_path: Path) -> None:
    """The page of a run that waits says why, in a part that is read anew as the others are, and leads to the block."""
    gate = tmp_path / "gate"
    run = parallel(gated_at, gated_at.alias("second"), max_concurrent=1, name="one").submit(str(gate))
    until(Path(f"{gate}.reached").exists, what="the branch at the gate")

    limited = shown.page(f"/runs/{run.id}")
    shown.act(run.id, "pause")
    paused = shown.page(f"/runs/{run.id}")
    shown.act(run.id, "resume")
    gate.touch()
    run.result()

    assert '<section id="waits" data-live>' in limited
    assert re.search(
        r'<li>\s*<a href="/runs/\w+/blocks/0.0-">one</a>: max_concurrent=1 is reached: 1 runs, 1 waits', limited
    )
    assert "the run is paused, for " in paused
    ended = shown.page(f"/runs/{run.id}")
    assert '<section id="waits" data-live>' in ended
    assert "Why it waits" not in ended


def test_a_change_reaches_the_page(shown: Monitor, tmp_path: Path) -> None:
    """A page's stream says when something has happened; with the last cursor nothing of it is lost or told again."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    stream = Stream(shown, f"/runs/{run.id}/events")
    listed = Stream(shown, "/events?state=succeeded")
    stream.until("branches")
    before = len(listed.said)
    gate.touch()

    stream.until("run.ended")
    until(lambda: len(listed.said) > before, what="the list's change")
    cursor = stream.said[-1]["id"]
    again = Stream(shown, f"/runs/{run.id}/events", cursor)
    first = Stream(shown, f"/runs/{run.id}/events")
    first.until("run.ended")
    assert again.said == []


def test_what_is_set_aside_reaches_the_page(shown: Monitor, local: LocalCluster) -> None:
    """The page of messages set aside says which stream to follow, and hears of the next one there."""
    assert 'data-stream="/events?of=aside"' in shown.page("/aside")
    stream = Stream(shown, "/events?of=aside")
    stream.until("aside")
    before = len(stream.said)

    session.current().ledger.set_aside([Aside(reason="a test of the page", worker="nobody")])

    until(lambda: len(stream.said) > before, what="the page's change")
    assert "a test of the page" in shown.page("/aside")


def test_the_monitor_is_killed_and_started_again(local: LocalCluster, tmp_path: Path) -> None:
    """It holds nothing: killed in the middle of a run and started again, it shows the same page."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    until(Path(f"{gate}.reached").exists, what="the branch at the gate")
    first = Monitor(local, tmp_path / "first.log")
    before = shape(first.page(f"/runs/{run.id}"))
    first.stop(signal.SIGKILL)

    second = Monitor(local, tmp_path / "second.log", port=first.port)
    try:
        assert shape(second.page(f"/runs/{run.id}")) == before
        gate.touch()
        run.result()
        assert "state-succeeded" in second.page(f"/runs/{run.id}")
    finally:
        second.stop()


def shape(page: str) -> str:
    """A page without its timeline and what else changes from moment to moment."""
    page = page.partition('id="timeline"')[0]
    return re.sub(r'name="csrf" value="\w+"|[\d.]+ m?s\b', "", page)


def test_a_failure_is_told(shown: Monitor) -> None:
    """The class, node and branch of an error, what it said, and its traceback; script in it stays text."""
    run = failing.submit(1)
    ended(run, "failed")

    page = shown.page(f"/runs/{run.id}")

    assert "ValueError" in page
    assert "breaks" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert "Traceback" in page
    assert 'class="step node is-failed"' in page


def test_what_a_branch_says_reaches_its_page(shown: Monitor, tmp_path: Path) -> None:
    """The page of a branch hears of lines while nothing else happens, and of events too; a viewer's of events alone."""
    gate = tmp_path / "gate"
    run = parallel(goes_on, name="says").submit(str(gate))
    address = f"/runs/{run.id}/blocks/0.0-/branches/0"
    until(lambda: "before" in shown.page(f"/runs/{run.id}/logs"), what="the first line")
    (stream,) = re.findall(r'data-stream="([^"]*)"', shown.page(address))
    live = Stream(shown, html.unescape(stream))

    gate.touch()
    live.until("lines")
    assert run.status == "running"
    Path(f"{gate}.end").touch()
    live.until("run.ended")


def test_what_nodes_say_reaches_the_page(shown: Monitor, tmp_path: Path) -> None:
    """The lines of a run are on a page of their own and on that of their branch, live, filtered, and text alone."""
    gate = tmp_path / "gate"
    run = held.submit(str(gate))
    address = f"/runs/{run.id}/logs"
    until(lambda: "before" in shown.page(address), what="the first line")
    assert f'href="{address}"' in shown.page(f"/runs/{run.id}")
    (stream,) = re.findall(r'data-stream="([^"]*)"', shown.page(address))
    assert re.fullmatch(rf"{address}/events\?after=\d+-\d+", stream)
    live = Stream(shown, stream)
    gate.touch()
    live.until("lines")
    run.result()

    page = shown.page(address)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\x1b[31mred" in page
    assert "<script>alert" not in page
    assert ">gates/holds</a>" in page
    block = "0.0-1"
    for query, lines in (
        ("block=gates", 2),
        (f"block={block}&branch=0&node=holds", 2),
        ("branch=holds&level=INFO", 2),
        ("branch=1", 0),
        ("node=silent", 0),
        ("level=ERROR", 0),
        ("level=LOUD&before=x", 2),
    ):
        found = shown.page(f"{address}?{query}")
        assert found.count('<td class="text">') == lines, query
        assert ("No line fits" in found) == (lines == 0)
    branch = shown.page(f"/runs/{run.id}/blocks/{block}/branches/0")
    assert branch.count('<td class="text">') == 2
    assert f"{address}?block={block}&amp;branch=0" in branch
    assert "It has logged and printed nothing." in shown.page(f"/runs/{run.id}/blocks/{block}/branches/1")
    shown.page("/runs/nothing/logs", 404)


def test_names_that_are_html(shown: Monitor) -> None:
    """Keys of a mapping name the branches of a map: whatever they are, every page shows them as text."""
    run = keyed.submit({EVIL: 1, "plain": 2})
    run.result()
    (block,) = set(re.findall(rf"/runs/{run.id}/blocks/([\d.,-]+)\"", shown.page(f"/runs/{run.id}"))) - {"0"}

    for path in ("", f"/blocks/{block}", f"/blocks/{block}/branches/0", f"/blocks/{block}/branches/0/input"):
        page = shown.page(f"/runs/{run.id}{path}")
        assert "<img" not in page
    for path in ("", "/branches/0"):
        assert "&lt;img" in shown.page(f"/runs/{run.id}/blocks/{block}{path}")
    assert "&lt;img" in shown.page(f"/runs/{run.id}/blocks/0/branches/0/input")


def test_a_large_block_opens_page_by_page(shown: Monitor) -> None:
    """Ten thousand branches are one line on the run's page, and a hundred on each of the block's."""
    run = numbers.submit(10_000)
    run.result()

    page = shown.page(f"/runs/{run.id}")
    assert "10000/10000" in page
    assert len(page) < 60_000
    (block,) = set(re.findall(rf"/runs/{run.id}/blocks/([\d.,-]+)\"", page)) - {"0"}
    assert "1 to 100 of 10000 branches" in shown.page(f"/runs/{run.id}/blocks/{block}")
    last = shown.page(f"/runs/{run.id}/blocks/{block}?page=99")
    assert "9901 to 10000 of 10000 branches" in last
    assert "#9999" in last
    assert "No branch here." in shown.page(f"/runs/{run.id}/blocks/{block}?page=100")
    assert "No branch has failed." in shown.page(f"/runs/{run.id}/blocks/{block}?only=failed")
    assert "branches/9999" in last
    shown.page(f"/runs/{run.id}/blocks/{block}/branches/9999")
    shown.page(f"/runs/{run.id}/blocks/{block}/branches/10000", 404)


def test_a_timeline_without_its_middle_says_so(shown: Monitor, tmp_path: Path) -> None:
    """A page that was looked at before the events that came next were dropped tells how much it shows, of how many."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    until(lambda: "1/2" in shown.page(f"/runs/{run.id}"), what="the other branch's end")
    ledger = session.current().ledger
    before = shown.page(f"/runs/{run.id}")
    gate.touch()
    run.result()
    ledger.redis.xtrim(ledger.keys.part(run.id, "events"), maxlen=1, approximate=False)
    after = shown.page(f"/runs/{run.id}")

    assert "Not complete" not in before
    assert "Not complete: the times of 1 of 2 branches are known." in after
    assert "gate: on " in after
    assert "when it began or ended is not known" in after


def test_a_block_without_some_of_its_times_says_so(shown: Monitor) -> None:
    """Where the run's events are not all kept, the pages of its block and branches say how many times are known."""
    run = quick.map(optimization_enabled=False).submit(list(range(40)))
    run.result()
    ledger = session.current().ledger
    key = ledger.keys.part(run.id, "events")
    (block,) = [block.id for block in ledger.blocks(run.id) if block.parent is not None]
    ledger.redis.xtrim(key, maxlen=ledger.redis.xlen(key) // 2, approximate=False)
    page = shown.page(f"/runs/{run.id}/blocks/{block}")
    whole = shown.page(f"/runs/{run.id}")

    (known,) = re.findall(r"Not complete: the times of (\d+) of 40 branches are known", page)
    assert 0 < int(known) < 40
    ran = re.findall(
        r"<td>\S+@\S+</td>\s*<td class=\"right\">[\d.]+ m?s</td>\s*<td class=\"right\">[\d.]+ m?s</td>", page
    )
    assert len(ran) == int(known)
    assert f"the times of {known} of 40 branches are known" in whole
    pages = [shown.page(f"/runs/{run.id}/blocks/{block}/branches/{branch}") for branch in range(40)]
    assert sum("Its events are not kept any more." in page for page in pages) == 40 - int(known)
    assert sum("Not complete" in page for page in pages) == int(known)


def test_a_block_with_all_its_times_says_nothing(shown: Monitor) -> None:
    """Nothing is said to be missing where nothing is."""
    run = quick.map().submit([1, 2, 3])
    run.result()
    (block,) = [block.id for block in session.current().ledger.blocks(run.id) if block.parent is not None]

    assert "Not complete" not in shown.page(f"/runs/{run.id}")
    assert "Not complete" not in shown.page(f"/runs/{run.id}/blocks/{block}")
    assert "Not complete" not in shown.page(f"/runs/{run.id}/blocks/{block}/branches/0")


def test_blocks_in_blocks(shown: Monitor) -> None:
    """Blocks that the branches of a map have opened are shown together, with the branch that each belongs to."""
    run = nested.submit([1, 2, 3])
    run.result()

    page = shown.page(f"/runs/{run.id}")

    assert "6/6 · 3 blocks" in page
    alone = shown.http.get(f"/runs/{run.id}/blocks?path=0")
    assert re.fullmatch(rf"/runs/{run.id}/blocks/0\.0-0", alone.headers["location"])
    listed = shown.page(f"/runs/{run.id}/blocks?path=0,0")
    assert len(re.findall(r"<tr>", listed)) == 4
    assert "#1" in listed


def test_values_that_are_too_large(shown: Monitor) -> None:
    """A large value is not read: its size is told."""

    @node
    def much(n: int) -> str:
        return "x" * n

    @node
    def size(data: dict[str, str]) -> dict[str, int]:
        return {name: len(value) for name, value in data.items()}

    run = (parallel(much, name="big") >> size).submit(2_000_000)
    run.result()
    (block,) = set(re.findall(rf"/runs/{run.id}/blocks/([\d.,-]+)\"", shown.page(f"/runs/{run.id}"))) - {"0"}

    page = shown.page(f"/runs/{run.id}/blocks/{block}/branches/0/result")

    assert "2.0 MB" in page
    assert len(page) < 5000


def test_what_workers_are_at(shown: Monitor, local: LocalCluster, tmp_path: Path) -> None:
    """A worker's row links to the branch that a lane of it executes, and to its run, on the page and at a terminal."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    link = f'<a href="/runs/{run.id}/blocks/0.0-0/branches/0">gate #0</a>'
    until(lambda: link in shown.page("/workers"), what="the branch at the gate")
    page = shown.page("/workers")
    asked = {
        command: CliRunner().invoke(main, ["--broker-url", local.url, command, "--json"])
        for command in ("workers", "top")
    }
    gate.touch()
    run.result()

    assert f'<a href="/runs/{run.id}">{run.id}</a>, since <time' in page
    for command, done in asked.items():
        assert done.exit_code == 0, (command, done.output)
        (work,) = [lane for worker in json.loads(done.stdout)["workers"] for lane in worker["work"]]
        assert (work["run"], work["name"], work["node"], work["branch"]) == (run.id, "gates", "gate", 0)
        assert work["since"].endswith("+00:00")


def test_what_a_branch_took(shown: Monitor, tmp_path: Path) -> None:
    """A branch that took some time has its CPU time, the growth of its memory and the size of its value in its row."""
    path = tmp_path / "gate"
    run = measured.submit(str(path))
    until(Path(f"{path}.reached").exists, what="the branch at the gate")
    block = f"/runs/{run.id}/blocks/0.0-0"
    (before,) = re.findall(r">patient</a></th>.*?</tr>", shown.page(block), re.DOTALL)
    path.touch()
    run.result()
    (row,) = re.findall(r">patient</a></th>.*?</tr>", shown.page(block), re.DOTALL)
    (attempt,) = re.findall(r"<tbody>.*?</tbody>", shown.page(f"{block}/branches/0"), re.DOTALL)

    def cells(text: str) -> list[str]:
        return re.findall(r'<td class="right">(.*?)</td>', text)

    assert cells(before)[-3:] == ["-", "-", "-"]
    assert [bool(re.fullmatch(wanted, cell)) for wanted, cell in zip(TOOK, cells(row)[-3:], strict=True)] == [True] * 3
    assert cells(attempt)[0] == "1"
    assert cells(attempt)[-3:-1] == cells(row)[-3:-1]


def test_workers_and_metrics(shown: Monitor, local: LocalCluster) -> None:
    """Both workers are there with what they report, and the metrics can be read by Prometheus's own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    page = shown.page("/workers")
    for worker in local.workers:
        assert worker.name in page

    families = {family.name: family for family in text_string_to_metric_families(shown.page("/metrics"))}
    assert families["egregore_workers"].samples[0].value == 2
    states = {sample.labels["state"] for sample in families["egregore_runs"].samples}
    assert states == {"pending", "running", "paused", "succeeded", "failed", "cancelled"}
    assert {sample.labels["worker"] for sample in families["egregore_worker_slots"].samples} == {
        worker.name for worker in local.workers
    }


def test_nodes(shown: Monitor) -> None:
    """What is learned of a function, its nodes, and what became of them in the newest runs, sorted as it is asked."""
    run = failing.submit(1)
    ended(run, "failed")

    def row() -> str:
        (found,) = re.findall(r"<tr>\s*<th scope=\"row\">[^<]*monitor_flows:breaks.*?</tr>", shown.page("/nodes"), re.S)
        return str(found)

    until(lambda: "monitor_flows:quick" in shown.page("/nodes"), what="what was learned")
    until(lambda: "monitor_flows:breaks" in shown.page("/nodes"), what="what was learned of the one that fails")

    assert re.search(r'<span class="bad">\d+</span> of \d+', row())
    assert re.search(r'<a href="/runs/\w+">[\d.]+ m?s</a>', row())
    assert 'aria-sort="descending"' in shown.page("/nodes")
    names = re.findall(r'<th scope="row">([^<]+?)\s*<', shown.page("/nodes?sort=function&turned=1"))
    assert names == sorted(names, reverse=True)


def test_a_node_that_fails_as_one_of_several(shown: Monitor) -> None:
    """Its failures are on the page of nodes, which says what it knows of nodes in one branch."""
    ended(stumbling.submit(1), "failed")

    until(lambda: "monitor_flows:stumbles" in shown.page("/nodes"), what="the node that failed")

    page = shown.page("/nodes")
    (row,) = re.findall(r"<tr>\s*<th scope=\"row\">[^<]*monitor_flows:stumbles.*?</tr>", page, re.S)
    assert '<span class="bad">1</span> of 1' in row
    assert "since of several in a branch it is not known how long each took" in page


def test_limits(shown: Monitor, tmp_path: Path) -> None:
    """A limit that is in use, by the values of its key; changed, and cleared again, as at a terminal."""
    gate = tmp_path / "gate"
    run = asking.submit([{"model": model, "path": str(gate)} for model in (EVIL, "small")])
    try:
        shown.until_limited("models", "&lt;img")
        assert '<a href="/limits/models">models</a>' in shown.page("/limits")
        assert "2 at a time" in shown.page("/limits/models")
        assert "<img" not in shown.page("/limits/models")
        answer = shown.post("/limits", name="models", concurrent="1", per="100/s")
        assert (answer.status_code, answer.headers["location"]) == (303, "/limits/models")
        assert "1 at a time and 100/s, 10 of them at once" in shown.page("/limits/models")
        assert "hand; code: 2 at a time" in shown.page("/limits/models")
        assert shown.post("/limits/models/clear").headers["location"] == "/limits/models"
        assert "1 at a time" not in shown.page("/limits/models")
    finally:
        gate.touch()
    run.result()


def test_a_limit_that_no_run_has_used(shown: Monitor) -> None:
    """It is kept for when one does, without any part where none is given, and forgotten when it is cleared."""
    assert "There is no limit" in shown.page("/limits/coming", 404)
    assert shown.post("/limits/coming/clear").status_code == 404

    assert shown.post("/limits", name="coming", concurrent="", per="5/min").status_code == 303
    assert "5/min, 1 of them at once" in shown.page("/limits/coming")
    assert shown.post("/limits", name="coming", concurrent="", per="").status_code == 303
    assert "no limit" in shown.page("/limits/coming")
    assert shown.post("/limits/coming/clear").headers["location"] == "/limits?done=clear"
    assert "The limit is forgotten" in shown.page("/limits?done=clear")
    shown.page("/limits/coming", 404)


@pytest.mark.parametrize(
    "form",
    [
        {"name": "", "concurrent": "1"},
        {"name": "<b>", "concurrent": "1"},
        {"name": "x", "concurrent": "0"},
        {"name": "x", "concurrent": "-1"},
        {"name": "x", "concurrent": "²"},
        {"name": "x", "concurrent": "9" * 50},
        {"name": "x", "concurrent": "1000001"},
        {"name": "x", "per": "often"},
        {"name": "x", "per": "0/s"},
    ],
    ids=str,
)
def test_what_is_no_limit(shown: Monitor, form: dict[str, str]) -> None:
    """It is refused with what is wrong, and nothing is changed."""
    answer = shown.post("/limits", **form)

    assert answer.status_code == 400
    assert "<b>" not in answer.text
    shown.page("/limits/x", 404)


def test_a_worker_is_drained_and_resumed(shown: Monitor, local: LocalCluster) -> None:
    """The buttons do it, the page says it and from what a worker's numbers come; who is not there is 404."""
    name = local.workers[0].name
    assert "given by hand" in shown.page("/workers")
    try:
        drained = shown.post("/workers/drain", worker=name)
        page = shown.page("/workers")
    finally:
        resumed = shown.post("/workers/resume", worker=name)

    assert [(it.status_code, it.headers["location"]) for it in (drained, resumed)] == [(303, "/workers")] * 2
    assert "<strong>drained</strong>" in page
    assert page.count(f'aria-label="Resume {name}"') == page.count(f'aria-label="Stop {name}"') == 1
    assert f'aria-label="Drain {name}"' not in page
    assert "<strong>drained</strong>" not in shown.page("/workers")
    for verb in ("drain", "resume", "stop"):
        assert shown.post(f"/workers/{verb}", worker="nobody").status_code == 404
    assert shown.post("/workers/drain").status_code == 404


def test_what_is_not_there(shown: Monitor) -> None:
    """Runs, blocks and branches that are not there are 404, and a page that says so."""
    run = failing.submit(1)
    ended(run, "failed")
    paths = (
        "/runs/nothing",
        f"/runs/{run.id}/blocks/0.9-9",
        f"/runs/{run.id}/blocks/0/branches/7",
        "/runs/nothing/blocks",
    )

    for path in paths:
        assert "Not found" in shown.page(path, 404)


# Acting


def test_pause_resume_cancel_retry_delete(shown: Monitor, tmp_path: Path) -> None:
    """The buttons of a run do what they say, and the page shows the state after it."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    until(Path(f"{gate}.reached").exists, what="the branch at the gate")

    shown.act(run.id, "pause")
    assert run.status == "paused"
    assert "state-paused" in shown.page(f"/runs/{run.id}")
    shown.act(run.id, "resume")
    assert run.status == "running"
    shown.act(run.id, "cancel")
    assert run.status == "cancelled"
    gate.touch()
    shown.act(run.id, "retry")
    assert run.result()["gate"] == "open"
    answer = shown.post(f"/runs/{run.id}/delete")
    assert answer.headers["location"] == "/?done=delete"
    shown.page(f"/runs/{run.id}", 404)


def test_a_run_is_deleted_when_what_its_end_has_stopped_has_stopped(shown: Monitor, tmp_path: Path) -> None:
    """With the run the places of limits are free that it has."""
    gate = tmp_path / "gate"
    run = lingering.submit(str(gate))
    until(Path(f"{gate}.reached").exists, what="the node")
    run.cancel()

    assert shown.post(f"/runs/{run.id}/delete").headers["location"] == "/?done=delete"
    assert Path(f"{gate}.left").exists()


def test_a_run_that_goes_on_is_not_deleted(shown: Monitor, tmp_path: Path) -> None:
    """Delete is for what has ended."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))

    assert shown.post(f"/runs/{run.id}/delete").status_code == 403
    gate.touch()
    run.result()


def test_many_at_once(shown: Monitor, tmp_path: Path) -> None:
    """The runs that were chosen are cancelled, and no others; then they are retried."""
    gate = tmp_path / "gate"
    runs = [gated.submit(str(gate)) for _ in range(3)]
    until(Path(f"{gate}.reached").exists, what="a branch at the gate")

    answer = shown.post("/runs", action="cancel", run=[runs[0].id, runs[2].id, "gone"], filters="state=cancelled")

    assert (answer.status_code, answer.headers["location"]) == (303, "/?state=cancelled&done=cancel&changed=2&chosen=3")
    assert [run.status in ("cancelled",) for run in runs] == [True, False, True]
    gate.touch()
    shown.post("/runs", action="retry", run=[run.id for run in runs])
    for run in runs:
        assert run.result()["gate"] == "open"
    assert shown.post("/runs", action="delete", run=[runs[0].id]).status_code == 400


# Being let in


def test_users_and_roles_of_a_program(local: LocalCluster, tmp_path: Path) -> None:
    """With a file of users and a token: nobody gets in without them, and each has their role."""
    file = tmp_path / "users"
    users.add(file, "ann", Role.VIEWER, "correct horse")
    run = failing.submit(1)
    ended(run, "failed")
    options = ("--users", str(file), "--role", "operator")

    with monitor(local, tmp_path, *options, EGREGORE_MONITOR_TOKEN=TOKEN) as made:
        assert made.http.get(f"/runs/{run.id}").status_code == 401
        assert made.http.get("/healthz").text == "ok"
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert "What it said" not in made.http.get(f"/runs/{run.id}", headers=bearer).text

        answer = made.http.post("/login", data={"name": "ann", "password": "correct horse", "next": f"/runs/{run.id}"})
        assert answer.headers["location"] == f"/runs/{run.id}"
        page = made.page(f"/runs/{run.id}")
        assert "ValueError" in page
        assert "alert(1)" not in page
        assert made.http.get(f"/runs/{run.id}/blocks/0/branches/0/input").status_code == 403
        assert made.http.get(f"/runs/{run.id}/logs").status_code == 403
        assert "Logs" not in made.page(f"/runs/{run.id}/blocks/0.0-1/branches/0")
        assert made.post(f"/runs/{run.id}/retry").status_code == 403
        assert made.post("/logout").status_code == 303
        assert made.http.get("/").status_code == 401


def test_s11_a_removed_user_and_a_new_password_end_sessions(local: LocalCluster, tmp_path: Path) -> None:
    """A running monitor takes the file of users over: the sessions of users that it changed end."""
    file = tmp_path / "users"
    for name in ("ann", "bob", "eve"):
        users.add(file, name, Role.VIEWER, "correct horse")
    with monitor(local, tmp_path, "--users", str(file)) as made:
        clients = {}
        for name in ("ann", "bob", "eve"):
            clients[name] = httpx.Client(base_url=made.address, headers={"origin": made.address}, timeout=30)
            clients[name].post("/login", data={"name": name, "password": "correct horse"})
            assert clients[name].get("/").status_code == 200

        users.add(file, "ann", Role.VIEWER, "another horse")
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("eve")))

        until(lambda: clients["ann"].get("/").status_code == 401, what="the end of the session of ann")
        assert clients["eve"].get("/").status_code == 401
        assert clients["bob"].get("/").status_code == 200
        for client in clients.values():
            client.close()


def test_tls(local: LocalCluster, tmp_path: Path) -> None:
    """With a certificate it speaks HTTPS alone."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", *made, *names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)

    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    with monitor(local, tmp_path, *options, EGREGORE_MONITOR_TOKEN=TOKEN) as made_one:
        assert made_one.address.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"{made_one.address}/healthz", verify=context).text == "ok"
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{made_one.port}/healthz")


@pytest.mark.parametrize(
    "options",
    [("--host", "0.0.0.0"), ("--behind-proxy",), ("--tls-cert", "x"), ("--add-user", "ann"), ("--users", "/nothing")],
    ids=" ".join,
)
def test_what_does_not_start(local: LocalCluster, options: tuple[str, ...]) -> None:
    """What would be open, or lacks something, ends with 2 and one line that says what to give."""
    result = CliRunner().invoke(main, ["--broker-url", local.url, "monitor", "--port", "0", *options])

    assert result.exit_code == codes.USAGE
    assert result.stdout == ""
    assert "--" in result.stderr or "/nothing" in result.stderr


@pytest.mark.parametrize(("options", "is_believed"), [((), True), (("--proxy", "192.0.2.7"), False)], ids=str)
def test_s7_a_monitor_behind_a_proxy_answers_it_alone(
    local: LocalCluster, tmp_path: Path, options: tuple[str, ...], is_believed: bool
) -> None:
    """Wrong logins count for the address that the proxy names; who is not the proxy is refused."""
    proxied = ("--behind-proxy", "--url", "https://monitor.example.org", *options)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"EGREGORE_MONITOR_TOKEN": TOKEN, "FORWARDED_ALLOW_IPS": "*"}
    with monitor(local, tmp_path, *proxied, port=port, **given) as made:
        headers = {"host": "monitor.example.org", "origin": "https://monitor.example.org"}
        statuses = [
            httpx.post(
                f"http://127.0.0.1:{made.port}/login",
                data={"password": "wrong"},
                # The last one is the proxy's own word.
                headers={**headers, "x-forwarded-for": f"192.0.2.99, 198.51.100.{number}"},
            ).status_code
            for number in range(12)
        ]

        health = httpx.get(f"http://127.0.0.1:{made.port}/healthz", headers=headers).status_code

    assert statuses == ([401] * 12 if is_believed else [403] * 12)
    assert health == 200


def test_a_port_that_is_taken(local: LocalCluster) -> None:
    """It is named, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, ["--broker-url", local.url, "monitor", "--port", port])

    assert result.exit_code == codes.USAGE
    assert "--port 0" in result.stderr


def test_adding_a_user(tmp_path: Path) -> None:
    """A user is added without a cluster; the password is asked for, and is nowhere to be seen."""
    file = tmp_path / "users"
    options = ["monitor", "--users", str(file), "--add-user", "ann", "--role", "viewer"]

    result = CliRunner().invoke(main, options, input="correct horse\ncorrect horse\n")

    assert result.exit_code == 0, result.output
    assert "correct horse" not in result.output
    assert [role for role, _ in users.read(file).values()] == [Role.VIEWER]


def test_no_secret_is_told(local: LocalCluster, tmp_path: Path) -> None:
    """Neither a page nor the log nor the process list has the server's password, the token or the cluster's secret."""
    secret = local.settings.secret
    password = re.findall(r":([^:@/]+)@", local.url)[0]
    told = [password, TOKEN, secret.get_secret_value() if secret else "-"]

    @node
    def tells(words: list[str]) -> None:
        raise ValueError(f"connecting to redis://x:{words[0]}@host failed, secret {words[2]}, {words[0]}")

    run = parallel(tells, name="tell").submit(told)
    ended(run, "failed")
    with monitor(local, tmp_path, EGREGORE_MONITOR_TOKEN=TOKEN, EGREGORE_SECRET=told[2]) as made:
        made.http.post("/login", data={"password": TOKEN})
        made.http.post("/login", data={"password": f"{TOKEN}x"})
        paths = ("/", f"/runs/{run.id}", f"/runs/{run.id}/blocks/0/branches/0/input", "/workers", "/aside", "/metrics")
        pages = [made.page(path) for path in paths]
        line = Path(f"/proc/{made.process.pid}/cmdline").read_bytes().decode()
    said = [*pages, (tmp_path / "monitor.log").read_text(), line]

    assert "***" in pages[1]
    for one in said:
        assert not [word for word in told if word in one]


def test_s20_slow_connections_do_not_keep_others_out(shown: Monitor) -> None:
    """Five hundred connections that say nothing, or a byte at a time, hold up no page, and are ended."""
    files = Path(f"/proc/{shown.process.pid}/fd")
    before, cookies = len(list(files.iterdir())), dict(shown.http.cookies)
    slow = []
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.2):
            for connection in slow[::2]:
                with suppress(OSError):
                    connection.sendall(b"a")

    thread = threading.Thread(target=drip)
    try:
        for _ in range(500):
            slow.append(socket.create_connection(("127.0.0.1", shown.port)))
        for connection in slow[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        thread.start()

        def opens() -> bool:
            begun = time.monotonic()
            try:
                return "Runs" in httpx.get(shown.address, cookies=cookies).text and time.monotonic() - begun < 1
            except httpx.HTTPError:
                return False

        until(opens, what="a page within a second")
        assert len(list(files.iterdir())) <= before + 510
        until(lambda: len(list(files.iterdir())) <= before + 5, what="the end of the slow ones", seconds=30)
        until(opens, what="a page within a second")
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()
        for connection in slow:
            connection.close()


#: Writes so many runs that have ended: each has its record, and its place in the list.
MANY_RUNS = """
for number = 1, tonumber(ARGV[1]) do
  local id = string.format('run-%06d', number)
  redis.call('HSET', KEYS[1] .. ':{' .. id .. '}', 'state', number % 100 == 0 and 'failed' or 'succeeded',
    'workflow', 'flow-' .. number % 7, 'created', number * 10, 'ended', number * 10 + 5)
  redis.call('ZADD', KEYS[1] .. ':runs', number * 10, id)
end
"""


def test_s20_a_hundred_thousand_runs_are_listed_within_a_second(tmp_path: Path) -> None:
    """A page of the list is there within a second, whatever is looked for."""
    with LocalCluster(workers=0) as cluster, monitor(cluster, tmp_path) as made:
        session.current().ledger.redis.eval(MANY_RUNS, 1, cluster.settings.prefix, "100000")
        page = made.page("/")
        assert "run-100000" in page
        assert runlist.known(session.current().ledger) == 100_000
        for query in ("", "?state=failed", "?state=running", "?text=run-000001", "?text=nothing", "?workflow=nothing"):
            begun = time.monotonic()
            page = made.page(f"/{query}")
            took = time.monotonic() - begun
            MEASURED.append(f"100,000 runs, list of {query or 'all'}: {took * 1000:.0f} ms")
            assert took < 1.0, query
            # So that it is, however many runs there are.
            assert all(int(looked) <= 20_000 for looked in re.findall(r"(\d+) looked at", page)), query
            assert ("run-000001" in page) == (query == "?text=run-000001")


def test_the_monitor_of_a_local_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local cluster has a monitor for who has its link, and it ends with the cluster."""
    monkeypatch.setenv("EGREGORE_MONITOR_URL", "https://of.another.example.org")
    with LocalCluster(workers=0) as cluster, httpx.Client(timeout=30) as http:
        run = failing.submit(1)
        link = cluster.monitor_url
        address = link.partition("?")[0]
        assert httpx.get(address, timeout=30).status_code == 401
        http.get(link)
        assert run.id in http.get(address).text
        assert cluster.monitor_url == link
    with pytest.raises(httpx.HTTPError):
        httpx.get(address)


def test_the_ledger_goes_away(tmp_path: Path) -> None:
    """Without its server the monitor says so, and shows everything again when that is back."""
    with LocalCluster(workers=0, data_dir=tmp_path / "data") as cluster:
        run = failing.submit(1)
        server = cluster.server
        assert server is not None
        with monitor(cluster, tmp_path) as made:
            assert run.id in made.page("/")
            server.kill()
            assert "cannot be reached" in made.page("/", 503)
            assert made.page("/healthz") == "ok"
            server.restart()
            assert run.id in made.page("/")


@pytest.mark.parametrize("hook", ["mask", "fails"])
def test_a_hook_hides_data(local: LocalCluster, tmp_path: Path, hook: str) -> None:
    """Inputs, results, errors and lines are shown as the user's hook has them, by the monitor and by commands."""

    @node
    def tells(number: str) -> str:
        print(f"line {number}")
        return f"result {number}"

    @node
    def fails(number: str) -> None:
        raise ValueError(f"error {number}")

    good, bad = tells.submit(SECRET), parallel(tells, fails, name="tell").submit(SECRET)
    ended(good, "succeeded")
    ended(bad, "failed")
    name = f"tests.support.hooks:{hook}"
    with monitor(local, tmp_path, EGREGORE_REDACT=name, PYTHONPATH=os.getcwd()) as made:
        branch = f"/runs/{good.id}/blocks/0/branches/0"
        pages = [made.page(path) for path in (f"{branch}/input", f"{branch}/result", branch, f"/runs/{good.id}/logs")]
        pages.append(made.page(f"/runs/{bad.id}"))
        pages.append(made.page(f"/runs/{bad.id}/blocks/0/branches/0"))
    commands = [
        *(["show", good.id, "--value"], ["show", good.id, "--value", "--json"], ["logs", good.id]),
        *(["show", bad.id], ["show", bad.id, "--json"], ["watch", bad.id], ["report", bad.id], ["logs", bad.id]),
    ]
    said = [
        CliRunner(env={"EGREGORE_REDACT": name}).invoke(main, ["--broker-url", local.url, "runs", *one])
        for one in commands
    ]

    for text in (*pages, *(f"{one.output}{one.stderr}" for one in said), (tmp_path / "monitor.log").read_text()):
        assert SECRET not in text
    for page, what in zip(pages, ("input", "result", "log", "log", "error"), strict=False):
        assert (f"&lt;{what}&gt;" if hook == "mask" else "redacted") in page
    assert ("<result>" if hook == "mask" else "redacted") in said[0].output


def test_a_run_of_another_release_is_told_to_be_one(shown: Monitor, local: LocalCluster) -> None:
    """What is stored of its workflow cannot be read here: its pages and `runs show` say so, and nothing breaks."""
    run = numbers.submit(3)
    run.result()
    ledger = session.current().ledger
    ledger.redis.hset(ledger.keys.run(run.id), "spec", b"\xc1")
    told = "another release of egregore-dist has submitted it"

    shown.page(f"/runs/{run.id}")
    [block] = [block.id for block in ledger.blocks(run.id) if block.parent is not None]
    for page in ("", "/branches/0", "/branches/0/input"):
        assert told in shown.page(f"/runs/{run.id}/blocks/{block}{page}", 422)
    answer = CliRunner(env={"EGREGORE_BROKER_URL": local.url}).invoke(main, ["runs", "show", run.id])
    assert told in answer.output
    assert answer.exit_code == codes.USAGE


def test_a_timeout_names_the_block(shown: Monitor, tmp_path: Path) -> None:
    """By its own name, and not by its place in the run."""
    run = parallel(gated_at, timeout=0.2, name="patience").submit(str(tmp_path / "gate"))
    ended(run, "failed")

    assert re.search(r"Block <strong>patience</strong>\s+did not end within its timeout", shown.page(f"/runs/{run.id}"))

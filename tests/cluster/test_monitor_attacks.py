"""The pages of a real cluster, over data that mean no good."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from egregore_dist import Limit, LocalCluster, Run, node
from egregore_dist.monitor.guard import HEADERS
from tests.cluster.test_monitor import TOKEN, Monitor, monitor
from tests.support.clusters import Clusters
from tests.support.waiting import until

BIDI = "\u202e\u2066\u200b\ufeff"
EVIL = f"</pre></script><script>alert(1)</script>\"' onload=x <img src=x onerror=a()>{BIDI}\r\nSet-Cookie: a=b\x1b\x9b"


@pytest.fixture(scope="module")
def guarded(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """A monitor that asks for its token."""
    with (
        clusters.use("valkey") as cluster,
        monitor(cluster, tmp_path_factory.mktemp("guarded"), "--role", "admin", EGREGORE_MONITOR_TOKEN=TOKEN) as made,
    ):
        yield made


class Tags(HTMLParser):
    """The scripts, the images, and the attributes that would run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("img", "iframe", "object") or (
            tag == "script" and not (given.get("src") or "").startswith("/static/")
        ):
            self.found.append(tag)
        self.found += [name for name in given if name.startswith("on") or name == "style"]
        self.found += [name for name, value in attrs if (value or "").strip().lower().startswith("javascript:")]


def test_s10_hostile_data_are_text(guarded: Monitor, local: LocalCluster) -> None:
    """Keys of a map, errors, their notes, lines, values of a limit's key: none is HTML, a header, or turned around."""

    @node(limit=Limit(concurrent=5, name="hostile", key="key"))
    def hostile(data: dict[str, str]) -> str:
        print(data["key"])
        error = type("Evil<script>", (Exception,), {})(data["key"])
        error.add_note(data["key"])
        raise error

    run: Run = hostile.map(name="flow").submit({EVIL: {"key": EVIL}}, id="hostile")
    until(lambda: run.status == "failed", what="the end")
    block = "0.0-"
    found = guarded.http.get(
        f"/runs/{run.id}/blocks", headers={"authorization": f"Bearer {TOKEN}"}, follow_redirects=True
    )
    block = str(found.url).rpartition("/blocks/")[2].partition("?")[0] or block
    branch = f"/runs/{run.id}/blocks/{block}/branches/0"
    paths = [
        "/",
        "/?text=%3Cscript%3E",
        f"/runs/{run.id}",
        f"/runs/{run.id}/logs",
        f"/runs/{run.id}/logs?node=%3Cscript%3E",
    ]
    paths += [
        f"/runs/{run.id}/blocks/{block}",
        branch,
        f"{branch}/input",
        "/nodes",
        "/limits",
        "/limits/hostile",
        "/workers",
    ]

    for path in paths:
        answer = guarded.http.get(path, headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200, path
        assert Tags(answer.text).found == [], path
        assert not [letter for letter in BIDI + "\x1b\x9b" if letter in answer.text], path
        assert "set-cookie" not in answer.headers
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"

"""Nothing that comes from elsewhere is ever HTML."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import pytest

from egregore_dist.cli import limits, redact
from egregore_dist.client.logs import LogLine
from egregore_dist.client.timeline import Attempt
from egregore_dist.client.why import Reason
from egregore_dist.ledger import RunRecord
from egregore_dist.ledger.browse import Blocks, Branch
from egregore_dist.ledger.lanes import AtBlock
from egregore_dist.ledger.limits import OTHERS, Bucket, Known
from egregore_dist.ledger.records import Aside
from egregore_dist.ledger.runlist import Glance, Page
from egregore_dist.monitor import logs, words
from egregore_dist.monitor.failures import Why
from egregore_dist.monitor.lists import STATES, Filters
from egregore_dist.monitor.nodes import Order, Point, Row
from egregore_dist.monitor.progress import Progress
from egregore_dist.monitor.sessions import Session
from egregore_dist.monitor.users import Role, User
from egregore_dist.monitor.values import Shown
from egregore_dist.resources.profile import Profile
from egregore_dist.wire.failure import Failure
from egregore_dist.workflow.limits import Rule
from tests.unit.monitor.test_standing import block

PACKAGE = Path(words.__file__).parent
TEMPLATES = sorted((PACKAGE / "templates").glob("*.html"))
EVIL = "</pre><script>alert(1)</script>\"' onmouseover='x' javascript:x {{ 7*7 }} \x1b[31m redis://u:hunter22@h"
# An id or an address is repeated as it is, or it would be another one.
ID = EVIL.replace("\x1b[31m redis://u:hunter22@h", "")

RECORD = RunRecord(id=ID, state=EVIL, workflow=ID, created=1.0, started=2.0, ended=None)
BLOCK = replace(block((0,), "open", id=ID), name=EVIL, state=EVIL, timeout=3.0, limit=2, failed=1)
BRANCH = Branch(position=3, state=EVIL, holder=f"{EVIL}/1/2", attempt=2, result=10, failure=3, at=ID)
WHY = Why(
    block=ID,
    branch=3,
    state=EVIL,
    failure=Failure(type=EVIL, message=EVIL, traceback=EVIL, node=EVIL, attempt=2),
)

LINE = LogLine(
    cursor="1-1",
    time=1.0,
    worker=EVIL,
    block=ID,
    block_name=EVIL,
    branch=3,
    branch_name=EVIL,
    attempt=2,
    node=EVIL,
    source=EVIL,
    level=EVIL,
    text=EVIL,
    dropped=3,
)
LINES = logs.Lines(shown=(LINE,), looked=1, said=9, kept=1, older="1-1", cursor="1-1")

WAITS = [
    (Reason(kind="paused", text=EVIL), 0),
    (Reason(kind="slots", block="0", name=EVIL, text=EVIL), 0),
    (Reason(kind="limit", block=ID, name=EVIL, text=EVIL), 3),
    (Reason(kind="block", block=ID, name=EVIL, branch=3, text=EVIL, names=(ID,)), 0),
]


class _View:
    record, now, why, culprit, partial, cursor = RECORD, 5.0, WHY, EVIL, (1, 2), "0"
    blocks = Blocks(shown=(BLOCK,), counts={}, open={})
    waits = WAITS
    progress = Progress(n=3, done=1, failed=1, block=EVIL, left=1.0)
    tree, gantt, shown, total, branch = None, None, [BLOCK], 5, {ID: EVIL}


class _Paging:
    before, after, first, last = "?page=0", "?page=2", 1, 2


class _Report:
    worker, pool, version = ID, EVIL, EVIL
    queues = modules = (EVIL, "*")
    labels = gpus = nodes = lanes = (EVIL,)
    slots, prefetch, concurrency_by, concurrency_why, prefetch_why = 2, 2, EVIL, EVIL, EVIL
    holds: ClassVar[dict[str, str]] = {EVIL: EVIL}


class _Worker:
    report, reported, age = _Report(), 1.0, 2.0


AT_BLOCK = AtBlock(run=ID, workflow=EVIL, block=ID, name=EVIL, branch=3, attempt=2, node=EVIL, held=2, since=1.0)


class _Machine:
    host = name = group = EVIL
    cores, memory_used, memory_available, memory_total, workers = 2.0, 0.5, 10, 20, (_Worker(),)
    memory_reserved, memory_line = 5, 14
    reasons = (("Concurrency", EVIL, ()),)


POINTS = (
    Point(run=ID, at=1.0, ok=2, failed=1, lost=1, mean=1.0, slowest=2.0),
    Point(run=ID, at=2.0, ok=2, failed=0, lost=0, mean=2.0, slowest=3.0),
)
ROW = Row(function=EVIL, names=(EVIL,) * 6, profile=Profile(count=3.0), points=POINTS)
LIMIT = Known(
    name=ID,
    rule=Rule(concurrent=2, starts=20, seconds=1),
    declared=Rule(concurrent=1),
    is_set=True,
    key=EVIL,
    buckets=tuple(
        Bucket(limit=ID, value=value, rule=Rule(concurrent=2), held=1, waiting=2, starts_in=0.5)
        for value in (EVIL, "secret-value", OTHERS)
    ),
    more=1,
)

RUN_SAYS = dict.fromkeys(("can_cancel", "can_pause", "can_resume", "can_retry", "can_delete"), True)
ATTEMPT = Attempt(1.0, None, EVIL, EVIL)
PAGES: dict[str, dict[str, Any]] = {
    "refused.html": {"status": 404, "title": "Not found", "text": EVIL},
    "runs.html": {
        "filters": Filters(state="failed", workflow=ID, text=ID, since=ID),
        "states": STATES,
        "page": Page(runs=(Glance(record=RECORD, block=EVIL, n=3, done=1, failed=1),), next=None, looked=9),
        "known": 9,
        "now": 9.0,
        "older": f"/?{ID}",
        "newest": f"/?{ID}",
        "done": EVIL,
        "changed": 1,
        "chosen": 2,
        "has_workers": True,
    },
    "run.html": {"view": _View(), "record": RECORD, **RUN_SAYS},
    "blocks.html": {
        "record": RECORD,
        "now": 9.0,
        "blocks": [BLOCK],
        "branch": {ID: EVIL},
        "total": 3,
        "pages": _Paging(),
    },
    "block.html": {
        "record": RECORD,
        "block": BLOCK,
        "now": 9.0,
        "rows": [(BRANCH, EVIL, 1.0, ATTEMPT)],
        "partial": (1, 2),
        "total": 3,
        "only_failed": False,
        "pages": _Paging(),
    },
    "branch.html": {
        "record": RECORD,
        "block": BLOCK,
        "row": BRANCH,
        "name": EVIL,
        "attempts": [ATTEMPT],
        "partial": True,
        "why": WHY,
        "lines": LINES,
        "logs_address": f"/runs/x/logs?{ID}",
        "now": 9.0,
    },
    "logs.html": {
        "record": RECORD,
        "filters": logs.Filters(block=ID, branch=ID, node=ID, level="INFO", before="1-1"),
        "levels": ("INFO",),
        "lines": LINES,
        "older": f"/runs/x/logs?{ID}",
        "newest": f"/runs/x/logs?{ID}",
    },
    "value.html": {
        "record": RECORD,
        "block": BLOCK,
        "position": 3,
        "name": EVIL,
        "what": "result",
        "shown": Shown(text=words.clean(EVIL, 10_000), size=3, note=EVIL),
    },
    "workers.html": {"machines": [_Machine()], "lanes": {ID: [AT_BLOCK, replace(AT_BLOCK, branch=None)]}, "most": 1},
    "nodes.html": {"rows": Order().sort([ROW]), "looked": 2, "order": Order()},
    "limits.html": {"limits": [LIMIT], "done": EVIL},
    "limit.html": {"limit": LIMIT, "said": limits.said, "others": OTHERS},
    "aside.html": {"messages": [Aside(reason=EVIL, worker=EVIL, queue=EVIL, excerpt=EVIL)], "most": 1},
}


class _Reader(HTMLParser):
    """Notes the elements of a page, and what is wrong with them."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "script" and not (said.get("src") or "").startswith("/static/monitor.js?v="):
            self.wrong.append(f"a script: {attrs}")
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.wrong.append(f"{name} of {tag}")
            if name in ("href", "action", "src") and not re.match(r"[/?#]", value or ""):
                self.wrong.append(f"{name} of {tag}: {value}")

    def handle_data(self, data: str) -> None:
        self.text += data


def page(name: str, role: Role = Role.ADMIN, **instead: Any) -> str:
    """A page of what is evil, or of what is given instead of it."""
    session = Session(User(EVIL, role, b"key"), "id")
    return (
        words.templates()
        .get_template(name)
        .render(
            session=session,
            path="/",
            stream="/events",
            logs_in=True,
            asks_for_name=True,
            may_operate=role >= Role.OPERATOR,
            may_administrate=role >= Role.ADMIN,
            **PAGES[name] | instead,
        )
    )


def test_every_page_is_tested() -> None:
    """There is no template that these tests do not know."""
    assert {path.name for path in TEMPLATES} == {*PAGES, "base.html", "macros.html"}


@pytest.mark.parametrize("name", PAGES)
def test_s10_names_errors_and_values_are_text(name: str) -> None:
    """Script in every name, error and value stays text, no secret is told, and control characters are shown."""
    html = page(name)

    reader = _Reader()
    reader.feed(html)
    assert reader.wrong == []
    assert "hunter22" not in html
    assert "\x1b" not in html
    assert "<script>alert(1)</script>" in reader.text or name == "refused.html"


@pytest.mark.parametrize(
    ("name", "asked", "exact"),
    [
        ("limit.html", {"limit": replace(LIMIT, name="shops")}, 'name="name" value="shops"'),
        ("run.html", {"record": replace(RECORD, workflow="shop-nightly")}, 'href="/?workflow=shop-nightly"'),
        ("runs.html", {"filters": Filters(workflow="shop", text="shops")}, 'name="workflow" value="shop"'),
        ("runs.html", {"filters": Filters(workflow="shop", text="shops")}, 'value="shops"'),
        ("logs.html", {"filters": logs.Filters(node="shop")}, 'name="node" value="shop"'),
    ],
)
def test_a_password_that_is_part_of_a_name_breaks_no_form_and_no_link(
    name: str, asked: dict[str, Any], exact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a form sends back, and what a link leads to, is what it was."""
    monkeypatch.setattr(redact, "_known", set())
    redact.remember("redis://:shop@host:6379/0")

    html = page(name, **asked)

    assert exact in html


def test_s12_a_viewer_is_not_told_the_values_of_a_key() -> None:
    """They are pieces of inputs; and who may not change a limit gets no form to do so."""
    assert ">secret-value<" in page("limit.html", Role.OPERATOR)
    viewed = page("limit.html", Role.VIEWER)
    assert "secret-value" not in viewed
    assert 'action="/limits' not in viewed + page("limits.html", Role.VIEWER)


@pytest.mark.parametrize("name", ["run.html", "branch.html"])
def test_s12_a_viewer_is_not_told_what_an_error_said(name: str) -> None:
    """The class of an error is for everybody; its text and traceback may hold data, and are not."""
    assert 'class="said"' in page(name, Role.OPERATOR)
    viewed = page(name, Role.VIEWER)
    assert 'class="said"' not in viewed
    assert "Traceback" not in viewed
    assert "/input" not in viewed


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_have_no_code_of_their_own(path: Path) -> None:
    """No template holds inline script or style, or turns escaping off."""
    text = path.read_text()

    assert not re.search(r"\son\w+=|style=|<style|javascript:|\|\s*safe|autoescape|https?:", text)
    assert len(re.findall(r"<script", text)) == (path.name == "base.html")


def test_only_our_own_text_is_markup() -> None:
    """Markup is made of constants alone, so that nothing from elsewhere can become it."""
    for path in PACKAGE.glob("*.py"):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == "Markup":
                assert all(isinstance(argument, ast.Constant) for argument in found.args), path.name


def test_the_script_makes_no_html_of_text() -> None:
    """Our own script neither evaluates nor writes HTML; a page it fetched is parsed without running anything."""
    text = (PACKAGE / "static" / "monitor.js").read_text()

    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)

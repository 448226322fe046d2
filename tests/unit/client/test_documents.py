"""The report of a run as a dict, as Markdown and as a page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from egregore_dist.client.documents import ROWS_SHOWN
from egregore_dist.client.runreport import Link
from tests.unit.client.stories import STORY, event, timeline
from tests.unit.client.test_accounting import BLOCK, RECORD, report

EVIL = "</td></style><script>alert(1)</script>|`\"' onload=x [a](javascript:b) \x1b[31m\n# head"
EVIL_STORY = [
    *STORY[:3],
    event(102.0, "block.opened", "0.0-1", name=EVIL, n=1),
    event(103.0, "branches.started", "0.0-1", branches=(0,), worker=EVIL),
]


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def evil() -> tuple[str, str]:
    """The page and the Markdown of a report in which every name is hostile."""
    found = report(timeline(*EVIL_STORY), replace(BLOCK, name=EVIL), record=replace(RECORD, id=EVIL, workflow=EVIL))
    found = replace(found, critical_path=tuple(replace(link, branch=EVIL) for link in found.critical_path))
    return found.html(), found.markdown()


def test_the_dict_is_json() -> None:
    """All but the picture is there: instants in ISO 8601, durations in seconds."""
    said = json.loads(json.dumps(report(timeline(*STORY), BLOCK).as_dict()))

    assert said["created"] == "1970-01-01T00:01:40.000+00:00"
    assert said["totals"]["branches"] == 3
    assert said["blocks"][0]["path"] == [1]
    assert said["nodes"][0]["executions"]["durations"]["max"] == 5.0
    assert said["retries"] == {"count": 0, "kept": 0, "saved": 0.0}
    assert "timeline" not in said


def test_the_markdown() -> None:
    """The facts are a list, and blocks, nodes, workers and the critical path are tables."""
    found = str(report(timeline(*STORY), BLOCK))

    assert found.startswith("# Run r\n\n- Workflow: flow\n- State: failed\n")
    assert "- Branches: 3 in 1 block: 1 ok, 1 failed, 1 stopped\n- Success rate: 33.3%\n" in found
    assert re.findall("^## (.*)$", found, re.MULTILINE) == ["Blocks", "Nodes", "Workers", "What the end waited for"]
    assert "| fetch | 1 | 3 | 1 | 3 | 1 | 1 | 1.0 s | 3.0 s | 5.0 s | 5.0 s |" in found
    assert "| fetch | 0.0-1/0 | w1 | 1.0 s | 5.0 s |" in found


def test_every_row_has_every_cell() -> None:
    """Names with bars, newlines and marks do not break a table or become more than text."""
    rows = [line for line in evil()[1].splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]

    assert set(cells) <= {11, 12, 14, 6}
    assert not re.search(r"(?<!\\)[<`]", evil()[1])
    assert "\x1b" not in evil()[1]
    assert "\n# head" not in evil()[1]


@pytest.mark.parametrize(("name", "shown"), [("fetch_page", "fetch_page"), ("_x", r"\_x"), ("a*b", r"a\*b")])
def test_names_stay_readable(name: str, shown: str) -> None:
    """An underscore within a name is one in Markdown, and stays as it is."""
    assert f"# Run {shown}\n" in report(timeline(*STORY), BLOCK, record=replace(RECORD, id=name)).markdown()


def test_the_page_has_everything() -> None:
    """The page has the facts, the timeline and the tables, and its parts are closed."""
    page = report(timeline(*STORY), BLOCK).html()
    body = page[page.index("<body>") : page.index("</html>")]

    shown = Page(page)
    assert ET.fromstring(body).tag == "body"
    assert shown.tags.count("svg") == 1
    assert shown.tags.count("table") == 4
    assert "33.3%" in shown.text
    assert "0.0-1/1: lost on w1, 1.0 s" in shown.text


def test_the_page_needs_nothing_else() -> None:
    """It loads nothing, and its own policy would let nothing be loaded or run."""
    page = Page(report(timeline(*STORY), BLOCK).html())

    assert {"script", "link", "img", "iframe", "object", "form", "a"}.isdisjoint(page.tags)
    assert {"src", "href", "style"}.isdisjoint(name for name, _ in page.attributes)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_names_are_text_on_the_page() -> None:
    """Whatever runs, blocks, branches and workers are called, it is shown as it is."""
    page = Page(evil()[0])

    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "\x1b" not in evil()[0]


def test_a_long_table_is_cut() -> None:
    """Of very many rows the number of the others is told."""
    link = Link(block="0.0-1", name="fetch", branch="x", worker=None, waited=0.0, ran=1.0)
    found = replace(report(timeline(*STORY), BLOCK), critical_path=(link,) * (ROWS_SHOWN + 5))

    assert "| … and 5 more |  |  |  |  |" in found.markdown()
    assert Page(found.html()).tags.count("tr") < ROWS_SHOWN + 30


def test_a_partial_report_says_so() -> None:
    """Who reads a report in which events are missing is told."""
    found = report(timeline(*STORY[2:]), BLOCK)

    assert "does not have all events" in found.markdown()
    assert "does not have all events" in found.html()

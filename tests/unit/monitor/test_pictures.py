"""The pictures: what is in them, how much, and that nothing in them is HTML but what is ours."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from egregore_dist.client import gantt
from egregore_dist.monitor import svg, tree, words
from egregore_dist.workflow import spec
from tests.unit.client.stories import STORY, event, timeline
from tests.unit.monitor.test_escaping import PAGES, page
from tests.unit.monitor.test_standing import block, choice, each, facts, n, par, seq

EVIL = "<script>alert(1)</script>\"' onload=x &amp; \x1b[31m redis://u:hunter22@h"
SVG = "{http://www.w3.org/2000/svg}"


def elements(picture: str) -> list[ET.Element]:
    """The elements of a picture, which has to be well-formed."""
    return list(ET.fromstring(str(picture)).iter())


def drawn(root: spec.StepSpec, known: object = None, name: str = "flow") -> str:
    found = known if known is not None else facts("pending")
    return tree.draw(spec.WorkflowSpec(name=name, root=root), found, lambda path: f"/at/{path}")  # type: ignore[arg-type]


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in elements(picture) if element.tag == f"{SVG}text"]


def assert_harmless(picture: str) -> None:
    """Every element is one of ours, no attribute is code, and no secret is told."""
    ours = {f"{SVG}{name}" for name in ("svg", "g", "a", "title", "rect", "text", "line", "path")}
    for element in elements(picture):
        assert element.tag in ours
        assert not [name for name in element.attrib if name.startswith("on") or name == "style"]
    assert "hunter22" not in picture
    assert "\x1b" not in picture


def test_every_kind_of_step_is_drawn() -> None:
    """Nodes, sequences, parallels, maps and decisions are there by name, a block with how far it is."""
    root = seq(n("load"), par(n("left"), seq(n("right"), each(n("item")))), choice(n("small"), n("big")), n("save"))

    picture = drawn(root, facts("running", block((1,), "open"), branches=["ok", "running"]))

    shown = texts(picture)
    for name in ("load", "parallel", "left", "right", "item", "route?", "small", "big", "save", "0/2"):
        assert name in shown
    assert [element.attrib["href"] for element in elements(picture) if element.tag == f"{SVG}a"] == ["/at/(1,)"]


def test_colours_have_words_beside_them() -> None:
    """How a step stands is said by a sign and in words, not by its colour alone."""
    picture = drawn(par(n("a"), n("b")), facts("failed", block((), "error"), branches=["ok", "error"]))

    titles = [element.text for element in elements(picture) if element.tag == f"{SVG}title"]
    assert "a: done" in titles
    assert "b: failed" in titles
    assert {"✓", "✕"} <= set(texts(picture))


def test_a_wide_parallel_is_summed_up() -> None:
    """Of ten thousand branches some are drawn, and the others are a number."""
    picture = drawn(par(*(n(f"n{number}") for number in range(10_000))))

    assert "… 9988 more branches" in texts(picture)
    assert len(picture) < 20_000


def test_a_huge_workflow_is_bounded() -> None:
    """A workflow of a million steps in all gives a picture that a browser can show."""
    inner: spec.StepSpec = n("leaf")
    for _ in range(6):
        inner = par(*[inner] * 10)

    picture = drawn(inner)

    assert len(picture) < 500_000
    assert_harmless(picture)
    assert len(drawn(seq(*[n("step")] * 5000))) < 200_000


def test_names_are_text_in_the_workflow() -> None:
    """Whatever a workflow's names are, they are shown as they are."""
    evil = spec.NodeSpec(name=EVIL, function=0)
    decision = spec.DecisionSpec(name=EVIL, node=evil, keys=(EVIL,), steps=(evil,))
    root = spec.ParallelSpec(name=EVIL, branches=(evil, seq(evil, each(evil)), decision), keys=(EVIL, EVIL, EVIL))

    assert_harmless(drawn(root, name=EVIL))


def test_names_are_text_in_the_timeline() -> None:
    """Whatever names and workers are called, they are shown as they are."""
    story = [*STORY[:3], event(102.0, "block.opened", "0.0-1", name=EVIL, n=1)]
    story.append(event(103.0, "branches.started", "0.0-1", branches=(0,), worker=EVIL))

    picture = gantt.draw(timeline(*story), EVIL, 110.0, lambda block, position: EVIL, words.clean)

    assert picture is not None
    assert_harmless(picture)


def test_attributes_are_escaped() -> None:
    """A value cannot leave its attribute."""
    made = svg.tag("a", "text", href='"><script>')

    assert made == '<a href="&quot;&gt;&lt;script&gt;">text</a>'


def test_the_page_of_a_run_says_what_the_star_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the picture of the timeline, with what the end waited for, and the sign in its legend."""
    picture = gantt.draw(timeline(*STORY), "flow", 110.0, lambda block, position: f"branch{position}")
    monkeypatch.setattr(PAGES["run.html"]["view"], "gantt", picture)

    html = page("run.html")

    assert picture is not None
    assert picture in html
    assert " ★</text>" in picture
    assert "<span>★ the end waited for it</span>" in html

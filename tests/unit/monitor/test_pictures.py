"""The pictures: what is in them, how much, and that nothing in them is HTML but what is ours."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from markupsafe import Markup

from egregore_dist.client.events import Event
from egregore_dist.monitor import gantt, svg, tree
from egregore_dist.monitor.timeline import Timeline
from egregore_dist.workflow import spec
from tests.unit.monitor.test_standing import block, choice, each, facts, n, par, seq

EVIL = "<script>alert(1)</script>\"' onload=x &amp; \x1b[31m redis://u:hunter22@h"
SVG = "{http://www.w3.org/2000/svg}"


def elements(picture: Markup) -> list[ET.Element]:
    """The elements of a picture, which has to be well-formed."""
    return list(ET.fromstring(str(picture)).iter())


def drawn(root: spec.StepSpec, known: object = None, name: str = "flow") -> Markup:
    found = known if known is not None else facts("pending")
    return tree.draw(spec.WorkflowSpec(name=name, root=root), found, lambda path: f"/at/{path}")  # type: ignore[arg-type]


def texts(picture: Markup) -> list[str]:
    return [element.text or "" for element in elements(picture) if element.tag == f"{SVG}text"]


def assert_harmless(picture: Markup) -> None:
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


# The timeline


def event(at: float, type: str, block: str | None = None, **more: object) -> Event:
    """An event, with what it says of branches and the rest."""
    fields = {"branches": (), "failed": (), "worker": None} | {
        name: more.pop(name) for name in ("branches", "failed", "worker") if name in more
    }
    detail = {name: str(value) for name, value in more.items()}
    return Event(cursor=f"{int(at * 1000)}-0", time=at, type=type, block=block, detail=detail, **fields)  # type: ignore[arg-type]


def timeline(*events: Event) -> Timeline:
    made = Timeline()
    for one in events:
        made.add(one)
    return made


STORY = (
    event(100.0, "run.submitted"),
    event(101.0, "run.started"),
    event(101.0, "branches.started", "0", branches=(0,), worker="w1"),
    event(102.0, "block.opened", "0.0-1", name="fetch", n=3),
    event(103.0, "branches.started", "0.0-1", branches=(0, 1), worker="w1"),
    event(104.0, "branch.lost", "0.0-1", branches=(1,)),
    event(106.0, "branches.started", "0.0-1", branches=(1,), worker="w2"),
    event(107.0, "branches.ended", "0.0-1", branches=(1,), worker="w2"),
    event(108.0, "branches.ended", "0.0-1", failed=(0,), worker="w1"),
    event(108.0, "block.ended", "0.0-1", state="error"),
    event(108.0, "run.ended", state="failed"),
)


def test_attempts_are_told_from_events() -> None:
    """Each lease is an attempt: when it began, when and how it ended, and where."""
    found = timeline(*STORY).attempts

    assert [(a.start, a.end, a.how, a.worker) for a in found["0.0-1", 0]] == [(103.0, 108.0, "error", "w1")]
    assert [(a.start, a.end, a.how, a.worker) for a in found["0.0-1", 1]] == [
        (103.0, 104.0, "lost", "w1"),
        (106.0, 107.0, "ok", "w2"),
    ]
    assert ("0.0-1", 2) not in found


def test_what_ran_when_its_block_ended_ended_with_it() -> None:
    """A branch without an end of its own ends with its block, and as that did."""
    found = timeline(*STORY[:5], event(110.0, "block.ended", "0.0-1", state="timeout")).attempts

    assert [(a.end, a.how) for a in found["0.0-1", 0]] == [(110.0, "timeout")]


def test_a_branch_that_was_given_back_did_not_run() -> None:
    """Leased again without an end in between: the lane had not begun it."""
    found = timeline(*STORY[:5], event(105.0, "branches.started", "0.0-1", branches=(0,), worker="w2")).attempts

    assert [(a.start, a.worker) for a in found["0.0-1", 0]] == [(105.0, "w2")]


def test_a_stream_without_its_beginning_says_so() -> None:
    """What is missing is told, not guessed."""
    assert timeline(*STORY[2:]).partial
    assert not timeline(*STORY).partial


def test_what_is_remembered_of_a_run_is_bounded() -> None:
    """A run of a million branches does not fill the monitor's memory."""
    made = timeline(*STORY[:4])
    for start in range(0, 100_000, 1000):
        made.add(event(103.0, "branches.started", "0.0-1", branches=tuple(range(start, start + 1000)), worker="w"))

    assert len(made.attempts) < 25_000
    assert made.partial


def test_the_critical_path() -> None:
    """The end waited for the branch that ended last, and for the block inside that branch."""
    made = timeline(
        *STORY[:5],
        event(104.0, "block.opened", "0.0-1.0-0", name="inner", n=1),
        event(105.0, "branches.started", "0.0-1.0-0", branches=(0,), worker="w"),
        event(106.0, "branches.ended", "0.0-1", branches=(1,), worker="w"),
        event(107.0, "branches.ended", "0.0-1.0-0", branches=(0,), worker="w"),
        event(108.0, "branches.ended", "0.0-1", branches=(0,), worker="w"),
    )

    assert made.critical(110.0) == {"0.0-1", ("0.0-1", 0), "0.0-1.0-0", ("0.0-1.0-0", 0)}


def test_the_timeline_is_drawn() -> None:
    """A row for the run, one for the block, and for its branches, with what they waited and ran."""
    picture = gantt.draw(timeline(*STORY), "flow", 200.0, lambda block, position: f"branch{position}")

    assert picture is not None
    titles = [element.text or "" for element in elements(picture)]
    for title in (
        "branch1: waited to be tried again, 2.0 s",
        "branch1: lost on w1, 1.0 s",
        "branch0: error on w1, 5.0 s",
    ):
        assert title in titles
    assert {"flow", "fetch", "branch0", "branch1"} <= set(texts(picture))


def test_a_timeline_of_nothing() -> None:
    """Before anything has happened there is no picture."""
    assert gantt.draw(Timeline(), "flow", 1.0, lambda block, position: "") is None


def test_a_timeline_of_very_much_is_bounded() -> None:
    """Of many blocks and branches those are drawn that took longest, and the number of the others is told."""
    events = [*STORY[:2]]
    for number in range(100):
        id = f"0.0-{number}"
        events.append(event(102.0, "block.opened", id, name="fetch", n=200))
        events.append(event(103.0, "branches.started", id, branches=tuple(range(200)), worker="w"))
        events.append(event(104.0 + number, "branches.ended", id, branches=tuple(range(200)), worker="w"))

    picture = gantt.draw(timeline(*events), "flow", 300.0, lambda block, position: f"#{position}")

    assert picture is not None
    assert "… and 188 others" in texts(picture)
    assert len(picture) < 200_000


def test_names_are_text_in_the_timeline() -> None:
    """Whatever names and workers are called, they are shown as they are."""
    story = [*STORY[:3], event(102.0, "block.opened", "0.0-1", name=EVIL, n=1)]
    story.append(event(103.0, "branches.started", "0.0-1", branches=(0,), worker=EVIL))

    picture = gantt.draw(timeline(*story), EVIL, 110.0, lambda block, position: EVIL)

    assert picture is not None
    assert_harmless(picture)


def test_attributes_are_escaped() -> None:
    """A value cannot leave its attribute."""
    made = svg.tag("a", "text", href='"><script>')

    assert made == '<a href="&#34;&gt;&lt;script&gt;">text</a>'

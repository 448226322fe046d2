"""The picture of a timeline: what is in it, and how much."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from importlib import resources

import pytest

from egregore_dist.client import gantt
from egregore_dist.client.timeline import Timeline
from tests.unit.client.stories import STORY, event, timeline
from tests.unit.client.test_accounting import ENDED, OPENED, WENT_ON

SVG = "{http://www.w3.org/2000/svg}"


def elements(picture: str) -> list[ET.Element]:
    """The elements of a picture, which has to be well-formed."""
    return list(ET.fromstring(picture).iter())


def texts(picture: str) -> list[str]:
    """What it says."""
    return [element.text or "" for element in elements(picture) if element.tag == f"{SVG}text"]


def test_the_timeline_is_drawn() -> None:
    """A row for the run, one for the block, and for its branches, with what they waited and ran."""
    picture = gantt.draw(timeline(*STORY), "flow", 200.0, lambda block, position: f"branch{position}")

    assert picture is not None
    titles = [element.text or "" for element in elements(picture)]
    for title in (
        "branch1: waited to be tried again, 2.0 s",
        "branch1: lost on w1, 1.0 s",
        "branch0: error on w1, 5.0 s",
        "flow: failed, 7.0 s",
    ):
        assert title in titles
    assert {"flow", "fetch", "branch0", "branch1"} <= set(texts(picture))


@pytest.mark.parametrize(
    ("state", "kind"), [(None, "running"), ("succeeded", "ok"), ("failed", "error"), ("cancelled", "error")]
)
def test_a_run_is_drawn_as_it_ended(state: str | None, kind: str) -> None:
    """Its own bar too says whether it ended well."""
    made = timeline(*STORY[:2], *([] if state is None else [event(104.0, "run.ended", state=state)]))
    picture = gantt.draw(made, "flow", 104.0, lambda block, position: "")

    assert picture is not None
    bars = [found.attrib["class"] for found in elements(picture) if found.attrib.get("class", "").startswith("bar ")]
    assert bars == ["bar bar-wait", f"bar bar-{kind}"]


@pytest.mark.parametrize(
    ("seconds", "marks"),
    [
        (0.3, ["0", "100 ms", "200 ms", "300 ms"]),
        (1.2, ["0", "500 ms", "1 s"]),
        (12, ["0", "5 s", "10 s"]),
        (70, ["0", "15 s", "30 s", "45 s", "1 min"]),
        (90, ["0", "30 s", "1 min", "1 min 30 s"]),
        (500, ["0", "2 min", "4 min", "6 min", "8 min"]),
        (3600, ["0", "15 min", "30 min", "45 min", "1 h"]),
        (7200, ["0", "30 min", "1 h", "1 h 30 min", "2 h"]),
        (40_000, ["0", "3 h", "6 h", "9 h"]),
        (86_400, ["0", "6 h", "12 h", "18 h", "1 d"]),
        (200_000, ["0", "12 h", "1 d", "1 d 12 h", "2 d"]),
        (900_000, ["0", "5 d", "10 d"]),
    ],
)
def test_the_axis_is_marked_at_round_times(seconds: float, marks: list[str]) -> None:
    """Its marks are where people divide time, and are called exactly what they are."""
    picture = gantt.draw(timeline(*STORY[:2]), "flow", 100.0 + seconds, lambda block, position: "")

    assert picture is not None
    ticks = [found for found in elements(picture) if found.attrib.get("class") == "tick"]
    assert [found.text for found in ticks] == marks
    places = [float(found.attrib["x"]) for found in ticks]
    apart = [after - before for before, after in itertools.pairwise(places)]
    assert max(apart) - min(apart) < 0.2


def test_bars_are_told_apart_by_their_shape() -> None:
    """Without their colours: what was waited for is thin, and what ended badly has a mark at its end."""
    picture = gantt.draw(timeline(*STORY), "flow", 200.0, lambda block, position: f"branch{position}")

    assert picture is not None
    shapes: dict[str, set[tuple[float, bool]]] = {}
    for row in (found for found in elements(picture) if found.attrib.get("class", "").startswith("row row-branch")):
        parts = [*list(row), ET.Element("end")]
        for part, after in itertools.pairwise(parts):
            if part.attrib.get("class", "").startswith("bar "):
                shape = float(part.attrib["height"]), after.attrib.get("class") == "end"
                shapes.setdefault(part.attrib["class"].removeprefix("bar bar-"), set()).add(shape)
    assert shapes == {
        "wait": {(4.0, False)},
        "retry": {(4.0, False)},
        "ok": {(12.0, False)},
        "error": {(12.0, True)},
        "lost": {(12.0, True)},
    }


def test_branches_that_met_blocks_have_bars_for_their_parts() -> None:
    """The run's own branch too: what it did before and behind its blocks, and that it waited for these meanwhile."""
    made = timeline(*OPENED, *WENT_ON, ENDED)
    picture = gantt.draw(made, "flow", 119.0, lambda block, position: f"{block}/{position}")

    assert picture is not None
    rows = [found for found in elements(picture) if found.attrib.get("class", "").startswith("row row-branch")]
    titles = [[title.text for title in row.iter(f"{SVG}title")] for row in rows]
    assert titles[0] == [
        "flow",
        "flow: ok on w1, 1.0 s",
        "flow: waited for outer, 14.0 s",
        "flow: ok on w4, 4.0 s",
    ]
    assert "critical" in rows[0].attrib["class"]
    assert titles[1] == [
        "0.0-1/0",
        "0.0-1/0: waited for a slot, 1.0 s",
        "0.0-1/0: ok on w2, 2.0 s",
        "0.0-1/0: waited for inner, 6.0 s",
        "0.0-1/0: ok on w3, 3.0 s",
    ]


def test_a_branch_that_ended_while_it_was_parked_has_a_mark() -> None:
    """Its row tells how it ended, though it was at nothing then."""
    failed = event(106.0, "branches.ended", "0.0-1", failed=(0,))
    picture = gantt.draw(timeline(*OPENED[:9], failed), "flow", 106.0, lambda block, position: f"{block}/{position}")

    assert picture is not None
    rows = [found for found in elements(picture) if found.attrib.get("class", "").startswith("row row-branch")]
    (row,) = [found for found in rows if found[0].text == "0.0-1/0"]
    assert [found.attrib["class"] for found in row if found.tag != f"{SVG}title"][1:-1] == [
        "bar bar-wait",
        "bar bar-ok",
        "bar bar-wait",
        "bar bar-error",
        "end",
    ]


def test_a_part_of_which_no_event_tells_yet() -> None:
    """Behind its block a branch may go on, or wait for a slot, and its bar says that; what is short has no row."""
    picture = gantt.draw(timeline(*OPENED), "flow", 119.0, lambda block, position: f"{block}/{position}")
    short = [*OPENED[:3], event(100.001, "block.opened", "0.0-1", name="outer", n=2)]
    other = gantt.draw(timeline(*short), "flow", 119.0, lambda block, position: "")

    assert picture is not None
    assert other is not None
    titles = [element.text for element in elements(picture) if element.tag == f"{SVG}title"]
    assert "0.0-1/0: goes on, or waits for a slot, 9.0 s" in titles
    assert texts(other).count("flow") == 1


@pytest.mark.parametrize("sheet", ["client/report.css", "monitor/static/monitor.css"])
def test_what_was_stopped_has_the_colour_of_what_failed(sheet: str) -> None:
    """As the legend says; and not that of what waits to be tried again."""
    rules = re.findall(r"([^{}\n]+)\{([^}]*)\}", (resources.files("egregore_dist") / sheet).read_text())
    looks = {kind: {said for names, said in rules if f".bar-{kind}" in names} for kind in ("stopped", "error", "retry")}

    assert looks["stopped"] == looks["error"] == {" fill: var(--bad); "}
    assert looks["retry"] != looks["stopped"]


def test_what_the_end_waited_for_has_a_star() -> None:
    """The run's own branch, the block, the branch of it that ended last; their rows are marked for the style too."""
    picture = gantt.draw(timeline(*STORY), "flow", 200.0, lambda block, position: f"branch{position}")

    assert picture is not None
    rows = [found for found in elements(picture) if found.attrib.get("class", "").startswith("row ")]
    starred = [(row[0].text, row[-1].text) for row in rows if "★" in (row[-1].text or "")]
    assert starred == [("flow", "6.0 s ★"), ("fetch", "6.0 s ★"), ("branch0", "5.0 s ★")]
    assert [row[0].text for row in rows if "critical" in row.attrib["class"].split()] == ["flow", "fetch", "branch0"]


def test_an_attempt_that_is_not_wholly_known_is_not_drawn_as_one_that_is() -> None:
    """Where events are missing its bar says so, ends where it was last heard of, and no time is told."""
    made = timeline(*STORY[:5])
    made.miss()
    made.add(event(107.0, "branches.started", "0.0-1", branches=(2,), worker="w2", attempts={2: 2}))
    made.add(event(108.0, "branches.ended", "0.0-1", branches=(2,), worker="w2", attempts={2: 2}))
    made.add(event(110.0, "block.ended", "0.0-1", state="error"))

    picture = gantt.draw(made, "flow", 200.0, lambda block, position: f"branch{position}")

    assert picture is not None
    titles = [element.text or "" for element in elements(picture) if element.tag == f"{SVG}title"]
    assert "branch0: on w1; when it began or ended is not known" in titles
    assert "branch2: ok on w2, 1.0 s" in titles
    assert not [title for title in titles if title.startswith("branch2: waited")]
    assert [element.attrib.get("class") for element in elements(picture)].count("bar bar-cut") == 2
    assert texts(picture).count("?") == 2
    assert "… the times of 1 of 3 branches are known" in texts(picture)


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

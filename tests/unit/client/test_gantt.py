"""The picture of a timeline: what is in it, and how much."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from egregore_dist.client import gantt
from egregore_dist.client.timeline import Timeline
from tests.unit.client.stories import STORY, event, timeline

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

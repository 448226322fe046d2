"""The picture of a timeline: what is in it, and how much."""

from __future__ import annotations

import xml.etree.ElementTree as ET

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

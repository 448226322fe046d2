"""What is a message for one of the three tasks, and what may be said of one that is not."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from egregore_dist.engine import app as apps
from egregore_dist.worker import envelope

RUN = "6f1f7dd27f5a4bbe9e3d0c1a2b3c4d5e"
HEADERS = {
    "lang": "py",
    "task": apps.LANE,
    "id": "a7",
    "expires": "2030-01-01T00:00:00+00:00",
    "timelimit": [None, None],
}
CANARY = "canary-of-somebody-else"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        *[(apps.ADVANCE, [RUN]), (apps.LANE, [RUN, "0.0-1,2", 0]), (apps.COLLECT, [RUN, "0"])],
        *[(apps.ADVANCE, [RUN, 7]), (apps.LANE, [RUN, "0.0-1,2", 0, 7]), (apps.COLLECT, [RUN, "0", 7])],
    ],
)
def test_what_we_publish_is_well_formed(task: str, arguments: list[object]) -> None:
    """Nothing is wrong with a message as we publish it, alone or as a part of a chord."""
    for embed in ({}, {"callbacks": None, "errbacks": None, "chain": None, "chord": {"task": apps.COLLECT}}):
        assert envelope.fault(task, HEADERS, [arguments, {}, embed]) is None


@pytest.mark.parametrize(
    ("headers", "body", "part"),
    [
        ({"id": ""}, [[RUN], {}, {}], "headers"),
        ({"id": "x" * 256}, [[RUN], {}, {}], "headers"),
        ({"eta": "2030-01-01"}, [[RUN], {}, {}], "headers"),
        ({"compression": "zlib"}, [[RUN], {}, {}], "headers"),
        ({}, [[RUN], {}], "body"),
        ({}, {"args": [RUN]}, "body"),
        ({}, [[RUN], {}, {"chord": "x"}], "body"),
        ({}, [[], {}, {}], "arguments"),
        ({}, [["a b"], {}, {}], "arguments"),
        ({}, [["x" * 129], {}, {}], "arguments"),
        ({}, [[f"{RUN}\n"], {}, {}], "arguments"),
        ({}, [[".."], {}, {}], "arguments"),
        ({}, [[RUN, -1], {}, {}], "arguments"),
        ({}, [[RUN, "7"], {}, {}], "arguments"),
        ({}, [[RUN, 7, 7], {}, {}], "arguments"),
        ({}, [[RUN], {"run": RUN}, {}], "arguments"),
    ],
)
def test_what_is_wrong_is_told(headers: dict[str, object], body: object, part: str) -> None:
    """The reason says which part of the message it is."""
    reason = envelope.fault(apps.ADVANCE, {"id": "a", **headers}, body)

    assert reason is not None
    assert reason.startswith(part)


@hypothesis.given(json_values, json_values, st.sampled_from([apps.ADVANCE, apps.LANE, apps.COLLECT]))
def test_looking_at_a_message_never_fails(about: Any, content: Any, task: str) -> None:
    """Whatever JSON a message holds, it is found well-formed or a reason is given, and its shape is told in short."""
    about = about if isinstance(about, dict) else {"id": about}

    reason = envelope.fault(task, about, content)

    assert reason is None or reason.startswith(("headers", "body", "arguments"))
    assert len(envelope.excerpt({"headers": about, "body": content})) <= envelope.EXCERPT


@pytest.mark.parametrize("place", ["body", "headers", "properties", "argsrepr", "origin", "nobody knows", CANARY])
@pytest.mark.parametrize("value", [CANARY, CANARY.encode(), [CANARY], {"password": CANARY}, {CANARY: 1}, f"x {CANARY}"])
def test_an_excerpt_has_nothing_of_the_content(place: str, value: object) -> None:
    """Values, and names that are not Celery's own, are counted and never shown; a reason does not repeat them."""
    whole = {"body": "x", "headers": copy.deepcopy(HEADERS), "properties": {}, place: value}
    inside = {"headers": {**HEADERS, place: value}}

    assert CANARY not in envelope.excerpt(whole) + envelope.excerpt(inside)
    assert CANARY not in envelope.excerpt(CANARY) + envelope.excerpt(CANARY.encode())
    assert CANARY not in str(envelope.fault(apps.ADVANCE, inside["headers"], [[value], {}, {}]))


def test_an_excerpt_names_the_task() -> None:
    """What helps to find the sender is shown: task, id and content type, where they look like that."""
    shown = envelope.excerpt({"content-type": "application/json", "headers": HEADERS})

    assert apps.LANE in shown
    assert "application/json" in shown
    assert "a b" not in envelope.excerpt({"headers": {"task": "a b"}})

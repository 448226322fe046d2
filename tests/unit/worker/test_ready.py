"""What a worker says when it is ready."""

from __future__ import annotations

import re
from typing import Any

import pytest

from egregore_dist.settings import load
from egregore_dist.worker import ready


def test_a_worker_says_what_it_is_and_serves() -> None:
    """Its name, pool, slots, queues, modules and nodes."""
    said = ready.text(worker="w@h", kind="prefork", slots=4, queues=["a", "b"], modules=["shop"], nodes=["buy", "pay"])

    assert said.splitlines() == [
        "worker w@h is ready: prefork pool, 4 slots",
        "  queues: a, b",
        "  modules: shop",
        "  nodes and decisions: buy, pay",
    ]


def test_what_it_says_is_bounded() -> None:
    """Of many nodes the first twenty are named, and how many more there are."""
    names = [f"n{number:03}" for number in range(500)]

    said = ready.text(worker="w@h", kind="threads", slots=1, queues=["q"], modules=[], nodes=names)

    assert said.splitlines()[0].endswith("threads pool, 1 slot")
    assert "  modules: none" in said
    assert said.endswith(", n019 and 480 more")


@pytest.mark.parametrize(
    ("given", "nodes", "told"),
    [
        ({}, ["a"], None),
        ({}, [], "serves no nodes, and no run can use it: .*worker -m yourproject.steps"),
        ({"modules": "shop,docs"}, [], "there are none in shop, docs"),
        ({"secret": "x" * 20}, [], "serves no nodes of its own: .* It runs functions that clients sign"),
        ({"secret": "x" * 20, "modules": "shop"}, ["a"], None),
    ],
)
def test_a_worker_without_nodes_warns(given: dict[str, Any], nodes: list[str], told: str | None) -> None:
    """It names the cure, and says whether functions by value run."""
    said = ready.warning(load(**given), nodes)

    if told is None:
        assert said is None
    else:
        assert said is not None
        assert re.search(told, said)

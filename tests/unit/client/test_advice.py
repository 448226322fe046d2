"""What is advised for nodes that mostly wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from egregore_dist import Sequence, decision, node, parallel
from egregore_dist.client import advice
from egregore_dist.client.plans import BlockPlan
from egregore_dist.resources import router
from egregore_dist.resources.profile import Histogram, Learned, Profile
from egregore_dist.resources.router import Cluster, Demand, Widths
from egregore_dist.workflow import describe, spec
from egregore_dist.workflow.step import Step
from tests.unit.client.stories import STORY, timeline
from tests.unit.client.test_accounting import BLOCK, report


def fetch(item: Any) -> Any:
    return item


def parse(item: Any) -> Any:
    return item


async def light(item: Any) -> Any:
    return item


def learned(cpu: float | None, waits: float, executions: float = 100.0) -> Learned:
    return Learned(executions=executions, wall=(cpu or 0.0) + waits, cpu=cpu, memory=None, waits=waits)


def known(cpu: float, waits: float) -> Profile:
    """Of ten executions."""
    one = {name: Histogram() for name in ("wall", "cpu", "waits")}
    for name, seconds in (("wall", cpu + waits), ("cpu", cpu), ("waits", waits)):
        one[name].add(seconds, 10.0)
    return Profile(count=10.0, **one)


PROFILES = {"fetch": known(0.005, 0.095), "parse": known(0.0001, 0.0), "light": known(0.0001, 0.1)}


def advised(step: Step, most: int = 32, profiles: dict[str, Profile] = PROFILES) -> tuple[str, ...]:
    """What is advised for a workflow whose functions have these profiles."""
    described = describe.describe(step)
    functions = [function.__name__ for function in described.functions]
    blocks = [block for _, block in spec.blocks(described.spec.root)]
    return advice.of_blocks(
        blocks, functions, lambda names: {name: profiles[name] for name in names}, queue="home", most=most
    )


@pytest.mark.parametrize(
    ("of", "most", "percent", "at_once"),
    [
        (learned(0.005, 0.095), 32, 95, 20),
        (learned(0.001, 0.099), 32, 99, 32),
        (learned(0.001, 0.099), 8, 99, 8),
        (learned(0.0, 0.1), 32, 100, 32),
        (learned(0.04, 0.06), 32, 60, 2),
        (learned(0.002, 0.0031), 32, 60, 2),
    ],
)
def test_a_node_that_mostly_waits_is_told_so(of: Learned, most: int, percent: int, at_once: int) -> None:
    """With the part of its time, and as many branches as the router would let a lane run at a time."""
    demand = Demand(queue="home", branches=100_000, batched=True, io=True, learned=of)
    (track,) = router.plan([demand], Cluster(), widths=Widths(threads=most)).tracks

    assert advice.sentence(["fetch"], of, most) == (
        f"`fetch` waits {percent} % of its time: `io=True` would run up to {at_once} at once on each slot"
    )
    assert track.width == at_once


@pytest.mark.parametrize(
    ("of", "most"),
    [
        (None, 32),
        (learned(None, 0.1), 32),
        (learned(0.05, 0.05), 32),
        (learned(0.001, 0.0039), 32),
        (learned(0.001, 0.1, executions=2.0), 32),
        (learned(0.001, 0.1), 1),
    ],
)
def test_others_are_told_nothing(of: Learned | None, most: int) -> None:
    """Those that compute, that are short, that are hardly known, or where no threads are allowed."""
    assert advice.sentence(["fetch"], of, most) is None


@hypothesis.given(cpu=st.floats(0, 1e3), waits=st.floats(0, 1e3), most=st.integers(1, 1000))
def test_what_is_advised_is_possible(cpu: float, waits: float, most: int) -> None:
    """At least two at once, and never more than the setting."""
    text = advice.sentence(["n"], learned(cpu, waits), most)

    assert text is None or 2 <= int(text.split("up to ")[1].split(" ")[0]) <= most


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a", "b"], "`a` and `b` wait"),
        (["a", "b", "c", "d"], "`a`, `b`, `c` and 1 more node wait"),
        (["a", "b", "c", "d", "e"], "`a`, `b`, `c` and 2 more nodes wait"),
    ],
)
def test_several_nodes_are_named_together(names: list[str], shown: str) -> None:
    """Where each of them would have to declare it."""
    assert str(advice.sentence(names, learned(0.005, 0.095), 32)).startswith(f"{shown} 95 % of their time")


ONE = ("`fetch` waits 95 % of its time: `io=True` would run up to 20 at once on each slot",)
TWO = "`fetch` and {} wait {} % of their time: `io=True` would run up to {} at once on each slot"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda of: of(fetch).map(), ONE),
        (
            lambda of: Sequence(of(fetch), of(fetch).alias("again").map() >> of(parse)),
            (ONE[0].replace("fetch", "again"),),
        ),
        (lambda of: parallel(of(fetch).map(), of(parse)), ONE),
        (lambda of: (of(light) >> of(fetch)).map(), (ONE[0].replace("95", "97").replace("20", "32"),)),
        (lambda of: of(fetch).map(max_concurrent=4), (ONE[0].replace("20", "4"),)),
        (lambda of: parallel(of(fetch), of(fetch).alias("b")), (TWO.format("`b`", 95, 2),)),
        (lambda of: (of(fetch) >> of(parse)).map(), (TWO.format("`parse`", 94, 19),)),
        (lambda of: of(fetch), ()),
        (lambda of: of(parse).map(), ()),
        (lambda of: of(light).map(), ()),
        (lambda of: node("fetch", io=True)(fetch).map(), ()),
        (lambda of: (of(fetch) >> of(parse).map()).map(), ()),
        (lambda of: of(fetch).map(optimization_enabled=False), ()),
        (lambda of: parallel(of(fetch)), ()),
        (lambda of: decision("route")(parse).to(a=of(fetch)).map(), ()),
    ],
)
def test_advice_is_for_branches_that_could_share_a_process(
    make: Callable[[Callable[..., Any]], Step], expected: tuple[str, ...]
) -> None:
    """In blocks of several branches; where it takes more nodes than one, all of them are named."""
    assert advised(make(lambda function: node(function.__name__)(function))) == expected


def test_a_plan_shows_advice() -> None:
    """Below the numbers."""
    plan = router.plan([Demand(queue="home", branches=9)], Cluster())
    shown = str(BlockPlan(name="it", path=(), kind="map", branches=9, plan=plan, advice=ONE))

    assert shown.endswith(f"\n  advice: {ONE[0]}")
    assert "advice" not in str(BlockPlan(name="it", path=(), kind="map", branches=9, plan=plan))


def test_a_report_shows_advice() -> None:
    """As a dict, as Markdown and as a page; without any there is no heading."""
    without = report(timeline(*STORY), BLOCK)
    found = replace(without, advice=("`<b>` waits",))

    assert found.as_dict()["advice"] == ["`<b>` waits"]
    assert "\n## Advice\n\n- \\`\\<b\\>\\` waits\n" in found.markdown()
    assert "<h2>Advice</h2><ul><li>`&lt;b&gt;` waits</li></ul>" in found.html()
    assert without.as_dict()["advice"] == []
    assert "Advice" not in without.markdown() + without.html()

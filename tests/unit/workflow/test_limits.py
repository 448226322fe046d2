"""Limits of nodes: what may be given, and what of an input splits them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from egregore_dist import Context, Limit, Sequence, node, parallel
from egregore_dist.errors import WorkflowError
from egregore_dist.workflow import spec
from egregore_dist.workflow.describe import describe
from egregore_dist.workflow.limits import Named, Rule, named, rule


def both(prompt: str, model: str = "small") -> str:
    return prompt


def several(prompt: str, model: str) -> str:
    return prompt


def beside(data: dict[str, Any], model: str = "small") -> Any:
    return data


def keys(prompt: str = "p", **others: Any) -> Any:
    return others


def alone(model: str) -> str:
    return model


def whole(data: dict[str, Any]) -> Any:
    return data


def injected(context: Context, prompt: str, *, model: int = 3) -> str:
    return prompt


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        ("20/s", Rule(starts=20, seconds=1)),
        (" 20 / sec ", Rule(starts=20, seconds=1)),
        ("1/second", Rule(starts=1, seconds=1)),
        ("100/min", Rule(starts=100, seconds=60)),
        ("7/minute", Rule(starts=7, seconds=60)),
        ("1000/h", Rule(starts=1000, seconds=3600)),
        ("1000/hour", Rule(starts=1000, seconds=3600)),
    ],
)
def test_a_rate_is_read(per: str, expected: Rule) -> None:
    """A number, a slash and a time, with blanks where one likes."""
    assert rule(None, per, "here") == expected


@pytest.mark.parametrize(
    "per", ["", "20", "/s", "20/", "20/d", "-1/s", "0/s", "1.5/s", "20/s/s", "2000000/s", 20, b"1/s"]
)
def test_what_is_no_rate_is_refused(per: object) -> None:
    """The error names the node and shows how a rate is written."""
    with pytest.raises(WorkflowError, match=r"^node 'both': limit: per takes a number and a time, such as '20/s'"):
        node(limit=Limit(per=per))(both)  # type: ignore[arg-type]


@pytest.mark.parametrize("concurrent", [0, -1, 1.5, "5", True])
def test_what_is_no_number_is_refused(concurrent: object) -> None:
    """A whole number of at least one."""
    with pytest.raises(WorkflowError, match=r"^node 'call': limit: concurrent must be a whole number of at least 1"):
        node("call", limit=Limit(concurrent=concurrent))(both)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit(), "limit limits nothing: give concurrent=5"),
        (Limit(concurrent=10**7), "concurrent must be at most 1000000"),
        (5, "limit must be a Limit, such as"),
        (Limit(concurrent=1, name="a b"), r"'a b' cannot name a limit \(node 'both'\)"),
        (Limit(concurrent=1, name=""), "cannot name a limit"),
        (Limit(concurrent=1, key="modle"), "key='modle' is no argument of the function: it takes prompt, model"),
        (Limit(concurrent=1, key=""), "key must be the name of an argument"),
        (Limit(concurrent=1, key=3), "key must be the name of an argument"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused(limit: Any, text: str) -> None:
    """When the node is made, and the error names it."""
    with pytest.raises(WorkflowError, match=text) as raised:
        node(limit=limit)(both)

    assert "node 'both'" in str(raised.value)


def test_a_key_of_an_argument_that_is_no_mapping_is_refused() -> None:
    """What is one string has no keys; what is a mapping, or anything, may have any."""
    with pytest.raises(WorkflowError, match="it takes model"):
        node(limit=Limit(concurrent=1, key="other"))(alone)

    assert named(Limit(concurrent=1, key="other"), whole, "whole").key == "other"


def test_a_limit_is_named_like_its_node() -> None:
    """Unless it has a name; aliases of the node share it."""
    call = node("call", limit=Limit(concurrent=1))(both)
    shared = node("call", limit=Limit(concurrent=1, name="api"))(both)

    assert call.options.limit == Named("call", Rule(concurrent=1))
    assert call.alias("other").options.limit == call.options.limit
    assert shared.options.limit is not None
    assert shared.options.limit.name == "api"


@pytest.mark.parametrize(
    ("function", "data", "value"),
    [
        (both, {"prompt": "p", "model": "large"}, "large"),
        (both, {"prompt": "p"}, "small"),
        (both, ["p", "large"], "small"),
        (several, ["p", "large"], "large"),
        (several, {"prompt": "p", "model": "large"}, "large"),
        (beside, {"model": "large"}, "small"),
        (partial(several, model="fixed"), {"prompt": "p", "model": "large"}, "fixed"),
        (keys, {"model": "large"}, "large"),
        (both, ["p"], "small"),
        (both, "p", "small"),
        (alone, "large", "large"),
        (alone, {"model": "large"}, "large"),
        (alone, {"modle": "large"}, None),
        (whole, {"model": "large"}, "large"),
        (whole, {}, None),
        (injected, {"prompt": "p", "model": 7}, 7),
        (injected, "p", 3),
    ],
)
def test_the_value_that_splits(function: Callable[..., Any], data: Any, value: Any) -> None:
    """It is the argument's as the input is bound to it, or a key of the one mapping that the node takes."""
    assert named(Limit(concurrent=1, key="model"), function, "call").value(data) == value


def test_one_name_has_one_rule() -> None:
    """Two nodes of a workflow that share a limit by name must agree on it."""
    first = node("first", limit=Limit(concurrent=1, name="api"))(both)
    second = node("second", limit=Limit(concurrent=2, name="api"))(both)
    same = node("same", limit=Limit(concurrent=1, name="api"))(both)

    describe(parallel(first, same))
    with pytest.raises(WorkflowError, match="node 'first' and node 'second' have different limits of one name, 'api'"):
        describe(Sequence(first, second))


def test_a_spec_without_limits_is_as_before() -> None:
    """What has none travels without a word about it; what has one comes back with it."""
    plain, limited = node("plain")(both), node("limited", limit=Limit(per="5/s", key="model"))(both)

    assert b"limit" not in describe(plain).encoded
    found = spec.decode(describe(limited.map()).encoded).root
    assert isinstance(found, spec.MapSpec)
    assert isinstance(found.body, spec.NodeSpec)
    assert found.body.limit == limited.options.limit


@given(starts=some.integers(1, 1_000_000), unit=some.sampled_from(["s", "min", "h"]))
def test_a_burst_is_a_tenth_of_a_second(starts: int, unit: str) -> None:
    """And one at least; a rate is written as it is read."""
    found = rule(None, f"{starts}/{unit}", "here")

    assert found.burst == max(1, int(starts / {"s": 10, "min": 600, "h": 36000}[unit]))
    assert found.per == f"{starts}/{unit}"

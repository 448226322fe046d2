"""The warning where binding has changed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given

from egregore_dist import errors
from egregore_dist.workflow import Context, former_binding
from egregore_dist.workflow.binding import Parameters
from tests.support.signatures import Shape, defaults, function_of, shapes, values

CONTEXT = Context(run="r", workflow="w", block=None, branch=None, node="n", attempt=1)


@pytest.fixture(autouse=True)
def told() -> Iterator[set[str]]:
    """Nothing was told yet, and nothing stays told."""
    before = set(former_binding._shown_for)
    former_binding._shown_for.clear()
    yield former_binding._shown_for
    former_binding._shown_for.clear()
    former_binding._shown_for.update(before)


def kept(value: Any, annotation: Any, where: str) -> Any:
    return value


def search(query, limit=10):  # type: ignore[no-untyped-def]
    return query, limit


def limited(limit=10):  # type: ignore[no-untyped-def]
    return limit


def test_the_first_value_of_a_node_is_told() -> None:
    """Once for a node, with parameter, both meanings and the annotation that brings the former one back."""
    data = {"query": "q", "limit": 5}
    parameters = Parameters.of(search)

    assert parameters.check("search", "q") is None
    assert parameters.check("search", data) == (
        "node 'search': parameter 'query' receives a value of type dict of this dict; formerly it received a value of "
        "type str. For a mapping by name as before, annotate `query: str` (docs/binding.md has the rule; this is shown "
        "once for a node)"
    )
    assert Parameters.of(search).check("search", data) is None
    assert Parameters.of(search).check("another", data) is not None


def test_workers_log_it(caplog: pytest.LogCaptureFixture) -> None:
    """What a worker binds is told in its log, once, and bound by the present rule all the same."""
    data = {"query": "q", "limit": 5}
    with caplog.at_level(logging.WARNING, "egregore_dist"):
        for _ in range(3):
            args, kwargs = Parameters.of(search).bind("search", data, context=CONTEXT, convert=kept)
            assert search(*args, **kwargs) == (data, 10)

    (record,) = caplog.records
    assert "annotate `query: str`" in record.getMessage()
    assert record.__dict__["action"] == "binding_changed"


@pytest.mark.parametrize(
    ("function", "value", "cure"),
    [
        (search, {"query": None}, "For the former value, read query['query'] in the function"),
        (search, {"query": {}}, "For the former value, read query['query'] in the function"),
        (search, ["q", 5], "write two or more parameters without defaults, or unpack it in the function"),
        (limited, {"x": 1}, "For the whole mapping as before, annotate `limit: dict`"),
        (limited, None, "For None as before, annotate `limit: int | None`"),
        (lambda limit=10: limit, {"x": 1}, "use a def instead of the lambda, and annotate `limit: dict`"),
        (lambda limit=10: limit, None, "use a def instead of the lambda, and annotate `limit: int | None`"),
        (
            lambda query, limit=10: query,
            {"query": "q", "limit": 5},
            "For a mapping by name as before, use a def instead of the lambda, and annotate `query: str`",
        ),
        (
            functools.partial(search, limit=3),
            {"query": "q", "limit": 5},
            "What functools.partial() binds",
        ),
    ],
)
def test_the_cure(function: Callable[..., Any], value: Any, cure: str) -> None:
    """The warning says what to write for the former meaning, with an annotation where one brings it back."""
    assert cure in (Parameters.of(function).check("n", value) or "")


@pytest.mark.parametrize(
    "function",
    [
        lambda data: data,
        lambda a, b, c=3: a,
        lambda: None,
        lambda *rest, **others: rest,
        lambda data=None: data,
    ],
)
def test_functions_that_are_bound_as_ever_are_not_looked_at(function: Callable[..., Any]) -> None:
    """Where the two rules cannot differ, nothing is compared when values are bound."""
    assert former_binding.of(Parameters.of(function)) is None


def test_many_nodes_do_not_fill_the_memory(told: set[str]) -> None:
    """After a thousand nodes no further one is told."""
    texts = [Parameters.of(search).check(f"n{i}", ["q", 5]) for i in range(1001)]

    assert [text is None for text in texts] == [False] * 1000 + [True]
    assert len(told) == 1000


def formerly(shape: Shape, value: Any) -> dict[str, Any] | None:
    """What the parameters held by the former rule, or None for a binding error."""
    parameters, rest, extra = shape
    held = defaults(shape)
    held |= {name: CONTEXT for name, _, _, annotation in parameters if annotation == ": Context"}
    rest_held: tuple[Any, ...] = ()
    extra_held: dict[str, Any] = {}
    data = [p for p in parameters if p[3] != ": Context"]
    required = [p[0] for p in data if not p[2]]
    names = [name for name, *_ in parameters]
    others = {k: v for k, v in value.items() if isinstance(k, str) and k not in names} if type(value) is dict else {}

    if len(data) == 1 and not (rest and type(value) is list):
        name, _, default, annotation = data[0]
        if value is None and default and annotation in (": int", ": dict"):
            pass
        elif type(value) is dict and name in value and (extra or annotation == ": int"):
            held[name], extra_held = value[name], others
        elif type(value) is dict and annotation == ": int":
            if not default:
                return None
            extra_held = others
        else:
            held[name] = value
    elif not data:
        if type(value) is dict and extra:
            extra_held = others
        elif value is not None and rest:
            rest_held = tuple(value) if type(value) is list else (value,)
        elif value is not None and extra:
            return None
    elif type(value) is dict:
        if not set(required) <= value.keys():
            return None
        held |= {p[0]: value[p[0]] for p in data if p[0] in value}
        extra_held = others
    elif type(value) is list:
        places = [p[0] for p in data if p[1] != "keyword"]
        if len(places) == 1 and not rest and set(required) <= set(places):
            # The others are keyword-only and have defaults: the list is meant as a whole.
            value = [value]
        if len(value) > len(places) and not rest:
            return None
        held |= dict(zip(places, value, strict=False))
        rest_held = tuple(value[len(places) :])
        if any(name not in places[: len(value)] for name in required):
            return None
    elif len(required) == 1:
        held[required[0]] = value
    elif required or value is not None:
        return None
    return held | ({"rest": rest_held} if rest else {}) | ({"extra": extra_held} if extra else {})


@given(shapes(), values)
def test_it_warns_exactly_where_the_two_rules_differ(shape: Shape, value: Any) -> None:
    """For any function and value: where the former rule gave something, and the present one gives something else."""
    function = function_of(shape)
    parameters = Parameters.of(function)
    before = formerly(shape, value)
    former_binding._shown_for.clear()
    try:
        args, kwargs = parameters.bind("n", value, context=CONTEXT, convert=kept)
    except errors.BindingError:
        assert not former_binding._shown_for
        assert before is None
    else:
        is_other = before is not None and before != function(*args, **kwargs)
        assert is_other == bool(former_binding._shown_for)

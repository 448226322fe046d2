"""Annotations that cannot be resolved are refused where a node is used."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from egregore_dist.errors import WorkflowError
from egregore_dist.workflow import Context, Sequence, decision, node, parallel
from egregore_dist.workflow.describe import describe

if TYPE_CHECKING:
    from typing import Any as Anything

    from nowhere import Answer, Unknown  # type: ignore[import-not-found]

    from egregore_dist import Context as Given


@node
def takes(order: Unknown) -> int:
    return 1


@node
def nested(rate: float, orders: dict[str, list[Unknown]]) -> int:
    return 1


@node
def plain(x: int) -> int:
    return x


CURE = (
    r"Import or define Unknown at the top level of the module, outside of `if TYPE_CHECKING` and of functions, and "
    r"before the workflow runs; or leave the annotation out"
)


@pytest.mark.parametrize(
    "use",
    [
        lambda step: Sequence(plain, step),
        lambda step: plain >> step,
        lambda step: parallel(plain, step),
        lambda step: step.map(),
        lambda step: decision("route")(lambda x: "a").to(a=step),
        describe,
    ],
    ids=["Sequence", ">>", "parallel", "map", "decision", "alone"],
)
def test_a_parameter_is_refused_where_its_node_is_used(use: Callable[[Any], Any]) -> None:
    """The error names node, parameter, annotation, reason and cure; a node alone is refused when it is described."""
    with pytest.raises(
        WorkflowError, match=r"^node 'takes': the annotation of parameter 'order', 'Unknown', "
    ) as caught:
        use(takes)
    caught.match(r"cannot be resolved \(NameError: name 'Unknown' is not defined\)\. " + CURE)
    with pytest.raises(WorkflowError, match=r"^node 'nested': the annotation of parameter 'orders', "):
        use(nested)


def test_a_local_class_is_refused() -> None:
    """With postponed annotations a class of the enclosing function is found only if the function refers to it."""

    class Order:
        pass

    @node
    def silent(order: Order) -> int:
        return 1

    @node
    def referring(order: Order) -> Order:
        return Order()

    assert Sequence(referring, plain)
    with pytest.raises(WorkflowError, match=r"'silent': .* parameter 'order', 'Order', .* outside of .* functions"):
        Sequence(silent, plain)


def test_what_is_not_a_missing_name() -> None:
    """Any error of an annotation is told, with the cure that fits."""
    namespace: dict[str, Any] = {"__name__": "user"}
    exec("def odd(x: '1 / 0', y: int): return x", namespace)

    with pytest.raises(WorkflowError, match=r"ZeroDivisionError: .*Correct it, or leave it out"):
        Sequence(node(namespace["odd"]), plain)


def any_data(data: Anything) -> int:
    return 1


def typing_any(data: dict[str, Any], *, more: Anything) -> int:
    return 1


def given_context(data: int, context: Context, given: Given) -> int:
    return 1


def beside(data: dict[str, int], verify: Unknown = None) -> int:
    return 1


def returning(data: int) -> Unknown:
    return data


@pytest.mark.parametrize(
    ("function", "accepted"),
    [
        (beside, True),
        (functools.partial(nested.fn, orders={}), True),
        (returning, True),
        (any_data, False),
        (given_context, False),
    ],
    ids=["beside", "partial", "returning", "any", "context"],
)
def test_annotations_that_cannot_matter(function: Callable[..., Any], accepted: bool) -> None:
    """Of a parameter that no input fills, and of a value that is not the result: these are not looked at."""
    step = node("it")(function)
    if accepted:
        assert describe(Sequence(step, plain))
    else:
        with pytest.raises(WorkflowError, match="cannot be resolved"):
            Sequence(step, plain)


def test_any_and_context_are_known_by_their_names() -> None:
    """`Any` and `Context` mean the same though they were imported for type checkers only."""
    namespace: dict[str, Any] = {"__name__": "user"}
    exec("def f(data: 'dict[str, Any]', more: 'typing.Any', c: 'Context') -> 'Any': return data", namespace)

    assert describe(node(namespace["f"]))


def test_the_value_of_a_last_node_and_of_a_decision() -> None:
    """Their annotations give the result its type, and the decision its answers."""
    last = node("last")(returning)
    assert describe(last >> plain)
    with pytest.raises(WorkflowError, match=r"^node 'last': the annotation of its return value, 'Unknown', cannot be"):
        describe(parallel(plain, last.map()))

    def route(x: int) -> Answer:
        return "plain"

    with pytest.raises(WorkflowError, match=r"^decision 'route': the annotation of its return value, 'Answer'"):
        Sequence(plain, decision(route).to(plain))


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Makes a module of text, and imports it."""

    def made(text: str) -> ModuleType:
        path = tmp_path / "flows_of_test.py"
        head = "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        path.write_text(f"{head}from egregore_dist import Sequence, node\n{dedent(text)}", "utf-8")
        spec = importlib.util.spec_from_file_location("flows_of_test", path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["flows_of_test"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield made
    sys.modules.pop("flows_of_test", None)


TEMPLATE = """
    @node
    def takes(order: Order) -> int:
        return 1

    flow = Sequence(takes)
"""


@pytest.mark.parametrize(
    "below",
    [
        "class Order: pass",
        "import decimal as Order",
        "try:\n    from decimal import Decimal as Order\nexcept ImportError:\n    pass",
        "Order = int",
        "if TYPE_CHECKING:\n    from nowhere import Order\nelse:\n    Order = int",
    ],
)
def test_a_name_that_the_module_binds_further_down(module: Callable[[str], ModuleType], below: str) -> None:
    """The workflow may stand above it: that is looked at when it is described."""
    assert describe(module(dedent(TEMPLATE) + below).flow)


@pytest.mark.parametrize(
    "below",
    [
        "",
        "if TYPE_CHECKING:\n    from nowhere import Order",
        "def main():\n    class Order: pass",
    ],
)
def test_a_name_that_the_module_never_binds(module: Callable[[str], ModuleType], below: str) -> None:
    """The workflow is refused when it is built."""
    with pytest.raises(WorkflowError, match="'takes': the annotation of parameter 'order'"):
        module(dedent(TEMPLATE) + below)


def test_a_name_that_did_not_come(module: Callable[[str], ModuleType]) -> None:
    """What was not bound when the workflow is described is refused then, and accepted once it is there."""
    flows = module(dedent(TEMPLATE) + "if not flow:\n    Order = int")
    with pytest.raises(WorkflowError, match="'takes': the annotation of parameter 'order'"):
        describe(flows.flow)
    flows.Order = int

    assert describe(flows.flow)


def test_in_a_notebook_a_later_cell_may_bind_it() -> None:
    """Where the source cannot be read, a missing name is refused when the workflow is described."""
    namespace: dict[str, Any] = {"__name__": "notebook_of_test"}
    exec("def takes(order: 'Order'): return 1", namespace)
    flow = Sequence(node(namespace["takes"]), plain)

    with pytest.raises(WorkflowError, match="parameter 'order'"):
        describe(flow)
    namespace["Order"] = int
    assert describe(flow)

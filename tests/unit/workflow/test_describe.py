"""Describing a workflow: its spec, its functions, its heads, its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from egregore_dist.workflow import Sequence, Step, decision, node, parallel, spec
from egregore_dist.workflow.describe import Fields, Items, Value, describe, result_type

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


@node(
    "a",
    retries=1,
    retry_on=(OSError, KeyError),
    retry_delay=2,
    timeout=2,
    memory="1kB",
    cpus=0.5,
    gpus=2,
    labels={"zone": "eu", "disk": "ssd"},
    queue="q",
    io=True,
)
def a(x: int) -> int:
    return x


@node
async def b(x: int) -> list[str]:
    return [str(x)]


@node
def c(x):  # type: ignore[no-untyped-def]
    return x


@node
def unresolved(x: int) -> Unknown:
    return x


@node
def untyped(x):  # type: ignore[no-untyped-def]
    return x


@node
def gives_none(x: int) -> None:
    pass


@decision("route")
async def route(x: int) -> str:
    return "a"


A = spec.NodeSpec(
    name="a",
    function=0,
    retries=1,
    retry_on=("OSError", "KeyError"),
    retry_delay=2.0,
    timeout=2.0,
    memory=1000,
    cpus=0.5,
    gpus=2,
    labels=("disk=ssd", "zone=eu"),
    io=True,
    queue="q",
)
B = spec.NodeSpec(name="b", function=1, is_async=True)


def test_node() -> None:
    """A node carries its options, its place in the table of functions, and whether it is async."""
    described = describe(a)

    assert spec.WorkflowSpec(name="a", root=A) == described.spec
    assert (a.fn,) == described.functions
    assert (("a", a.fn),) == described.heads


def test_functions_are_listed_once() -> None:
    """One function in many places has one place in the table."""
    described = describe(parallel(a, b, a.alias("a2"), b >> a.alias("a3")))

    assert (a.fn, b.fn) == described.functions


def test_parallel() -> None:
    """A parallel carries its keys and limits."""
    described = describe(parallel(a, b, max_concurrent=2, timeout=3, optimization_enabled=False, on_error="collect"))

    assert described.spec.root == spec.ParallelSpec(
        name="parallel",
        branches=(A, B),
        keys=("a", "b"),
        max_concurrent=2,
        timeout=3.0,
        optimize=False,
        on_error="collect",
    )


def test_map() -> None:
    """A map carries its body and limits, and is named like the result of its body."""
    described = describe(a.map(max_concurrent=2, timeout=3, optimization_enabled=False, on_error="collect"))

    assert described.spec.root == spec.MapSpec(
        name="a", body=A, max_concurrent=2, timeout=3.0, optimize=False, on_error="collect"
    )


def test_decision() -> None:
    """A decision carries its function, the answers and their steps; an unnamed step is named by its answer."""
    described = describe(route.to(a, many=parallel(b)))

    assert described.spec.root == spec.DecisionSpec(
        name="route",
        node=spec.NodeSpec(name="route", function=0, is_async=True),
        keys=("a", "many"),
        steps=(
            msgspec.structs.replace(A, function=1),
            spec.ParallelSpec(name="many", branches=(msgspec.structs.replace(B, function=2),), keys=("b",)),
        ),
    )


def test_a_bare_decision_is_described_with_its_choices() -> None:
    """A decision that is run by itself finds its choices too."""
    root = describe(route).spec.root

    assert isinstance(root, spec.DecisionSpec)
    assert root.keys == ("a",)


@pytest.mark.parametrize(
    ("step", "name", "root_name"),
    [
        (a, "a", "a"),
        (a >> b, "a-b", "sequence"),
        (Sequence(a, b, name="s"), "s", "s"),
        (a >> parallel(b, c) >> b.map(name="m") >> route, "a-parallel_1-m-route", "sequence"),
        (a >> parallel(b, c).map(), "a-map_1", "sequence"),
        (Sequence(a, Sequence(b, c)), "a-sequence_1", "sequence"),
        (parallel(a, b), "parallel", "parallel"),
        (parallel(a, b, name="p"), "p", "p"),
        (parallel(a, b).map(), "map", "map"),
        (a.map(), "a", "a"),
        (a.map(name="m"), "m", "m"),
        (route.to(a), "route", "route"),
        (Sequence(*[a] * 50), "-".join("a" * 50)[:64], "sequence"),
    ],
)
def test_names(step: Step, name: str, root_name: str) -> None:
    """Every workflow and every step of a spec has a name."""
    described = describe(step)

    assert (name, root_name) == (described.spec.name, described.spec.root.name)


def test_nested_blocks_are_named_by_their_place() -> None:
    """An unnamed block is named by its kind and its position in its parent."""
    root = describe(parallel(a, parallel(b), c >> parallel(a) >> c.alias("z"), parallel(a).map())).spec.root

    inner = [step.name for step in spec.children(root)]
    assert inner == ["a", "parallel_1", "sequence_2", "map_3"]
    assert spec.step_at(root, (2, 1)).name == "parallel_1"
    assert spec.step_at(root, (3, 0)).name == "parallel_0"


def test_heads() -> None:
    """The heads are the nodes that get the run's input, each function once, but not through a map."""
    step = parallel(
        a >> b.alias("b2"), b, a.alias("a2"), parallel(c) >> a.alias("a3"), untyped.map(), route.to(untyped)
    )

    assert (("a", a.fn), ("b", b.fn), ("c", c.fn), ("route", route.fn)) == describe(step).heads
    assert describe(a.map()).heads == ()
    assert describe(parallel()).heads == ()


def test_described_once() -> None:
    """Describing a step again gives the same object."""
    step = a >> b

    assert describe(step) is describe(step)


def test_specs_travel() -> None:
    """A spec is plain data: it comes back from MessagePack as it was."""
    step = Sequence(a, parallel(b, c.map(), route.to(a, many=parallel(b))), c, name="s")
    described = describe(step).spec

    assert described == msgspec.msgpack.decode(msgspec.msgpack.encode(described), type=spec.WorkflowSpec)


def test_maps_that_get_the_input_are_known() -> None:
    """A map at the head of a workflow, or of a branch of its first block, gets the run's input."""
    assert describe(a.map()).maps == ("a",)
    assert describe(Sequence(parallel(a.map(), a.map().alias("again"), c), c)).maps == ("a", "again")
    assert describe(Sequence(c, a.map())).maps == ()


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (a, Value(int, "a")),
        (b, Value(list[str], "b")),
        (c, Value(Any, "c")),
        (unresolved, Value(Any, "unresolved")),
        (gives_none, Value(type(None), "gives_none")),
        (a >> b, Value(list[str], "b")),
        (parallel(a, b), Fields({"a": Value(int, "a"), "b": Value(list[str], "b")})),
        (parallel(a, a.alias("a2")), Fields({"a": Value(int, "a"), "a2": Value(int, "a2")})),
        (parallel(), Fields({})),
        (a.map(), Items(Value(int, "a"))),
        (parallel(a, b.map()), Fields({"a": Value(int, "a"), "b": Items(Value(list[str], "b"))})),
        (c >> parallel(a).map(), Items(Fields({"a": Value(int, "a")}))),
        (route, Value(Any)),
    ],
)
def test_result_type(step: Step, expected: object) -> None:
    """The type of a result follows the annotations of the nodes that give it."""
    assert expected == result_type(step)


def test_a_result_type_is_made_once() -> None:
    """It is remembered with the step, and not with what is made of that."""
    step = parallel(a, b)

    assert result_type(step) is result_type(step)
    assert result_type(step.alias("other")) is not result_type(step)


def test_what_an_annotation_names_may_be_defined_later() -> None:
    """Or anew, as in a notebook: the result has its type from then on."""
    namespace: dict[str, Any] = {"__name__": "later"}
    exec("def gives(x) -> 'Later': return x", namespace)
    step = node(namespace["gives"])
    found = [result_type(step)]
    for namespace["Later"] in (int, str):
        found.append(result_type(step))

    assert found == [Value(annotation, "gives") for annotation in (Any, int, str)]

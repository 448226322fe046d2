"""Sequences, parallels and maps: what they check and how results are named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.workflow import Sequence, Step, decision, describe, node, parallel, spec


@node
def a(x: int) -> int:
    return x


@node
def b(x: int) -> int:
    return x


@node
def c(x: int) -> int:
    return x


@decision("route")
def route(x: int) -> str:
    return "a"


def plain(x: int) -> int:
    return x


def test_sequence_takes_many_steps() -> None:
    """Sequence(a, b, c) keeps its steps in order."""
    assert (a, b, c) == Sequence(a, b, c).steps


def test_sequence_needs_a_step() -> None:
    """An empty sequence is refused."""
    with pytest.raises(errors.WorkflowError, match="Sequence 'empty' has no steps"):
        Sequence(name="empty")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (plain, r"plain function plain, not a step; wrap it: node\('plain'\)\(plain\)"),
        (lambda x: x, r"wrap it: node\('a_name'\)"),
        ([a, b], r"is a list: spread it with a star, as in parallel\(\*tasks\)"),
        ((a, b), r"is a tuple: spread it"),
        (int, "is the class int: give a node"),
        (3, r"not a step but 3 \(int\).*without calling it"),
        (None, "not a step"),
        ("name", "not a step"),
    ],
)
def test_what_is_not_a_step(value: Any, message: str) -> None:
    """What is not a step is refused where it stands, with what to do about it."""
    with pytest.raises(errors.WorkflowError, match="parallel 'p', branch 1.*" + message):
        parallel(a, value, name="p")
    with pytest.raises(errors.WorkflowError, match="Sequence, step 1.*" + message):
        Sequence(a, value)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2", float("inf")])
def test_bad_max_concurrent(value: Any) -> None:
    """max_concurrent is a whole number of at least 1."""
    with pytest.raises(errors.WorkflowError, match="parallel 'p': max_concurrent must be a whole number of at least 1"):
        parallel(a, max_concurrent=value, name="p")
    with pytest.raises(errors.WorkflowError, match="map of node 'a': max_concurrent must be a whole number"):
        a.map(max_concurrent=value)


@pytest.mark.parametrize("value", [0, -1, True, "2", float("inf"), float("nan")])
def test_bad_timeout(value: Any) -> None:
    """A timeout is a number of seconds above 0."""
    with pytest.raises(errors.WorkflowError, match=r"parallel: timeout \(seconds\) must be a finite number above 0"):
        parallel(a, timeout=value)
    with pytest.raises(errors.WorkflowError, match="map of node 'a': timeout"):
        a.map(timeout=value)


@pytest.mark.parametrize(("option", "value"), [("on_error", "ignore"), ("on_error", None), ("on_error", ["cancel"])])
def test_bad_on_error(option: str, value: Any) -> None:
    """on_error is one of two words."""
    arguments = {option: value}
    with pytest.raises(errors.WorkflowError, match="on_error must be 'cancel' or 'collect'"):
        parallel(a, **arguments)
    with pytest.raises(errors.WorkflowError, match="on_error must be 'cancel' or 'collect'"):
        a.map(**arguments)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_bad_optimization_enabled(value: Any) -> None:
    """optimization_enabled is a bool."""
    with pytest.raises(errors.WorkflowError, match="optimization_enabled must be True or False"):
        parallel(a, optimization_enabled=value)


@pytest.mark.parametrize("name", ["", "two words", 3])
def test_bad_names(name: Any) -> None:
    """Names of blocks and sequences are checked."""
    for make in (lambda: parallel(a, name=name), lambda: Sequence(a, name=name), lambda: a.map(name=name)):
        with pytest.raises(errors.WorkflowError, match="name"):
            make()


def test_s6_the_branches_of_a_block() -> None:
    """A block has at most 100 000 branches."""
    many = [a.alias(f"a{i}") for i in range(100_000)]

    assert len(parallel(*many).keys) == 100_000
    with pytest.raises(errors.WorkflowError, match="100001 branches; at most 100000 are allowed"):
        parallel(*many, b)


def test_empty_parallel() -> None:
    """A parallel without branches is legal."""
    assert parallel().keys == ()


@pytest.mark.parametrize(
    ("branch", "key"),
    [
        (a, "a"),
        (a >> b, "b"),
        (a.alias("z"), "z"),
        ((a >> b).alias("z"), "z"),
        (Sequence(a, b, name="s"), "s"),
        (parallel(a, b), "parallel_1"),
        (parallel(a, b, name="p"), "p"),
        (parallel(a, b).alias("p"), "p"),
        (parallel(a, b) >> c, "c"),
        (a >> parallel(a, b), "parallel_1"),
        (a >> Sequence(b, parallel(a, b)), "parallel_1"),
        (a >> parallel(a, b, name="p"), "p"),
        (a.map(), "a"),
        (a.map(name="m"), "m"),
        ((a >> b).map(), "b"),
        (a.map().map(), "a"),
        (parallel(a, b).map(), "map_1"),
        (parallel(a, b, name="p").map(), "p"),
        (a >> parallel(a, b).map(), "map_1"),
        (route.to(a, b), "route"),
        (route.to(a, b).alias("way"), "way"),
        (a >> route.to(a, b), "route"),
        (route, "route"),
    ],
)
def test_result_names(branch: Step, key: str) -> None:
    """A branch is named by its last node, by its own name, or by its place."""
    assert ("first", key) == parallel(c.alias("first"), branch).keys


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ((a, b, a), r"branch 0 \(node 'a'\) and branch 2 \(node 'a'\) would both be named 'a'.*\.alias\('a2'\)"),
        ((a, c >> a), r"branch 0 \(node 'a'\) and branch 1 \(unnamed sequence\) would both be named 'a'"),
        ((a.alias("parallel_1"), parallel(b)), r"branch 1 \(unnamed parallel\) would both be named 'parallel_1'"),
        ((a, a.map()), r"branch 1 \(unnamed map\) would both be named 'a'"),
    ],
)
def test_duplicate_names(branches: tuple[Step, ...], message: str) -> None:
    """Two branches of one name are refused, naming both places and the way to rename."""
    with pytest.raises(errors.WorkflowError, match=message):
        parallel(*branches)


def test_alias_resolves_a_duplicate() -> None:
    """The same node stands in a block twice under two names."""
    assert parallel(a, a.alias("a2")).keys == ("a", "a2")


def test_a_bare_decision_is_given_its_choices_when_placed() -> None:
    """A decision without .to has its choices as soon as it stands in a block."""
    for placed in (Sequence(route).steps[0], parallel(route).branches[0], route.map().body, (a >> route).steps[1]):
        assert {"a": a} == getattr(placed, "choices", None)


# Naming, against a model that is written from the rules: a step is (kind, name, parts).
Plan = tuple[str, str | None, tuple["Plan", ...]]
some_names = st.one_of(st.none(), st.sampled_from("pqrs"))


def _flow_plans(inner: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    parts = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("sequence"), some_names, parts),
        st.tuples(st.just("parallel"), some_names, parts),
        st.tuples(st.just("map"), some_names, inner.map(lambda plan: (plan,))),
    )


nodes = st.tuples(st.just("node"), st.sampled_from("abcd"), st.just(()))
plans: st.SearchStrategy[Plan] = st.recursive(nodes, _flow_plans, max_leaves=8)


def _intrinsic(plan: Plan) -> tuple[str, str | None]:
    """The kind of step that gives the result, and the name that this result has anywhere."""
    kind, name, parts = plan
    if name is not None or kind == "parallel":
        return kind, name
    if kind == "sequence":
        return _intrinsic(parts[-1])
    return "map", _intrinsic(parts[0])[1]


def _expected_key(plan: Plan, position: int) -> str:
    kind, name = _intrinsic(plan)
    return name or f"{kind}_{position}"


def _valid(plan: Plan) -> bool:
    kind, _, parts = plan
    keys = [_expected_key(part, position) for position, part in enumerate(parts)]
    return all(map(_valid, parts)) and (kind != "parallel" or len(set(keys)) == len(keys))


def _build(plan: Plan) -> Step:
    kind, name, parts = plan
    if kind == "node":
        return node(name)(plain)
    steps = [_build(part) for part in parts]
    if kind == "sequence":
        return Sequence(*steps, name=name)
    return parallel(*steps, name=name) if kind == "parallel" else steps[0].map(name=name)


def _blocks(step: spec.StepSpec, plan: Plan) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    found = []
    if isinstance(step, spec.ParallelSpec):
        found.append((step.keys, tuple(_expected_key(part, i) for i, part in enumerate(plan[2]))))
    for child, part in zip(spec.children(step), plan[2], strict=True):
        found += _blocks(child, part)
    return found


@given(plans)
def test_naming_agrees_with_the_model(plan: Plan) -> None:
    """A workflow builds exactly when no block has two branches of one name, and every key is what the rules say."""
    if not _valid(plan):
        with pytest.raises(errors.WorkflowError, match="would both be named"):
            _build(plan)
        return
    described = describe.describe(_build(plan))

    for keys, expected in _blocks(described.spec.root, plan):
        assert expected == keys


@given(plans.filter(_valid))
def test_names_are_the_same_each_time(plan: Plan) -> None:
    """Building one workflow twice gives the same spec."""
    assert describe.describe(_build(plan)).spec == describe.describe(_build(plan)).spec

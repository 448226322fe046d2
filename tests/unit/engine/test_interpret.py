"""Walking a workflow: random specs against a direct evaluation."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from egregore_dist.engine import interpret
from egregore_dist.engine.interpret import Ask, Call, Done, Meet, Value
from egregore_dist.wire import codec
from egregore_dist.workflow import spec

HOME, ELSEWHERE = "home", "elsewhere"
Log = list[tuple[str, spec.Path, int]]


def value(data: Any, block: str | None = None) -> Value:
    return Value(codec.encode(data, where="test"), block)


def weight(data: Any) -> int:
    """A number that any value has."""
    if isinstance(data, dict):
        return sum(weight(key) + 3 * weight(entry) for key, entry in data.items()) % 997
    if isinstance(data, list):
        return sum((place + 2) * weight(entry) for place, entry in enumerate(data)) % 997
    return data if isinstance(data, int) else len(data)


def called(node: spec.NodeSpec, data: Any) -> Any:
    """What the function of a node gives: a number, a list or a mapping."""
    number = (weight(data) * 31 + node.function) % 997
    return {0: number, 1: [number, number + 1], 2: {"a": number, 5: 1}, 3: []}[node.function % 4]


def chosen(decision: spec.DecisionSpec, data: Any) -> int:
    return (weight(data) + decision.node.function) % len(decision.steps)


def as_items(data: Any) -> list[tuple[Any, Any]]:
    return list(data.items()) if isinstance(data, dict) else list(enumerate(data))


def mappable(data: Any) -> Any:
    """The value that a map gets here: a list is made of what is none."""
    return data if isinstance(data, dict | list) else [data]


nodes = st.builds(
    spec.NodeSpec,
    name=st.sampled_from("abc"),
    function=st.integers(0, 40),
    queue=st.sampled_from([None, None, None, HOME, ELSEWHERE]),
)


@pytest.mark.parametrize(
    ("options", "queue", "belongs"),
    [
        ({}, "home@gpus:1", True),
        ({"queue": "home"}, "home@gpus:1", True),
        ({"queue": "other"}, "home@gpus:1", False),
        ({"gpus": 1}, "home", False),
        ({"gpus": 1}, "home@gpus:2", True),
        ({"gpus": 3}, "home@gpus:2", False),
        ({"labels": ("zone=eu",)}, "home@gpus:2", False),
        ({"memory": 2**30}, "home", False),
        ({"memory": 2**25, "cpus": 1.0}, "home", True),
        ({"memory": 2**30}, f"home@memory:{2**30}+zone=eu", True),
        ({"memory": 2**30}, f"home@learned:{2**30}", False),
        ({"memory": 2**30, "cpus": 1.5}, f"home@memory:{2**31}+cpus:1.5", True),
        ({"cpus": 1.0004}, "home@cpus:1.001", True),
        ({"cpus": 2.0}, f"home@memory:{2**31}+cpus:1.5", False),
        ({"memory": 2**80, "queue": "home"}, f"home@memory:{10**15}", True),
        ({"labels": ("zone=eu",)}, "home@disk=ssd+zone=eu", True),
        ({"labels": ("zone=eu",), "queue": "home"}, "home@zone=eu", True),
        ({"labels": ("zone=eu",), "queue": "other"}, "home@zone=eu", False),
    ],
)
def test_what_a_lane_may_call(options: dict[str, Any], queue: str, belongs: bool) -> None:
    """A lane of a queue calls what asks for no other queue, and for nothing that its name does not say."""
    assert interpret.belongs(spec.NodeSpec(name="a", function=0, **options), queue) == belongs


def containers(children: st.SearchStrategy[spec.StepSpec]) -> st.SearchStrategy[spec.StepSpec]:
    some = st.lists(children, min_size=1, max_size=3).map(tuple)
    plain = st.builds(spec.NodeSpec, name=st.just("d"), function=st.integers(0, 40))
    return st.one_of(
        st.builds(spec.SequenceSpec, name=st.just("s"), steps=some),
        st.lists(children, max_size=3).map(
            lambda steps: spec.ParallelSpec(
                name="p", branches=tuple(steps), keys=tuple(f"k{i}" for i in range(len(steps)))
            )
        ),
        st.builds(spec.MapSpec, name=st.just("m"), body=children),
        st.tuples(plain, some).map(
            lambda parts: spec.DecisionSpec(
                name="d", node=parts[0], keys=tuple(f"k{i}" for i in range(len(parts[1]))), steps=parts[1]
            )
        ),
    )


specs = st.recursive(nodes, containers, max_leaves=12)


def evaluated(step: spec.StepSpec, path: spec.Path, data: Any, log: Log) -> Any:
    """What a spec means, said directly."""
    match step:
        case spec.NodeSpec():
            log.append(("call", path, weight(data)))
            return called(step, data)
        case spec.SequenceSpec():
            for position, part in enumerate(step.steps):
                data = evaluated(part, (*path, position), data, log)
            return data
        case spec.DecisionSpec():
            log.append(("ask", path, weight(data)))
            choice = chosen(step, data)
            return evaluated(step.steps[choice], (*path, choice), data, log)
        case spec.ParallelSpec():
            parts = zip(step.keys, step.branches, strict=True)
            return {key: evaluated(part, (*path, i), data, log) for i, (key, part) in enumerate(parts)}
        case spec.MapSpec():
            data = mappable(data)
            results = {key: evaluated(step.body, (*path, 0), item, log) for key, item in as_items(data)}
            return results if isinstance(data, dict) else list(results.values())


def walked(
    root: spec.StepSpec,
    top: spec.Path,
    start: spec.Path,
    data: Any,
    log: Log,
    *,
    entering: bool = True,
    queue: str = HOME,
) -> Any:
    """The same by walking: branch after branch, as lanes do it."""
    walk = interpret.walk(root, top, start, value(data), entering=entering, queue=queue)
    answer: Value | int | None = None
    while True:
        try:
            request = walk.send(answer) if answer is not None else next(walk)
        except StopIteration as stop:
            end = stop.value
            break
        came = codec.decode(request.value.raw)
        log.append(("call" if isinstance(request, Call) else "ask", request.path, weight(came)))
        answer = value(called(request.node, came)) if isinstance(request, Call) else chosen(request.decision, came)
    came = codec.decode(end.value.raw)
    if isinstance(end, Done):
        return came
    result = met(root, end, came, log)
    return walked(root, top, end.path, result, log, entering=False, queue=queue)


def met(root: spec.StepSpec, meet: Meet, data: Any, log: Log) -> Any:
    match meet.step:
        case spec.NodeSpec(queue=queue):
            assert queue is not None
            return walked(root, meet.path, meet.path, data, log, queue=queue)
        case spec.ParallelSpec(keys=keys):
            tops = [interpret.branch_path(meet.step, meet.path, branch) for branch in range(len(keys))]
            return {key: walked(root, top, top, data, log) for key, top in zip(keys, tops, strict=True)}
        case spec.MapSpec():
            data = mappable(data)
            top = interpret.branch_path(meet.step, meet.path, 0)
            results = {key: walked(root, top, top, item, log) for key, item in as_items(data)}
            return results if isinstance(data, dict) else list(results.values())
        case _:
            raise AssertionError(meet)


@hypothesis.given(root=specs, data=st.integers(0, 50))
def test_a_walk_means_what_the_spec_says(root: spec.StepSpec, data: int) -> None:
    """Any nesting, walked branch by branch, calls the same nodes with the same values, and has the same value."""
    expected: Log = []
    actual: Log = []

    assert walked(root, (), (), data, actual) == evaluated(root, (), data, expected)
    assert actual == expected


def node(number: int, queue: str | None = None) -> spec.NodeSpec:
    return spec.NodeSpec(name=f"n{number}", function=number, queue=queue)


def test_an_untouched_input_keeps_its_block() -> None:
    """A block that gets a stored input unchanged is met with the block that stores it: it is not copied."""
    block = spec.ParallelSpec(name="p", branches=(node(1),), keys=("n1",))
    root = spec.SequenceSpec(name="s", steps=(block, node(2)))
    with pytest.raises(StopIteration) as stop:
        next(interpret.walk(root, (), (), value(1, "0"), entering=True, queue=HOME))

    assert stop.value.value == Meet(block, (0,), value(1, "0"))


def test_a_decision_hands_its_input_on() -> None:
    """After the answer the chosen step is entered with the decision's own value."""
    root = spec.DecisionSpec(name="d", node=node(0), keys=("a", "b"), steps=(node(1), node(2)))
    walk = interpret.walk(root, (), (), value(7), entering=True, queue=HOME)

    assert next(walk) == Ask(root, (), value(7))
    assert walk.send(1) == Call(node(2), (1,), value(7))


def test_a_node_of_this_queue_is_called_and_of_another_is_met() -> None:
    """A node that asks for another queue is met as a block of one branch."""
    for queue, kind in ((None, Call), (HOME, Call), (ELSEWHERE, Meet)):
        walk = interpret.walk(node(1, queue), (), (), value(1), entering=True, queue=HOME)
        try:
            found: object = next(walk)
        except StopIteration as stop:
            found = stop.value
        assert isinstance(found, kind)


@hypothesis.given(root=specs)
def test_every_node_is_listed_once(root: spec.StepSpec) -> None:
    """`nodes` lists each node and each decision's function once."""

    def counted(step: spec.StepSpec) -> int:
        own = isinstance(step, spec.NodeSpec | spec.DecisionSpec)
        return own + sum(counted(child) for child in spec.children(step))

    assert len(interpret.nodes(root)) == counted(root)


@hypothesis.given(root=specs)
def test_what_is_plain_meets_no_block(root: spec.StepSpec) -> None:
    """A step is plain when no parallel or map is anywhere in it."""

    def blocks(step: spec.StepSpec) -> bool:
        return isinstance(step, spec.ParallelSpec | spec.MapSpec) or any(map(blocks, spec.children(step)))

    assert interpret.is_plain(root) == (not blocks(root))

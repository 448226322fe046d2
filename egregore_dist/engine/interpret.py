"""Walk a workflow: what is next, given where one stands. No I/O, and no difference between sync and async."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from egregore_dist.resources import needs
from egregore_dist.workflow import spec
from egregore_dist.workflow.limits import Named


@dataclass(frozen=True, slots=True)
class Value:
    """An encoded value. ``block`` is the block whose stored input it is, where it has not been touched since."""

    raw: bytes
    block: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """Call a node. The answer is the `Value` that it returned."""

    node: spec.NodeSpec
    path: spec.Path
    value: Value


@dataclass(frozen=True, slots=True)
class Ask:
    """Call a decision's function. The answer is the position of the step to take."""

    decision: spec.DecisionSpec
    path: spec.Path
    value: Value


@dataclass(frozen=True, slots=True)
class Meet:
    """The walk ends here: a block stands in the way.

    A node that belongs on another queue, or needs what workers of this one may not have, or has a limit, is a block of
    one branch.
    """

    step: spec.BlockSpec | spec.NodeSpec
    path: spec.Path
    value: Value


@dataclass(frozen=True, slots=True)
class Done:
    """The walk ends here: the branch has its value."""

    value: Value


Walk = Generator[Call | Ask, Value | int, Done | Meet]


def walk(
    root: spec.StepSpec,
    top: spec.Path,
    start: spec.Path,
    value: Value,
    *,
    entering: bool,
    queue: str,
    placed: spec.Path | None = None,
) -> Walk:
    """Walk from ``start`` to the end of the branch at ``top``, or to the next block.

    Args:
        top: the path of the branch; everything happens at or below it.
        start: where to begin: a step to enter, or (``entering=False``) a block to go on after, with its value.
        queue: the queue that this lane serves; a node that does not belong there is met as a block.
        placed: where the node is whose limit the branch has a place of; any other that has one is met as a block.
    """
    path = start
    while True:
        if entering:
            step = spec.step_at(root, path)
            match step:
                case spec.SequenceSpec():
                    path += (0,)
                    continue
                case spec.DecisionSpec():
                    choice = yield Ask(step, path, value)
                    assert isinstance(choice, int)
                    path += (choice,)
                    continue
                case spec.ParallelSpec() | spec.MapSpec():
                    return Meet(step, path, value)
                case spec.NodeSpec():
                    # Each branch comes here: most nodes ask for nothing.
                    asks = step.queue or step.labels or step.gpus or step.memory or step.cpus
                    is_elsewhere = asks and not belongs(step, queue)
                    if is_elsewhere or (step.limit is not None and path != placed):
                        return Meet(step, path, value)
                    answer = yield Call(step, path, value)
                    assert isinstance(answer, Value)
                    value = answer
        if path == top:
            return Done(value)
        parent, position = path[:-1], path[-1]
        around = spec.step_at(root, parent)
        entering = isinstance(around, spec.SequenceSpec) and position + 1 < len(around.steps)
        path = (*parent, position + 1) if entering else parent


def branch_path(step: spec.StepSpec, path: spec.Path, branch: int) -> spec.Path:
    """The path of a branch of the block at ``path``."""
    match step:
        case spec.ParallelSpec():
            return (*path, branch)
        case spec.MapSpec():
            return (*path, 0)
        case _:
            return path


def is_plain(step: spec.StepSpec) -> bool:
    """Whether no block can be met inside: then branches may be leased many at a time."""
    return not isinstance(step, spec.ParallelSpec | spec.MapSpec) and all(map(is_plain, spec.children(step)))


def nodes(step: spec.StepSpec) -> list[spec.NodeSpec]:
    """Every node in a step, its own blocks' included, decisions' functions too."""
    own = [step] if isinstance(step, spec.NodeSpec) else []
    if isinstance(step, spec.DecisionSpec):
        own.append(step.node)
    return own + [node for child in spec.children(step) for node in nodes(child)]


def belongs(node: spec.NodeSpec, queue: str) -> bool:
    """Whether lanes of a queue may call a node: it asks for no other, and their workers have all that it needs."""
    memory, cpus = needs.declared(node.memory, node.cpus)
    if not (memory or cpus):
        return is_kin(node, queue)
    here = needs.of(queue)
    return is_kin(node, queue) and memory <= here.memory and cpus <= here.cpus


def is_kin(node: spec.NodeSpec, queue: str) -> bool:
    """The same, whatever memory and cores it needs."""
    if not node.labels and not node.gpus:
        return node.queue in (None, queue) or node.queue == needs.of(queue).queue
    here = needs.of(queue)
    return node.queue in (None, here.queue) and here.labels.issuperset(node.labels) and (node.gpus or 0) <= here.gpus


def head(step: spec.StepSpec) -> spec.StepSpec:
    """The first step that is entered: not a sequence."""
    while isinstance(step, spec.SequenceSpec):
        step = step.steps[0]
    return step


def head_path(step: spec.StepSpec, path: spec.Path) -> spec.Path:
    """Where the head of the step at ``path`` is."""
    while isinstance(step, spec.SequenceSpec):
        step, path = step.steps[0], (*path, 0)
    return path


def head_limit(step: spec.StepSpec) -> Named | None:
    """The limit of the node that a step begins with."""
    first = head(step)
    return first.limit if isinstance(first, spec.NodeSpec) else None

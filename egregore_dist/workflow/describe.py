"""From steps to a spec: a workflow as plain data, with its functions beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from egregore_dist import errors
from egregore_dist.workflow import hints, resolvable, spec
from egregore_dist.workflow.decision import Decision
from egregore_dist.workflow.limits import Named
from egregore_dist.workflow.nodes import Node
from egregore_dist.workflow.parallel import Map, Parallel
from egregore_dist.workflow.sequence import Sequence
from egregore_dist.workflow.step import Step, label

_NAME_LIMIT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A workflow, ready to be stored and shipped.

    Attributes:
        spec: the workflow as data.
        functions: its functions; a `NodeSpec` names one by its index.
        heads: name and function of the nodes that get the run's input, each function once.
        maps: the maps that get the run's input, as messages call them.
        encoded: the spec as it is stored with a run.
        has_needs: whether a node was declared to need memory or cores.
        queues: the queues that nodes ask for.
    """

    spec: spec.WorkflowSpec
    functions: tuple[Callable[..., Any], ...]
    heads: tuple[tuple[str, Callable[..., Any]], ...]
    maps: tuple[str, ...]
    encoded: bytes
    has_needs: bool
    queues: frozenset[str]


class Value(msgspec.Struct, frozen=True):
    """A result of one type: the annotation of the node that returns it, or ``Any``, and the name of that node."""

    annotation: Any
    node: str | None = None


class Fields(msgspec.Struct, frozen=True):
    """A dict with known keys: the result of a parallel."""

    fields: Mapping[str, ResultType]


class Items(msgspec.Struct, frozen=True):
    """A list or a dict of results of one type: the result of a map."""

    item: ResultType


ResultType = Value | Fields | Items


def describe(step: Step) -> Described:
    """Describe a workflow; what was found is remembered with the step.

    Raises:
        WorkflowError: a decision in it has no choices, two nodes have different limits of one name, or an annotation
            of a node cannot be resolved.
    """
    described: Described | None = vars(step).get("_described")
    if described is None:
        described = _describe(step.placed())
        # Steps never change, so what is remembered is the one thing that may be added to one.
        vars(step)["_described"] = described
    return described


def result_type(step: Step) -> ResultType:
    """How the value of ``step`` may be typed; remembered with the step for as long as its annotations mean the same."""
    remembered: _Remembered | None = vars(step).get("_result_type")
    if remembered is not None and remembered.still_holds():
        return remembered.type
    known: dict[int, _Returns] = {}
    found = _result_type(step, known)
    vars(step)["_result_type"] = _Remembered(tuple(known.values()), found)
    return found


class _Returns(NamedTuple):
    """What a function is said to return."""

    fn: Callable[..., Any]
    annotation: Any

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> _Returns:
        annotation = hints.hints_of(fn).get("return", Any)
        return cls(fn, Any if isinstance(annotation, str) else annotation)


class _Remembered(NamedTuple):
    of: tuple[_Returns, ...]
    type: ResultType

    def still_holds(self) -> bool:
        # What an annotation names may be defined later, or anew, as in a notebook.
        return all(_Returns.of(each.fn).annotation == each.annotation for each in self.of)


def _result_type(step: Step, known: dict[int, _Returns]) -> ResultType:
    match step:
        case Node():
            # Thousands of branches may share one function, and annotations are slow to resolve.
            if id(step.fn) not in known:
                known[id(step.fn)] = _Returns.of(step.fn)
            return Value(known[id(step.fn)].annotation, step.name)
        case Sequence():
            return _result_type(step.steps[-1], known)
        case Parallel():
            pairs = zip(step.keys, step.branches, strict=True)
            return Fields({key: _result_type(branch, known) for key, branch in pairs})
        case Map():
            return Items(_result_type(step.body, known))
        case _:
            return Value(Any)


def _describe(root: Step) -> Described:
    compiler = _Compiler()
    compiled = compiler.compile(root, root.kind)
    name = compiled.name
    if isinstance(root, Sequence) and root.name is None and isinstance(compiled, spec.SequenceSpec):
        name = "-".join(step.name for step in compiled.steps)[:_NAME_LIMIT]
    for last in {id(step.fn): step for step in _last(root)}.values():
        resolvable.check(last.fn, label(last), final=True, returns=True)
    heads: dict[int, tuple[str, Callable[..., Any]]] = {}
    for head_name, function in _heads(root):
        heads.setdefault(id(function), (head_name, function))
    workflow = spec.WorkflowSpec(name=name, root=compiled)
    return Described(
        spec=workflow,
        functions=tuple(compiler.functions),
        heads=tuple(heads.values()),
        maps=tuple(_head_maps(root, compiled)),
        encoded=spec.encode(workflow),
        has_needs=compiler.has_needs,
        queues=frozenset(compiler.queues),
    )


class _Compiler:
    """Makes specs of steps, and collects their functions."""

    def __init__(self) -> None:
        self.functions: list[Callable[..., Any]] = []
        self.has_needs = False
        self.queues: set[str] = set()
        self._indexes: dict[int, int] = {}
        self._limits: dict[str, tuple[str, Named]] = {}

    def compile(self, step: Step, name: str) -> spec.StepSpec:
        """The spec of ``step``; ``name`` is for a step that has none of its own."""
        match step:
            case Node():
                return self._node(step)
            case Sequence():
                return spec.SequenceSpec(name=step.name or name, steps=self._compile_all(step.steps))
            case Parallel():
                return self._parallel(step, name)
            case Map():
                return self._map(step, name)
            case Decision():
                return self._decision(step)
        raise TypeError(f"no spec for {type(step).__name__}")

    def _compile_all(self, steps: tuple[Step, ...]) -> tuple[spec.StepSpec, ...]:
        return tuple([self.compile(step, f"{step.kind}_{position}") for position, step in enumerate(steps)])

    def _node(self, node: Node[..., Any]) -> spec.NodeSpec:
        options = node.options
        sizes = (options.memory, options.cpus, options.gpus)
        self.has_needs |= bool(options.labels) or any(size is not None for size in sizes)
        if options.queue is not None:
            self.queues.add(options.queue)
        return spec.NodeSpec(
            name=node.name,
            function=self._index(node),
            retries=options.retries,
            retry_on=options.retry_on,
            retry_delay=options.retry_delay,
            timeout=options.timeout,
            memory=options.memory,
            cpus=options.cpus,
            gpus=options.gpus,
            labels=options.labels,
            queue=options.queue,
            is_async=node.is_async,
            io=options.io,
            limit=self._limit(node.name, options.limit),
        )

    def _limit(self, node: str, limit: Named | None) -> Named | None:
        if limit is None:
            return None
        first_node, first = self._limits.setdefault(limit.name, (node, limit))
        if (first.rule, first.key) != (limit.rule, limit.key):
            raise errors.WorkflowError(
                f"node {first_node!r} and node {node!r} have different limits of one name, {limit.name!r}: "
                "give both the same, or one another name=..."
            )
        return limit

    def _parallel(self, step: Parallel, name: str) -> spec.ParallelSpec:
        limits = step.limits
        return spec.ParallelSpec(
            name=step.name or name,
            branches=self._compile_all(step.branches),
            keys=step.keys,
            max_concurrent=limits.max_concurrent,
            timeout=limits.timeout,
            optimize=limits.optimize,
            on_error=limits.on_error,
        )

    def _map(self, step: Map, name: str) -> spec.MapSpec:
        limits = step.limits
        return spec.MapSpec(
            name=step.own_name or name,
            body=self._compile_all((step.body,))[0],
            max_concurrent=limits.max_concurrent,
            timeout=limits.timeout,
            optimize=limits.optimize,
            on_error=limits.on_error,
        )

    def _decision(self, step: Decision[..., Any]) -> spec.DecisionSpec:
        choices = step.choices or {}
        return spec.DecisionSpec(
            name=step.name,
            node=spec.NodeSpec(name=step.name, function=self._index(step), is_async=step.is_async),
            keys=tuple(choices),
            # An answer is the best name that a choice without one can have.
            steps=tuple([self.compile(choice, answer) for answer, choice in choices.items()]),
        )

    def _index(self, step: Node[..., Any] | Decision[..., Any]) -> int:
        index = self._indexes.setdefault(id(step.fn), len(self.functions))
        if index == len(self.functions):
            resolvable.check(step.fn, label(step), final=True, returns=isinstance(step, Decision))
            self.functions.append(step.fn)
        return index


def _head_maps(step: Step, compiled: spec.StepSpec) -> Iterator[str]:
    match step, compiled:
        case Map(), spec.MapSpec():
            yield compiled.name
        case Sequence(), spec.SequenceSpec():
            yield from _head_maps(step.steps[0], compiled.steps[0])
        case Parallel(), spec.ParallelSpec():
            for branch, its in zip(step.branches, compiled.branches, strict=True):
                yield from _head_maps(branch, its)


def _last(step: Step) -> Iterator[Node[..., Any]]:
    """The nodes whose values are in the result, as they are typed there."""
    match step:
        case Node():
            yield step
        case Sequence():
            yield from _last(step.steps[-1])
        case Parallel():
            for branch in step.branches:
                yield from _last(branch)
        case Map():
            yield from _last(step.body)


def _heads(step: Step) -> Iterator[tuple[str, Callable[..., Any]]]:
    match step:
        case Node() | Decision():
            yield step.name, step.fn
        case Sequence():
            yield from _heads(step.steps[0])
        case Parallel():
            for branch in step.branches:
                yield from _heads(branch)

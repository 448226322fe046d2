"""A workflow as data: plain tagged structs, no code.

A *path* is the way from the root of a spec to one of its steps: a tuple of child positions.
Functions are named by their index in the workflow's table of functions, which travels beside the spec.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from egregore_dist import errors
from egregore_dist.workflow.limits import Named

VERSION = 1

DEPTH = 64
"""How many steps of a spec may stand inside each other: more than a workflow can nest."""

STEPS = 200_000
"""How many steps a spec may have: two blocks of as many branches as a block may have."""

LARGEST = 16 * 2**20
"""The largest spec, in bytes. Decoding it takes at most some twenty times as much memory."""

OnError = Literal["cancel", "collect"]
Path = tuple[int, ...]


class NodeSpec(msgspec.Struct, frozen=True, tag="node", omit_defaults=True):
    """A user's function with a name and options. ``memory`` in bytes, ``timeout`` and ``retry_delay`` in seconds.

    ``retry_on`` has names of classes: no code is needed to see whether an exception is one of them. ``labels`` are
    ``key=value``.
    """

    name: str
    function: int
    retries: int = 0
    retry_on: tuple[str, ...] | None = None
    retry_delay: float = 0.1
    timeout: float | None = None
    memory: int | None = None
    cpus: float | None = None
    gpus: int | None = None
    labels: tuple[str, ...] = ()
    queue: str | None = None
    is_async: bool = False
    io: bool = False
    limit: Named | None = None


class SequenceSpec(msgspec.Struct, frozen=True, tag="sequence", omit_defaults=True):
    """Steps one after the other, each fed with the value of the one before."""

    name: str
    steps: tuple[StepSpec, ...]


class ParallelSpec(msgspec.Struct, frozen=True, tag="parallel", omit_defaults=True):
    """Branches that run at once on one input; ``keys`` are their names, in the same order."""

    name: str
    branches: tuple[StepSpec, ...]
    keys: tuple[str, ...]
    max_concurrent: int | None = None
    timeout: float | None = None
    optimize: bool = True
    on_error: OnError = "cancel"


class MapSpec(msgspec.Struct, frozen=True, tag="map", omit_defaults=True):
    """One branch per item of the incoming list or mapping, each running ``body``."""

    name: str
    body: StepSpec
    max_concurrent: int | None = None
    timeout: float | None = None
    optimize: bool = True
    on_error: OnError = "cancel"


class DecisionSpec(msgspec.Struct, frozen=True, tag="decision", omit_defaults=True):
    """A function whose answer is a key of ``keys``; the step at the same place gets the decision's own input."""

    name: str
    node: NodeSpec
    keys: tuple[str, ...]
    steps: tuple[StepSpec, ...]


StepSpec = NodeSpec | SequenceSpec | ParallelSpec | MapSpec | DecisionSpec
BlockSpec = ParallelSpec | MapSpec


class WorkflowSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole workflow, as it is stored with each of its runs."""

    name: str
    root: StepSpec
    version: int = VERSION


def children(step: StepSpec) -> tuple[StepSpec, ...]:
    """The steps directly inside ``step``; a map has one, its body."""
    match step:
        case SequenceSpec() | DecisionSpec():
            return step.steps
        case ParallelSpec():
            return step.branches
        case MapSpec():
            return (step.body,)
        case NodeSpec():
            return ()


def blocks(step: StepSpec, path: Path = ()) -> Iterator[tuple[Path, BlockSpec]]:
    """Every block in ``step``, outer ones first, with the path that leads to it."""
    if isinstance(step, ParallelSpec | MapSpec):
        yield path, step
    for position, inner in enumerate(children(step)):
        yield from blocks(inner, (*path, position))


def step_at(root: StepSpec, path: Path) -> StepSpec:
    """The step that ``path`` leads to."""
    for position in path:
        root = children(root)[position]
    return root


def encode(workflow: WorkflowSpec) -> bytes:
    """The spec as MessagePack.

    Raises:
        WorkflowError: it is larger than `decode` reads.
    """
    raw = msgspec.msgpack.encode(workflow)
    excess = _excess(workflow.root) if len(raw) <= LARGEST else f"{LARGEST} bytes, and this one has {len(raw)}"
    if excess is not None:
        raise errors.WorkflowError(
            f"workflow {workflow.name!r} is too large: a workflow has at most {excess}. Use .map() where many branches "
            "run the same node, or split it into several workflows"
        )
    return raw


def decode(raw: bytes) -> WorkflowSpec:
    """The spec that ``raw`` holds.

    Raises:
        msgspec.MsgspecError: it holds none, or one that is larger, or nested deeper, than a workflow may be.
    """
    if len(raw) > LARGEST:
        raise msgspec.ValidationError(f"a workflow has at most {LARGEST} bytes, and this one has {len(raw)}")
    try:
        workflow = msgspec.msgpack.decode(raw, type=WorkflowSpec)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(f"not a workflow: {error}") from None
    excess = _excess(workflow.root)
    if excess is not None:
        raise msgspec.ValidationError(f"a workflow has at most {excess}")
    return workflow


def _excess(root: StepSpec) -> str | None:
    """The limit of steps that a workflow with this root passes, or None."""
    level, steps = [root], 0
    for _ in range(DEPTH):
        steps += len(level)
        if steps > STEPS:
            return f"{STEPS} steps"
        level = [child for step in level for child in children(step)]
        if not level:
            return None
    return f"{DEPTH} steps inside each other"

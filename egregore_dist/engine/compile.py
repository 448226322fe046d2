"""Compile a block: how it is opened in the ledger, and the Celery chord that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery import Celery, chord, group
from celery.canvas import Signature

from egregore_dist.engine import app as apps
from egregore_dist.engine import interpret
from egregore_dist.engine.interpret import Meet
from egregore_dist.ledger import NewBlock, Track
from egregore_dist.ledger.keys import child
from egregore_dist.resources import router
from egregore_dist.resources.report import Report
from egregore_dist.settings import Settings
from egregore_dist.workflow import spec


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes branches one track: where they may run, and whether many can run on one event loop."""

    queue: str
    wide: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The branches of one track, and what the largest of them was declared to need (bytes, cores)."""

    kind: Kind
    branches: tuple[int, ...]
    memory: int | None
    cpus: float | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the spec alone says about a block. ``batched``: its branches may be leased many at a time."""

    parts: tuple[Part, ...]
    optimize: bool
    batched: bool


def shape(step: spec.StepSpec, default_queue: str) -> Shape:
    """The shape of a block; it costs a look at every branch, so it is worth keeping."""
    optimize = step.optimize if isinstance(step, spec.ParallelSpec | spec.MapSpec) else True
    roots: tuple[spec.StepSpec, ...] = (step,)
    if isinstance(step, spec.ParallelSpec):
        roots = step.branches
    elif isinstance(step, spec.MapSpec):
        roots = (step.body,)
    members: dict[Kind, list[int]] = {}
    for branch, root in enumerate(roots):
        members.setdefault(_kind(root, default_queue, optimize), []).append(branch)
    batched = optimize and all(_stays(root, queue_of(root, default_queue)) for root in roots)
    return Shape(tuple(_part(kind, branches, roots) for kind, branches in members.items()), optimize, batched)


def new_block(
    meet: Meet,
    form: Shape,
    *,
    parent: str,
    branch: int,
    n: int,
    settings: Settings,
    reports: Sequence[Report],
) -> NewBlock:
    """Plan a block that a branch has met.

    Args:
        meet: the block's step, its path and its input.
        form: the step's shape.
        parent: the block that the branch belongs to.
        n: how many branches it has.
        reports: of the live workers.
    """
    step = meet.step
    limits = step if isinstance(step, spec.ParallelSpec | spec.MapSpec) else None
    return NewBlock(
        id=child(parent, branch, meet.path),
        name=step.name,
        path=meet.path,
        n=n,
        limit=(limits.max_concurrent or 0) if limits else 0,
        timeout=(limits.timeout or 0.0) if limits else 0.0,
        on_error=limits.on_error if limits else "cancel",
        input=meet.value.block or meet.value.raw,
        tracks=_tracks(form, step, n, settings, reports),
    )


def compile_block(app: Celery, run: str, block: NewBlock, *, parent_queue: str, here: bool) -> Signature | None:
    """``chord(group(lane x L), collect)`` for a block, or None where no message is needed.

    Args:
        parent_queue: where the branch goes on after the block.
        here: whether the process that opened the block serves it as one of its lanes.
    """
    expires = block.timeout or None
    lanes = []
    for track, kind in enumerate(block.tracks):
        count = kind.lanes - (1 if here and track == 0 else 0)
        lanes += [lane(app, run, block.id, track, kind.queue, name=block.name, expires=expires) for _ in range(count)]
    if not lanes:
        return None
    body = collect(app, run, block.id, parent_queue, name=block.name)
    return chord(group(lanes, app=app), body, app=app)


def lane(
    app: Celery, run: str, block: str, track: int, queue: str, *, name: str = "", expires: float | None = None
) -> Signature:
    """The message that asks a worker to serve a block; Celery's tools show it as ``lane <block>`` of its run."""
    signature = _message(app, apps.LANE, (run, block, track), queue, f"lane {name or block}")
    return signature if expires is None else signature.set(expires=expires)


def collect(app: Celery, run: str, block: str, queue: str, *, name: str = "") -> Signature:
    """The chord's callback: carry the run on after a complete block."""
    return _message(app, apps.COLLECT, (run, block), queue, f"collect {name or block}")


def advance(app: Celery, run: str, queue: str, *, name: str) -> Signature:
    """The message that starts a run."""
    return _message(app, apps.ADVANCE, (run,), queue, f"advance {name}")


def _message(app: Celery, task: str, ids: tuple[str | int, ...], queue: str, shown: str) -> Signature:
    # A client has no tasks registered, so that nobody listens for a result has to be said here.
    # The run is among the arguments and not in the name: Celery and its exporters count tasks by name, for ever.
    described = f"(run {ids[0]}{f', block {ids[1]}' if len(ids) > 1 else ''})"
    options = {"queue": queue, "shadow": shown, "argsrepr": described, "ignore_result": True}
    return app.signature(task, args=ids, immutable=True, options=options)


def queue_of(step: spec.StepSpec, default: str) -> str:
    """The queue of the lanes that may start a step: what its first node asks for."""
    first = interpret.head(step)
    return (first.queue if isinstance(first, spec.NodeSpec) else None) or default


def _tracks(
    form: Shape, step: spec.BlockSpec | spec.NodeSpec, n: int, settings: Settings, reports: Sequence[Report]
) -> tuple[Track, ...]:
    limit = None if isinstance(step, spec.NodeSpec) else step.max_concurrent
    tracks = []
    for part in form.parts:
        count = len(part.branches) if len(form.parts) > 1 else n
        plan = router.plan(
            count,
            max_concurrent=limit,
            reports=[report for report in reports if part.kind.queue in report.queues],
            memory_per_node=part.memory,
            cpus=part.cpus,
        )
        tracks.append(
            Track(
                queue=part.kind.queue,
                width=settings.async_width if part.kind.wide else 1,
                lanes=plan.lanes if form.optimize else plan.wanted,
                count=count,
                branches=part.branches if len(form.parts) > 1 else None,
            )
        )
    return tuple(tracks)


def _part(kind: Kind, branches: Sequence[int], roots: Sequence[spec.StepSpec]) -> Part:
    inside = [node for branch in branches for node in interpret.nodes(roots[branch])]
    return Part(
        kind=kind,
        branches=tuple(branches),
        memory=max((node.memory or 0 for node in inside), default=0) or None,
        cpus=max((node.cpus or 0.0 for node in inside), default=0.0) or None,
    )


def _kind(root: spec.StepSpec, default_queue: str, optimize: bool) -> Kind:
    queue = queue_of(root, default_queue)
    wide = optimize and _stays(root, queue) and all(node.is_async for node in interpret.nodes(root))
    return Kind(queue, wide)


def _stays(root: spec.StepSpec, queue: str) -> bool:
    # Nothing on the way parks the branch: no block, and no node of another queue.
    return interpret.is_plain(root) and all(node.queue in (None, queue) for node in interpret.nodes(root))

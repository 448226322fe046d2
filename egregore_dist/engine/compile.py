"""Compile a block: how it is opened in the ledger, and the Celery chord that serves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from celery import Celery, chord, group
from celery.canvas import Signature

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.engine import interpret, limited
from egregore_dist.engine.interpret import Meet
from egregore_dist.ledger import FailedCall, NewBlock, Track
from egregore_dist.ledger.keys import child
from egregore_dist.resources import chains, needs, router
from egregore_dist.resources.chains import Chain, Choice
from egregore_dist.resources.profile import Learned
from egregore_dist.settings import Settings
from egregore_dist.workflow import spec
from egregore_dist.workflow.limits import Named

# What is known of branches that execute these functions, by their index: so many of each.
Knows = Callable[[Mapping[Chain[int], int]], Learned | None]

# Functions of one track that are looked up at most: more of them are not planned with.
_MOST_FUNCTIONS = 64


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes branches one track.

    Attributes:
        queue: where they may run.
        wide: many of them can run on one event loop.
        limit: that of the node that they begin with: it can be leased with its place.
        io: many of them can run on threads of one process, as each sync node in them declares.
    """

    queue: str
    wide: bool
    limit: Named | None = None
    io: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The branches of one track, and what the neediest was declared to need (bytes, cores).

    ``chains``: how many branches execute these functions; empty where those are too many.
    """

    kind: Kind
    branches: tuple[int, ...]
    memory: int | None
    cpus: float | None
    chains: Mapping[Chain[int], int] = field(default_factory=dict)


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
    alike: dict[Hashable, list[int]] = {}
    for branch, root in enumerate(roots):
        alike.setdefault(_likeness(root, branch), []).append(branch)
    # Of branches that are alike one is looked at: a large block has many of few kinds.
    members: dict[Kind, list[list[int]]] = {}
    batched = optimize
    for branches in alike.values():
        root = roots[branches[0]]
        members.setdefault(_kind(root, default_queue, optimize), []).append(branches)
        batched = batched and stays(root, branch_queue(root, default_queue))
    return Shape(tuple(_part(kind, groups, roots) for kind, groups in members.items()), optimize, batched)


def _likeness(root: spec.StepSpec, branch: int) -> Hashable:
    # All that a shape is made of, so not the name.
    if not isinstance(root, spec.NodeSpec):
        return branch
    declared = (root.queue, root.labels, root.gpus, root.memory, root.cpus, root.io, root.limit)
    return root.function, root.is_async, declared


def new_block(
    meet: Meet,
    form: Shape,
    *,
    parent: str,
    branch: int,
    n: int,
    settings: Settings,
    cluster: router.Cluster,
    knows: Knows | None = None,
    since: float = 0.0,
    calls: tuple[FailedCall, ...] = (),
) -> NewBlock:
    """Plan a block that a branch has met.

    Args:
        meet: the block's step, its path and its input.
        form: the step's shape.
        parent: the block that the branch belongs to.
        n: how many branches it has.
        cluster: the live workers.
        knows: what is known of the executions of branches.
        since: for how many seconds the branch has been executed.
        calls: that failed meanwhile.

    Raises:
        errors.WorkflowError: a branch needs more than the largest worker of its queue has.
    """
    step = meet.step
    for part in form.parts:
        # The one worker that has a label may be away for a moment: where the run goes on already, it is waited for.
        workers, _ = cluster.of(frozenset((needs.without_sizes(part.kind.queue),)))
        if workers:
            _refuse_misfit(cluster, f"a branch of {step.name!r}", part.kind.queue, part.memory, part.cpus)
    limits = step if isinstance(step, spec.ParallelSpec | spec.MapSpec) else None
    form, buckets = _buckets(form, step, meet.value.raw)
    return NewBlock(
        id=child(parent, branch, meet.path),
        name=step.name,
        path=meet.path,
        n=n,
        limit=(limits.max_concurrent or 0) if limits else 0,
        timeout=(limits.timeout or 0.0) if limits else 0.0,
        on_error=limits.on_error if limits else "cancel",
        input=meet.value.block or meet.value.raw,
        tracks=_tracks(form, plan(step, form, n, settings=settings, cluster=cluster, knows=knows), buckets),
        since=since,
        calls=calls,
    )


def compile_block(
    app: Celery,
    run: str,
    block: NewBlock,
    *,
    parent_queue: str,
    here: bool,
    left: float | None = None,
    created: int = 0,
) -> Signature | None:
    """``chord(group(lane x L), collect)`` for a block, or None where no message is needed.

    Args:
        parent_queue: where the branch goes on after the block.
        here: whether the process that opened the block serves it as one of its lanes.
        left: seconds until the first deadline of the blocks around it. Its lanes expire then, or at its own.
        created: when the run was submitted, as for `lane`.
    """
    expires = min((each for each in (block.timeout or None, left) if each is not None), default=None)
    lanes = []
    for track, kind in enumerate(block.tracks):
        count = kind.lanes - (1 if here and track == 0 else 0)
        lanes += [
            lane(app, run, block.id, track, kind.queue, name=block.name, expires=expires, created=created)
            for _ in range(count)
        ]
    if not lanes:
        return None
    body = collect(app, run, block.id, parent_queue, name=block.name, created=created)
    return chord(group(lanes, app=app), body, app=app)


def lane(
    app: Celery,
    run: str,
    block: str,
    track: int,
    queue: str,
    *,
    name: str = "",
    expires: float | None = None,
    created: int = 0,
) -> Signature:
    """The message that asks a worker to serve a block; Celery's tools show it as ``lane <block>`` of its run.

    Args:
        created: when the run was submitted, in server milliseconds: the message asks for nothing of one that has its id
            since. 0 where that is not known.
    """
    signature = _message(app, apps.LANE, (run, block, track, created), queue, f"lane {name or block}")
    return signature if expires is None else signature.set(expires=expires)


def collect(app: Celery, run: str, block: str, queue: str, *, name: str = "", created: int = 0) -> Signature:
    """The chord's callback: carry the run on after a complete block."""
    return _message(app, apps.COLLECT, (run, block, created), queue, f"collect {name or block}")


def advance(app: Celery, run: str, queue: str, *, name: str, created: int = 0) -> Signature:
    """The message that starts a run."""
    return _message(app, apps.ADVANCE, (run, created), queue, f"advance {name}")


def _message(app: Celery, task: str, ids: tuple[str | int, ...], queue: str, shown: str) -> Signature:
    # A client has no tasks registered, so that nobody listens for a result has to be said here.
    # The run is among the arguments and not in the name: Celery and its exporters count tasks by name, for ever.
    described = f"(run {ids[0]}{f', block {ids[1]}' if len(ids) > 2 else ''})"
    options = {"queue": queue, "shadow": shown, "argsrepr": described, "ignore_result": True}
    return app.signature(task, args=ids, immutable=True, options=options)


def queue_of(step: spec.StepSpec, default: str) -> str:
    """The queue of the lanes that may start a step: what its first node asks for, and needs of a worker."""
    first = interpret.head(step)
    return _own_queue(first, default) if isinstance(first, spec.NodeSpec) else default


def _own_queue(node: spec.NodeSpec, default: str) -> str:
    memory, cpus = needs.declared(node.memory, node.cpus)
    return needs.queue(node.queue or default, labels=node.labels, gpus=node.gpus or 0, memory=memory, cpus=cpus)


def branch_queue(step: spec.StepSpec, default: str) -> str:
    """The queue of the lanes that serve a branch: that of its first node, with the memory and cores of the neediest."""
    queue = queue_of(step, default)
    sizes = [needs.declared(node.memory, node.cpus) for node in _own(step) if interpret.is_kin(node, queue)]
    most = [max(each) for each in zip(*sizes, strict=True)]
    return needs.with_declared(queue, *most) if any(most) else queue


def plan(
    step: spec.BlockSpec | spec.NodeSpec,
    form: Shape,
    n: int,
    *,
    settings: Settings,
    cluster: router.Cluster,
    knows: Knows | None = None,
) -> router.Plan:
    """Decide how a block of ``n`` branches is served; tracks are in the order of its shape's parts."""
    is_one = len(form.parts) == 1
    demands = [
        router.Demand(
            queue=part.kind.queue,
            branches=n if is_one else len(part.branches),
            is_async=part.kind.wide,
            batched=form.batched,
            limited=part.kind.limit is not None,
            memory=part.memory,
            cpus=part.cpus,
            io=part.kind.io,
            learned=knows(part.chains) if knows is not None and part.chains else None,
        )
        for part in form.parts
    ]
    return router.plan(
        demands,
        cluster,
        max_concurrent=None if isinstance(step, spec.NodeSpec) else step.max_concurrent,
        optimize=form.optimize,
        widths=router.Widths(loop=settings.async_width, threads=settings.thread_width),
    )


def refuse_misfits(root: spec.StepSpec, default_queue: str, cluster: router.Cluster) -> None:
    """Refuse a workflow with a node that needs what no worker of its queue has, where there are live ones.

    Raises:
        errors.WorkflowError: names the node, what it needs, and what the worker has that comes nearest.
    """
    for node, queue in _placed(root, queue_of(root, default_queue), default_queue):
        its_queue = queue if interpret.belongs(node, queue) else _own_queue(node, needs.of(queue).queue)
        _refuse_misfit(cluster, f"node {node.name!r}", its_queue, node.memory, node.cpus)


def _placed(step: spec.StepSpec, queue: str, default: str) -> Iterator[tuple[spec.NodeSpec, str]]:
    # Every node, with the queue of the lanes that come to it.
    if isinstance(step, spec.NodeSpec):
        yield step, queue
    is_block = isinstance(step, spec.ParallelSpec | spec.MapSpec)
    for inner in spec.children(step):
        yield from _placed(inner, branch_queue(inner, default) if is_block else queue, default)


def _refuse_misfit(cluster: router.Cluster, what: str, queue: str, memory: int | None, cpus: float | None) -> None:
    if memory is not None or cpus is not None or needs.is_derived(queue):
        why = router.misfit(cluster, queue, memory=memory, cpus=cpus)
        if why is not None:
            raise errors.WorkflowError(f"{what} {why}")


# Of a part of a block, the buckets of its limit with their branches.
Buckets = Mapping[str, tuple[int, ...]]


def _buckets(form: Shape, step: spec.BlockSpec | spec.NodeSpec, raw: bytes) -> tuple[Shape, list[Buckets]]:
    # A map whose limit has very many values: its branches are leased without a place, and wait where they need one.
    parts, found = [], []
    for part in form.parts:
        limit = part.kind.limit
        buckets = {} if limit is None else limited.buckets(limit, step, raw)
        if len(buckets) > limited.APART:
            part, buckets = replace(part, kind=Kind(part.kind.queue, False)), {}
            form = replace(form, batched=False)
        parts.append(part)
        found.append(buckets)
    return replace(form, parts=tuple(parts)), found


def _tracks(form: Shape, planned: router.Plan, buckets: Sequence[Buckets]) -> tuple[Track, ...]:
    # The first track of each part is in the part's place.
    tracks, more = [], []
    for part, plan, own in zip(form.parts, planned.tracks, buckets, strict=True):
        track = Track(
            queue=plan.queue,
            width=plan.width,
            lanes=plan.lanes,
            count=plan.branches,
            branches=part.branches if len(form.parts) > 1 else None,
        )
        apart = [_limited_to(track, part.kind.limit, bucket, branches) for bucket, branches in own.items()] or [track]
        tracks.append(apart[0])
        more += apart[1:]
    return (*tracks, *more)


def _limited_to(track: Track, limit: Named | None, bucket: str, branches: tuple[int, ...]) -> Track:
    assert limit is not None
    name = limited.named(limit, bucket)
    if not branches or len(branches) == track.count:
        return replace(track, limit=name)
    lanes = max(1, round(track.lanes * len(branches) / track.count))
    return replace(track, limit=name, lanes=lanes, count=len(branches), branches=branches)


def _part(kind: Kind, groups: Sequence[Sequence[int]], roots: Sequence[spec.StepSpec]) -> Part:
    # What another block executes, or a lane of another queue, is planned there.
    every = [node for branches in groups for node in _own(roots[branches[0]]) if interpret.belongs(node, kind.queue)]
    found: Counter[Chain[int]] = Counter()
    for branches in groups:
        found[chain_of(roots[branches[0]], kind.queue)] += len(branches)
    is_known = 0 < len({at for chain in found for at in chains.functions(chain)}) <= _MOST_FUNCTIONS and () not in found
    return Part(
        kind=kind,
        branches=tuple(sorted(branch for branches in groups for branch in branches)),
        memory=max((node.memory or 0 for node in every), default=0) or None,
        cpus=max((node.cpus or 0.0 for node in every), default=0.0) or None,
        chains=dict(found) if is_known else {},
    )


def _own(step: spec.StepSpec) -> Iterator[spec.NodeSpec]:
    # The nodes that are met before any block, decisions' functions too.
    if isinstance(step, spec.NodeSpec):
        yield step
    elif isinstance(step, spec.DecisionSpec):
        yield step.node
    if not isinstance(step, spec.ParallelSpec | spec.MapSpec):
        for inner in spec.children(step):
            yield from _own(inner)


def chain_of(step: spec.StepSpec, queue: str) -> Chain[int]:
    """What the lanes of a queue execute of a branch, before any block."""
    if isinstance(step, spec.NodeSpec):
        return (step.function,) if interpret.belongs(step, queue) else ()
    if isinstance(step, spec.ParallelSpec | spec.MapSpec):
        return ()
    parts = tuple(chain_of(inner, queue) for inner in spec.children(step))
    if isinstance(step, spec.DecisionSpec):
        return (*chain_of(step.node, queue), *([Choice(parts)] if any(parts) else []))
    return tuple(link for part in parts for link in part)


def _kind(root: spec.StepSpec, default_queue: str, optimize: bool) -> Kind:
    queue = branch_queue(root, default_queue)
    sync = [node for node in interpret.nodes(root) if not node.is_async]
    shares = optimize and stays(root, queue) and all(node.io for node in sync)
    return Kind(queue, wide=shares and not sync, limit=interpret.head_limit(root), io=shares and bool(sync))


def stays(root: spec.StepSpec, queue: str) -> bool:
    """Whether nothing on the way parks a branch: no block, no node that belongs elsewhere or waits for a limit."""
    first = interpret.head(root)
    return interpret.is_plain(root) and all(
        interpret.belongs(node, queue) and (node.limit is None or node is first) for node in interpret.nodes(root)
    )

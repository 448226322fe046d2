"""How blocks would be served now: the decision of the router, with every number that it came from."""

from __future__ import annotations

from dataclasses import dataclass

from egregore_dist.client import advice, amounts
from egregore_dist.client.session import Session
from egregore_dist.engine import compile as compiler
from egregore_dist.engine import learning
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources import report
from egregore_dist.resources.router import MEMORY_SHARE, Allocation, Cluster, Plan, Width
from egregore_dist.wire.code import ship
from egregore_dist.workflow import describe, spec
from egregore_dist.workflow.step import Step

_WIDEST = {
    "event loop": "on an event loop (EGREGORE_ASYNC_WIDTH)",
    "threads": "on threads (EGREGORE_THREAD_WIDTH)",
}
_HAS = {
    "declared": "declared",
    "learned": "learned, p95",
    "assumed": "nothing is known of it",
    "after OOM": "reserved after OOM",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """How one block would be served now; ``str`` explains it.

    Attributes:
        name: the block.
        path: where it stands in the workflow: the positions of the steps that lead to it.
        kind: ``"parallel"`` or ``"map"``.
        branches: how many branches it has, or is assumed to have: a map gets its items only when it runs.
        plan: the decision, and what it came from.
        advice: what ``io=True`` would do for nodes that mostly wait, a sentence for each kind of branches.
    """

    name: str
    path: tuple[int, ...]
    kind: str
    branches: int
    plan: Plan
    advice: tuple[str, ...] = ()

    @property
    def lanes(self) -> int:
        """How many lanes serve it."""
        return self.plan.lanes

    def __str__(self) -> str:
        assumed = " (assumed)" if self.kind == "map" else ""
        limit = "" if self.plan.max_concurrent is None else f", max_concurrent={self.plan.max_concurrent}"
        has = f"{amounts.count(self.plan.workers, 'worker')} with {amounts.count(self.plan.slots, 'slot')}"
        lines = [f"{self.kind} {self.name!r}: {amounts.count(self.branches, 'branch')}{assumed}{limit}; {has}"]
        for track in self.plan.tracks:
            lines += _explained(track)
        lines += [f"  advice: {sentence}" for sentence in self.advice]
        return "\n".join(lines)


def of_workflow(step: Step, items: int, to: Session) -> tuple[BlockPlan, ...]:
    """The plans of all blocks of a workflow, outer ones first.

    Args:
        items: how many items each map is assumed to get.

    Raises:
        errors.WorkflowError: a node needs what no worker of its queue has.
    """
    described = describe.describe(step)
    root, settings = described.spec.root, to.settings
    cluster = cluster_of(to)
    compiler.refuse_misfits(root, settings.queue, cluster)
    functions = tuple(ship(fn, to.signer).ref for fn in described.functions)
    profiles = Profiles(to.ledger)
    knows = learning.knowing(profiles, functions)
    plans = []
    for path, block in spec.blocks(root):
        n = len(block.branches) if isinstance(block, spec.ParallelSpec) else items
        if n:
            form = compiler.shape(block, settings.queue)
            planned = compiler.plan(block, form, n, settings=settings, cluster=cluster, knows=knows)
            kind = "parallel" if isinstance(block, spec.ParallelSpec) else "map"
            advised = advice.of_blocks(
                [block], functions, profiles.read, queue=settings.queue, most=settings.thread_width
            )
            plans.append(BlockPlan(name=block.name, path=path, kind=kind, branches=n, plan=planned, advice=advised))
    return tuple(plans)


def cluster_of(to: Session) -> Cluster:
    """The live workers."""
    raws = to.ledger.reports()
    return Cluster(report.read(raws.values(), now=to.ledger.now(), ttl=to.settings.report_ttl))


def _explained(track: Allocation) -> list[str]:
    width = f" of width {track.width}" if track.width > 1 else ""
    lease = f", {track.lease} branches in a lease" if track.lease > 1 else ""
    parts = [f"{amounts.count(track.wanted, 'branch')} at a time"]
    if track.workers:
        parts += [
            f"{amounts.count(track.slots, 'slot')} of {amounts.count(track.workers, 'worker')}",
            *([f"{track.cores} with {_devices(track)}"] if track.cores < track.slots else []),
            f"{track.room} in {MEMORY_SHARE:.0%} of {_size(track.memory_available)} of memory",
            *([f"{track.fitting} machine by machine"] if track.fitting < min(track.cores, track.room) else []),
        ]
    at_least = ", but one at least" if track.workers and not track.fitting else ""
    lanes, branches = amounts.count(track.lanes, "lane"), amounts.count(track.branches, "branch")
    lines = [
        f"  queue {track.queue!r}: {lanes}{width} for {branches}{lease}",
        f"    the least of {', '.join(parts)}{at_least}; bound by: {track.bound}",
        f"    memory per node: {_size(track.memory_per_node)} ({_HAS[track.memory_from]})",
    ]
    if track.cpus is not None:
        lines.append(f"    cores per node: {track.cpus:g} (declared)")
    if track.gpus:
        lines.append(f"    GPUs per node: {track.gpus} (declared)")
    if track.labels:
        lines.append(f"    only on workers with {', '.join(track.labels)} (declared)")
    if track.width_of is not None:
        lines.append(f"    width: {_width(track.width_of, track)}")
    known = track.learned
    if known is not None and known.executions:
        told = f"    learned of {known.executions:.0f} executions: {_time(known.wall)} a branch"
        if known.cpu is not None:
            told += f", {_time(known.cpu)} of it on a CPU, {_time(known.waits)} waiting for others"
        lines.append(told)
    return lines


def _width(of: Width, track: Allocation) -> str:
    numbers = (
        (of.setting, _WIDEST[of.on]),
        (of.waiting, "that keep a process busy, one computing while others wait"),
        (of.share, "for each lane to have its part"),
        (of.devices, f"with their {_devices(track) or 'cores'}"),
        (of.memory, "in a lane's part of the memory"),
    )
    has = [f"{number} {why}" for number, why in numbers if number is not None]
    if len(has) == 1:
        return has[0]
    return f"the least of {', '.join(has)}" + (", but one at least" if 0 in (of.devices, of.memory) else "")


def _devices(track: Allocation) -> str:
    return " and ".join([*(["cores"] if (track.cpus or 0) > 1 else []), *(["GPUs"] if track.gpus else [])])


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"

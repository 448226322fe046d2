"""What a run did, in numbers: a value, which can be written as a dict, as Markdown and as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long things took, in seconds; None where there was nothing.

    Attributes:
        count: how many.
        total: all together.
        min: the shortest.
        mean: on average.
        p95: what 95 % of them did not exceed.
        max: the longest.
    """

    count: int = 0
    total: float = 0.0
    min: float | None = None
    mean: float | None = None
    p95: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Durations:
        """The durations of so many things."""
        ordered = sorted(seconds)
        if not ordered:
            return cls()
        total = sum(ordered)
        return cls(
            count=len(ordered),
            total=total,
            min=ordered[0],
            mean=total / len(ordered),
            p95=ordered[-(-95 * len(ordered) // 100) - 1],
            max=ordered[-1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Executions:
    """Executions of branches, each from its beginning to its end.

    Attributes:
        ok: that gave a value.
        failed: that failed.
        lost: whose process died, or that it gave back unfinished.
        stopped: that were over their node's timeout and were called again, or that ended with their block: at its
            deadline, by a failure beside them, or with the run.
        running: that go on.
        together: that were leased with others at once: tiny ones, and those of a lane that runs many at a time.
        durations: of those that gave a value or failed.
        measured: how many of all were measured for the next two. Of tiny ones only some are, and none of those that
            take turns on an event loop, or that have met a block.
        cpu: seconds of CPU time that these took together.
        memory: by how many bytes the process of one of them grew at most; None where that was not measured.
    """

    ok: int = 0
    failed: int = 0
    lost: int = 0
    stopped: int = 0
    running: int = 0
    together: int = 0
    durations: Durations = Durations()
    measured: int = 0
    cpu: float = 0.0
    memory: int | None = None

    @property
    def count(self) -> int:
        """How many there were."""
        return self.ok + self.failed + self.lost + self.stopped + self.running


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What there was to be done, and what became of it.

    Attributes:
        blocks: blocks that were opened.
        branches: in them; of a workflow without a block the run itself is the only one.
        ok: that have a value.
        failed: that failed.
        stopped: that ended with their block, begun or not.
        open: that have not ended.
    """

    blocks: int
    branches: int
    ok: int
    failed: int
    stopped: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """A node, as far as the events tell.

    Of several nodes in one branch they tell those that ended well, and the one that the branch failed, was lost or was
    stopped at, if somebody saw it; not which of them goes on, nor which step a decision chose, unless that met a block.

    Attributes:
        name: of the node.
        executions: that called it. Durations, CPU time and memory are of those that called no other.
        steps: how many of them called others too, so that it is not known how long they were at this one.
    """

    name: str
    executions: Executions
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReport:
    """A block of the workflow, with all that it was opened for.

    Attributes:
        name: its name.
        path: where it stands in the workflow: the positions of the steps that lead to it.
        opened: how often it was: more than once where it is nested in another.
        branches: in all of these.
        ok: branches that have a value.
        failed: branches that failed.
        stopped: branches that ended with it, begun or not.
        took: how long it was open, each time that it has ended.
        executions: of its branches.
    """

    name: str
    path: tuple[int, ...]
    opened: int
    branches: int
    ok: int
    failed: int
    stopped: int
    took: Durations
    executions: Executions


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """A worker's part.

    Attributes:
        name: of the worker.
        executions: there, of branches that have no block in them.
        busy: seconds in which it executed at least one of these, or a part of a branch that met blocks.
    """

    name: str
    executions: Executions
    busy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A part of the critical path: a block, and the branch of it that ended last.

    Of a branch that met blocks, the run's own too, there is a link for each of its parts: before the first of these,
    between two of them, and behind the last; none for one in which it called no node, unless that took long.

    Attributes:
        block: the block's id; "0": the run itself.
        name: its name.
        branch: the name of the branch; None where none has begun, or where events are missing that would tell it.
        worker: where that ran last, or None.
        waited: seconds until the branch began, or went on behind a block; where it is not told, 0, and ``ran`` is how
            long the block was open.
        ran: seconds from its beginning to its end, or until now; of a part, to its end.
        cpu: seconds of CPU time that its last execution took; None where that was not measured.
        memory: by how many bytes its process grew at most in that; None where that was not measured.
        nodes: of a part, the nodes that the workflow has there; "…" stands for what a decision chose.
    """

    block: str
    name: str
    branch: str | None
    worker: str | None
    waited: float
    ran: float
    cpu: float | None = None
    memory: int | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What retries did.

    Attributes:
        count: how often the run was retried.
        kept: branches whose values the last retry kept, with what is nested in them: they did not run again.
        saved: seconds of executions whose values were kept.
    """

    count: int = 0
    kept: int = 0
    saved: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run has done until ``at``. Instants are seconds since 1970 on the server's clock, durations are seconds.

    Attributes:
        id: the run.
        workflow: the name of its workflow.
        state: ``pending``, ``running``, ``paused``, ``succeeded``, ``failed`` or ``cancelled``.
        at: when this was read.
        created: when the run was submitted.
        started: when its first branch was, or None.
        ended: when it ended, or None.
        waited: from its submission until it started, or until now.
        ran: from its start until its end, or until now.
        totals: what there was to be done.
        success_rate: of the branches that have ended, the part that has a value, 0 to 1; None before the first.
        executions: of all branches that have no block in them: one that meets a block waits, and holds no worker.
        parts: of the other branches, the run's own too: how long each part took in which they did not wait for a block,
            and that gave a value, failed or came to a block.
        nodes: by node, those that took longest in all first.
        blocks: by block of the workflow, in its order.
        workers: by worker.
        critical_path: what the end waited for, in the order of time.
        retries: what retries did.
        advice: what ``io=True`` would do for nodes that mostly wait, as learned in all runs.
        partial: the ledger does not have all events of the run any more, or has more than are read: what comes from
            them (executions, workers, the critical path, the timeline) lacks some.
        timeline: the picture of it, as SVG; "" before anything has happened.
    """

    id: str
    workflow: str
    state: str
    at: float
    created: float
    started: float | None
    ended: float | None
    waited: float
    ran: float
    totals: Totals
    success_rate: float | None
    executions: Executions
    parts: Durations
    nodes: tuple[NodeReport, ...]
    blocks: tuple[BlockReport, ...]
    workers: tuple[WorkerReport, ...]
    critical_path: tuple[Link, ...]
    retries: Retries
    partial: bool
    advice: tuple[str, ...] = ()
    timeline: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.markdown()

    def as_dict(self) -> dict[str, Any]:
        """The report as what JSON can hold, without the picture: instants as ISO 8601 in UTC, durations in seconds."""
        found = dataclasses.asdict(self)
        del found["timeline"]
        for name in ("at", "created", "started", "ended"):
            if found[name] is not None:
                found[name] = datetime.fromtimestamp(found[name], UTC).isoformat(timespec="milliseconds")
        for block in found["blocks"]:
            block["path"] = list(block["path"])
        for link in found["critical_path"]:
            link["nodes"] = list(link["nodes"])
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}

    def markdown(self) -> str:
        """The report as Markdown."""
        from egregore_dist.client import documents

        return documents.markdown(self)

    def html(self) -> str:
        """The report as a page of its own, with the timeline: it loads nothing, and has no script."""
        from egregore_dist.client import documents

        return documents.html(self)

"""Where a lane stands: one block, and the values of its branches and of the blocks that they met."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from egregore_dist import errors
from egregore_dist.engine.announce import Branch
from egregore_dist.engine.compile import stays
from egregore_dist.engine.execute import Job
from egregore_dist.engine.interpret import Ask, Call, Done, Meet, Value, branch_path, head_path, walk
from egregore_dist.engine.observer import Observer
from egregore_dist.engine.outcome import Inputs, Reader
from egregore_dist.engine.runtime import Runtime, Workload
from egregore_dist.ledger import SINCE_BLOCK, BlockRecord, Lease
from egregore_dist.ledger.keys import ROOT
from egregore_dist.wire import codec
from egregore_dist.workflow import spec
from egregore_dist.workflow.context import Context
from egregore_dist.workflow.parallel import MAX_BRANCHES

# A lane's timer must not be early: the server's clock decides, and it is asked just after.
_LATER = 0.02


class NotLoaded(Exception):
    """The function of a node could not be loaded, for the reason that is its cause.

    Attributes:
        node: the name of the node.
        reason: why.
    """

    def __init__(self, node: str, reason: errors.CodeError) -> None:
        super().__init__(f"node {node!r} could not be loaded")
        self.node = node
        self.reason = reason


class Place:
    """One block as a lane serves it.

    Args:
        now: the server's milliseconds when the record was read, to tell the deadline on this process's own clock.
    """

    def __init__(
        self, runtime: Runtime, load: Workload, inputs: Inputs, record: BlockRecord, track: int, now: int
    ) -> None:
        self.record = record
        self.created = load.created
        self.track = track
        self.queue = record.queues[track]
        self.width = record.widths[track]
        #: Whether its branches are leased with a place of the limit that their first node has.
        self.limited = bool(record.limits[track])
        self.shape = load.shape(record.path, self.queue)
        #: Of the branches that are followed, and executed now.
        self.observers: dict[int, Sequence[Observer]] = {}
        self._runtime = runtime
        self._load = load
        self._step = spec.step_at(load.root, record.path)
        #: Whether its branches run on an event loop, with sync nodes on threads beside it.
        self.wide = self.width > 1 or self._shares_threads()
        self._inputs = inputs
        self._items: codec.Entries | None = None
        self._ready = time.monotonic() - (now - record.ready) / 1000
        self._deadline: float | None = None
        self.time(record, now)

    def time(self, record: BlockRecord, now: int) -> None:
        """Tell the deadline by a record that was read at ``now``, in the server's milliseconds."""
        left = None if record.ends_by is None else (record.ends_by - now) / 1000
        self._deadline = None if left is None else time.monotonic() + left + _LATER

    def left(self) -> float | None:
        """Seconds until the first deadline of the block and those around it, or None."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def times(self, lease: Lease, since: float) -> tuple[int, int]:
        """How long a branch that began then and ends now was executed and had waited, as a commit says it."""
        if lease.after:
            return SINCE_BLOCK
        return int((time.monotonic() - since) * 1e6), int((since - self._ready) * 1e6)

    def holds(self, branch: int, token: str) -> bool:
        """Ask the ledger whether a lane holds a branch of the open block."""
        return self._runtime.ledger.holds(self._load.run, self.record.id, branch, token)

    def execute(self, lease: Lease) -> Generator[Job, Value, Done | Meet]:
        """Execute a branch from where it stands: yields each node to call, ends at its value or at a block.

        Raises:
            NotLoaded: this worker has no function for the next node.
        """
        top = self._top(lease.branch)
        if lease.after:
            start, value = self._value_of(lease.after)
        else:
            start, value = top, self._value(lease.branch)
        entering = not lease.after
        while True:
            end = yield from self._walk(lease, top, start, value, entering)
            if isinstance(end, Done) or self.size(end):
                return end
            # A block without branches has its value at once.
            start, value, entering = end.path, self._nothing(end), False

    def size(self, meet: Meet) -> int:
        """How many branches the block that was met will have.

        Raises:
            errors.EncodingError: a map that was given neither a list nor a mapping.
            errors.WorkflowError: too many of them.
        """
        match meet.step:
            case spec.ParallelSpec():
                return len(meet.step.branches)
            case spec.MapSpec():
                n = codec.count(meet.value.raw) or 0
                # Before they are taken apart: a million small items take some hundred megabytes then.
                if n > MAX_BRANCHES:
                    raise errors.WorkflowError(
                        f"map {meet.step.name!r} got {n} items; at most {MAX_BRANCHES} can be mapped"
                    )
                try:
                    return len(codec.split(meet.value.raw))
                except errors.EncodingError as error:
                    raise errors.EncodingError(f"map {meet.step.name!r}: {error}") from error
            case _:
                return 1

    def branch_name(self, branch: int) -> Any:
        """The name of a branch, its key or index in a map, or None for a whole run."""
        match self._step:
            case _ if self.record.id == ROOT:
                return None
            case spec.ParallelSpec():
                return self._step.keys[branch]
            case spec.MapSpec():
                return self._map_items().keys[branch]
            case _:
                return self._step.name

    def branch_title(self, branch: int) -> str:
        """The same as text, of any branch: its position where the input that names it cannot be read."""
        try:
            return str(self.branch_name(branch))
        except errors.EgregoreError:
            # The branch itself will fail of that.
            return str(branch)

    def node_name(self, branch: int) -> str:
        """What a branch executes, as people call it."""
        match self._step:
            case spec.ParallelSpec():
                return self._step.keys[branch]
            case spec.MapSpec():
                return self._step.body.name
            case _:
                return self._step.name

    def stays(self, branch: int) -> bool:
        """Whether nothing can park a branch, once it is begun."""
        if self.record.id == ROOT:
            return False
        step = spec.step_at(self._load.root, self._top(branch))
        # A node that is met as a block is the one branch of it, and called there.
        return step is self._step or stays(step, self.queue)

    def shown(self, lease: Lease, since: float) -> Branch:
        """A branch that began then, as Celery's tools show it."""
        branch = lease.branch
        return Branch(
            id=f"{self._load.run}:{self.record.id}:{branch}",
            name=self.node_name(branch),
            place=f"(run {self._load.run}, block {self.record.name}, branch {self.branch_name(branch)})",
            attempt=lease.attempt,
            waited=since - self._ready,
        )

    def took(self, lease: Lease, since: float) -> float:
        """For how many seconds a branch that began then was executed by now, with the blocks that it met."""
        if lease.after:
            block, now = self._runtime.ledger.look(self._load.run, lease.after)
            if block.began is not None:
                return max(0.0, (now - block.began) / 1000)
        return time.monotonic() - since

    def _walk(
        self, lease: Lease, top: spec.Path, start: spec.Path, value: Value, entering: bool
    ) -> Generator[Job, Value, Done | Meet]:
        placed = None
        if self.limited and entering and start == top:
            placed = head_path(spec.step_at(self._load.root, top), top)
        steps = walk(self._load.root, top, start, value, entering=entering, queue=self.queue, placed=placed)
        answer: Value | int | None = None
        while True:
            try:
                request = steps.send(answer) if answer is not None else next(steps)
            except StopIteration as stop:
                end: Done | Meet = stop.value
                return end
            result = yield self._job(request, lease)
            answer = result if isinstance(request, Call) else _choice(request, result)

    def _job(self, request: Call | Ask, lease: Lease) -> Job:
        node = request.node if isinstance(request, Call) else request.decision.node

        def context(attempt: int) -> Context:
            return Context(
                run=self._load.run,
                workflow=self._load.name,
                block=None if self.record.id == ROOT else self.record.name,
                branch=self.branch_name(lease.branch),
                node=node.name,
                attempt=attempt,
                block_id=self.record.id,
                path=request.path,
            )

        try:
            callee = self._runtime.callee(
                self._load, node.function, branch=lease.branch, attempt=lease.attempt, node=node.name
            )
        except errors.CodeError as error:
            raise NotLoaded(node.name, error) from error
        job = Job(
            node=node,
            callee=callee,
            value=request.value,
            context=context,
            attempts=lease.attempt,
            calls=1 + (lease.tried if lease.node == node.name else 0),
            payload_limit=self._runtime.settings.payload_limit,
            branch=lease.branch,
            created=self.created,
            observers=self.observers.get(lease.branch, ()),
        )
        recorder, function = self._runtime.learning.recorder, self._load.functions[node.function]
        if recorder.wants(function):
            job.measure = recorder.measure(
                function,
                shares_thread=self.width > 1 and node.is_async,
                shares_process=self.width > 1 and not node.is_async,
            )
        return job

    def _shares_threads(self) -> bool:
        # How many run at a time is learned, and must not decide whether they run on threads.
        if self.record.id == ROOT or not isinstance(self._step, spec.ParallelSpec | spec.MapSpec):
            return False
        parts = self.shape.parts
        own = parts[self.track : self.track + 1] or parts  # Later tracks may have branches of every part.
        return self._runtime.settings.thread_width > 1 and all(
            # Without its place a branch waits for it by itself, which holds no thread.
            part.kind.io and (part.kind.limit is None or self.limited)
            for part in own
        )

    def _top(self, branch: int) -> spec.Path:
        return () if self.record.id == ROOT else branch_path(self._step, self.record.path, branch)

    def _value(self, branch: int) -> Value:
        if isinstance(self._step, spec.MapSpec) and self.record.id != ROOT:
            return Value(self._map_items().value(branch))
        return Value(self._raw_input(), self.record.input)

    def _raw_input(self) -> bytes:
        return self._inputs.get(self.record.input)

    def _map_items(self) -> codec.Entries:
        if self._items is None:
            self._items = codec.split(self._raw_input())
        return self._items

    def _value_of(self, block: str) -> tuple[spec.Path, Value]:
        # The value of a complete block: its branches' values under their names, a map over a list as a list.
        record, values = Reader(self._runtime.ledger, self._load.run, self._load.root, self._inputs).complete(block)
        step = spec.step_at(self._load.root, record.path)
        if isinstance(step, spec.NodeSpec):
            return record.path, Value(values[0][1])
        if isinstance(step, spec.MapSpec) and not codec.is_mapping(self._inputs.get(record.input)):
            return record.path, Value(codec.join_list([raw for _, raw in values]))
        return record.path, Value(codec.join_mapping(values))

    def _nothing(self, meet: Meet) -> Value:
        is_list = isinstance(meet.step, spec.MapSpec) and not codec.is_mapping(meet.value.raw)
        return Value(codec.join_list([]) if is_list else codec.join_mapping([]))


def _choice(ask: Ask, answer: Value) -> int:
    decision = ask.decision
    said = codec.decode(answer.raw)
    try:
        return decision.keys.index(said)
    except ValueError:
        raise errors.WorkflowError(
            f"decision {decision.name!r} answered {said!r}, which names none of its choices: {', '.join(decision.keys)}"
        ) from None

"""The spans of branches, in the process that executes them; those of runs and blocks are made where these end.

A branch that meets no block is executed by one process at a time: each attempt of it has a span, which is current in
its nodes. Any other, the whole run among them, may go on in another process: there each node that it calls has a span
of its own, below the branch's, which is made when the branch ends.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from egregore_dist.ledger import Commit, Lease, Ledger, spans
from egregore_dist.ledger.keys import ROOT
from egregore_dist.wire import failure, tracing

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

    from egregore_dist.engine.execute import Job
    from egregore_dist.engine.place import Place
    from egregore_dist.engine.runtime import Workload

_MILLISECOND = 1_000_000


class Trace:
    """The trace of one run, as a lane adds to it.

    Args:
        above: the span that the run was submitted in.
        worker: the name of the worker.
    """

    def __init__(self, tracer: tracing.Tracer, ledger: Ledger, load: Workload, above: SpanContext, worker: str) -> None:
        self.tracer = tracer
        self.ledger = ledger
        self.run = load.run
        self.workflow = load.name
        self.above = above
        self.worker = worker

    def block(self, place: Place) -> SpanContext:
        """The span of the block that a lane serves; where a provider takes no ids, the span above the run."""
        if not self.tracer.names:
            return self.above
        record = place.record
        return tracing.beside(self.above, tracing.block_id(self.run, record.id, record.ready))


class BranchSpans:
    """The spans of one branch while a lane executes it."""

    def __init__(self, trace: Trace, place: Place, lease: Lease) -> None:
        self._trace = trace
        self._tracer = trace.tracer
        self._place = place
        self._lease = lease
        self._began = time.time_ns()
        self._attributes = _attributes(trace, place, lease)
        self._name = place.node_name(lease.branch)
        self._in_parts = not place.stays(lease.branch)
        self._before: SpanContext | None = None
        self._current: Span | None = None
        self._above = trace.block(place)
        record = place.record
        if self._in_parts:
            if record.id != ROOT and self._tracer.names:
                id = tracing.branch_id(trace.run, record.id, record.ready, lease.branch)
                self._above = tracing.beside(trace.above, id)
            return
        ids = [
            tracing.attempt_id(trace.run, record.id, record.ready, lease.branch, attempt)
            for attempt in (lease.attempt, lease.attempt - 1)
        ]
        if lease.attempt > 1 and self._tracer.names:
            self._before = tracing.beside(trace.above, ids[1])
        self._begin(self._name, lease.attempt, ids[0] if self._tracer.names else None)

    def enter(self, job: Job) -> Token[Context]:
        """A node is called: from here on its span is current."""
        from opentelemetry import context, trace

        if self._current is None:
            self._begin(job.node.name if self._in_parts else self._name, job.attempts)
        assert self._current is not None
        return context.attach(trace.set_span_in_context(self._current))

    def leave(self, token: Token[Context]) -> None:
        """What was current before is so again."""
        from opentelemetry import context

        context.detach(token)

    def called(self) -> None:
        """A node has returned."""
        if self._in_parts:
            self._end("ok")
            self._before = None

    def failed(self, error: BaseException, *, timed_out: bool) -> None:
        """An attempt has failed, and there will be another one."""
        if self._current is not None:
            self._before = self._current.get_span_context()
            self._end("timeout" if timed_out else "error", (type(error).__qualname__, _message(error)))

    def gave_up(self, error: BaseException, node: str | None) -> None:
        """The branch fails: its commit says so, too."""

    def ended(self, end: object) -> None:
        """The lane is done with the branch: it committed an end, parked the branch at a block, or was interrupted."""
        commit = end if isinstance(end, Commit) else None
        if commit is not None and commit.kind != "again":
            outcome, error = "ok", None
            if commit.kind == "error":
                found = failure.decode(commit.payload)
                outcome, error = found.kind, (found.type, found.message)
            self._end(outcome, error)
            if self._in_parts:
                self._branch(outcome, error)
        elif end is None:
            self._end("cancelled")
            if self._in_parts and self._place.record.id != ROOT:
                self._interrupted()
        else:
            self._end("ok")

    def _begin(self, name: str, attempt: int, span_id: int | None = None) -> None:
        self._current = self._tracer.start(
            name,
            self._above,
            span_id=span_id,
            attributes={**self._attributes, "egregore.attempt": attempt},
            links=() if self._before is None else (self._before,),
        )

    def _end(self, outcome: str, error: tuple[str, str] | None = None) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._tracer.end(current, outcome, error=error)

    def _branch(self, outcome: str, error: tuple[str, str] | None, ended: int | None = None) -> None:
        """The span of a branch that was executed in parts, or could have been."""
        record, trace, after = self._place.record, self._trace, self._lease.after
        if record.id == ROOT or not self._tracer.names:
            return
        began = self._began
        if after:
            block, now = trace.ledger.look(trace.run, after)
            began, ended = (block.began or block.opened) * _MILLISECOND, ended or now * _MILLISECOND
        span = self._tracer.start(
            self._name,
            trace.block(self._place),
            span_id=tracing.branch_id(trace.run, record.id, record.ready, self._lease.branch),
            at=began,
            attributes={**self._attributes, "egregore.attempt": self._lease.attempt},
        )
        self._tracer.end(span, outcome, at=None if ended is None else max(began, ended), error=error)

    def _interrupted(self) -> None:
        # Where its block has ended, so has the branch; else another lane has it now.
        block, _ = self._trace.ledger.look(self._trace.run, self._place.record.id)
        if block.ended is not None:
            self._branch("cancelled", None, block.ended * _MILLISECOND)


def of_run(ledger: Ledger, load: Workload, worker: str) -> Trace | None:
    """The trace that a lane adds to; None where this process traces nothing."""
    tracer = tracing.tracer()
    if tracer is None:
        return None
    above = tracing.read(load.trace)
    if above is None:
        # Its client traces nothing.
        above = tracing.read(ledger.trace(load.run, tracer.begin_trace(load.run, load.name)))
    return None if above is None else Trace(tracer, ledger, load, above, worker)


def _attributes(trace: Trace, place: Place, lease: Lease) -> dict[str, Any]:
    said = {**spans.attributes(trace.run, trace.workflow, place.record), "egregore.worker": trace.worker}
    if place.record.id == ROOT:
        return said
    return {**said, "egregore.branch": place.branch_title(lease.branch), "egregore.branch.position": lease.branch}


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""

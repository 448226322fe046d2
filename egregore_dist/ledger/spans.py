"""The spans of runs and blocks, made once, by whoever has ended them; and of branches that ended with a block in them.

Times are those of the server's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from egregore_dist import errors
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.records import BlockRecord, Work
from egregore_dist.wire import failure, tracing
from egregore_dist.workflow import spec

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from egregore_dist.ledger.ledger import Ledger

log = logging.getLogger(__name__)

# Blocks that are read in one round trip.
_AT_ONCE = 200

_OUTCOMES = {"ok": "succeeded", "error": "failed", "timeout": "failed"}


def of_ended(ledger: Ledger, run: str, blocks: Sequence[str]) -> None:
    """Make the spans of blocks that have just ended, where this process traces."""
    tracer = tracing.tracer()
    if tracer is None or not tracer.names:
        return
    try:
        work = ledger.work(run)
        above = tracing.read(work.trace)
        if above is None:
            return
        for start in range(0, len(blocks), _AT_ONCE):
            for record, around, why in _read(ledger, run, blocks[start : start + _AT_ONCE]):
                # It may have been opened again since.
                if record.ended is not None:
                    _make(tracer, above, run, work, record, around, why)
    except (errors.EgregoreError, msgspec.MsgspecError, IndexError) as error:
        log.info("run %s: spans were not made: %s", run, error, extra={"action": "span_failed", "run_id": run})


def parent_of(run: str, above: SpanContext, around: BlockRecord, branch: int) -> SpanContext:
    """The span that a block hangs on: the run's, or that of the branch which met it."""
    if around.id == ROOT:
        return tracing.beside(above, tracing.block_id(run, ROOT, around.ready))
    return tracing.beside(above, tracing.branch_id(run, around.id, around.ready, branch))


def attributes(run: str, workflow: str, record: BlockRecord) -> dict[str, Any]:
    """What every span of a block and of its branches says."""
    return {
        "egregore.run": run,
        "egregore.workflow": workflow,
        "egregore.block": record.name,
        "egregore.block.id": record.id,
    }


def _read(
    ledger: Ledger, run: str, blocks: Sequence[str]
) -> Iterator[tuple[BlockRecord, BlockRecord | None, bytes | None]]:
    # Each with the block that it is nested in, and the failure that it ended with.
    pipe = ledger.redis.pipeline(transaction=False)
    for block in blocks:
        pipe.hgetall(ledger.keys.block(run, "b", block))
        pipe.hgetall(ledger.keys.block(run, "b", block.rpartition(".")[0] or ROOT))
    with reachable():
        found = pipe.execute()
    records = [BlockRecord.of(block, fields) for block, fields in zip(blocks, found[::2], strict=True)]
    for record in records:
        pipe.hget(ledger.keys.block(run, "e", record.id), str(record.failed))
    with reachable():
        failures = pipe.execute()
    for record, fields, why in zip(records, found[1::2], failures, strict=True):
        yield record, BlockRecord.of(record.parent, fields) if record.parent is not None and fields else None, why


def _make(
    tracer: tracing.Tracer,
    above: SpanContext,
    run: str,
    work: Work,
    record: BlockRecord,
    around: BlockRecord | None,
    why: bytes | None,
) -> None:
    assert record.ended is not None
    begun, ended = record.ready * 1_000_000, max(record.ready, record.ended) * 1_000_000
    error = _told(why)
    is_bad = record.state not in ("ok", "cancelled")
    span_id = tracing.block_id(run, record.id, record.ready)
    if around is None or record.branch is None:
        is_root = above.span_id == tracing.root_id(run)
        span = tracer.start(
            work.workflow,
            None if is_root else above,
            trace_id=above.trace_id if is_root else None,
            span_id=span_id,
            at=begun,
            kind="CONSUMER",
            attributes={"egregore.run": run, "egregore.workflow": work.workflow},
        )
        tracer.end(span, _OUTCOMES.get(record.state, record.state), at=ended, error=error, bad=is_bad)
        return
    parent = parent_of(run, above, around, record.branch)
    said = {**attributes(run, work.workflow, record), "egregore.branches": record.n}
    span = tracer.start(record.name, parent, span_id=span_id, at=begun, attributes=said)
    tracer.end(span, record.state, at=ended, error=error, bad=is_bad)
    if record.state != "ok" and around.id != ROOT:
        # The branch that waited for it has ended with it, and no lane was there.
        _make_branch(tracer, above, run, work, around, record, ended)


def _make_branch(
    tracer: tracing.Tracer,
    above: SpanContext,
    run: str,
    work: Work,
    block: BlockRecord,
    inside: BlockRecord,
    ended: int,
) -> None:
    assert inside.branch is not None
    branch, begun = inside.branch, min((inside.began or inside.opened) * 1_000_000, ended)
    said = {
        **attributes(run, work.workflow, block),
        "egregore.branch": _name(work, block, branch),
        "egregore.branch.position": branch,
    }
    span = tracer.start(
        _name(work, block, branch, of_node=True),
        tracing.beside(above, tracing.block_id(run, block.id, block.ready)),
        span_id=tracing.branch_id(run, block.id, block.ready, branch),
        at=begun,
        attributes=said,
    )
    is_cancelled = inside.state == "cancelled"
    tracer.end(span, "cancelled" if is_cancelled else "error", at=ended, bad=not is_cancelled)


def _name(work: Work, block: BlockRecord, branch: int, *, of_node: bool = False) -> str:
    match spec.step_at(spec.decode(work.spec).root, block.path):
        case spec.ParallelSpec() as step:
            return step.keys[branch]
        case spec.MapSpec() as step:
            return step.body.name if of_node else str(branch)
        case step:
            return step.name


def _told(why: bytes | None) -> tuple[str, str] | None:
    if why is None:
        return None
    try:
        found = failure.decode(why)
    except errors.EncodingError:
        return None
    # Of a branch that failed with a block in it, there is nothing said: its own span has it.
    return (found.type, found.message) if found.node is not None or found.message else None

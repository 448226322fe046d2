"""How a run or a block ended, as the values and exceptions that a user meets."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from egregore_dist import errors
from egregore_dist.engine.interpret import branch_path, nodes
from egregore_dist.ledger import BlockRecord, Ledger
from egregore_dist.ledger.keys import ROOT
from egregore_dist.wire import codec, failure
from egregore_dist.wire.failure import Failure
from egregore_dist.workflow import spec

_INPUTS_KEPT = 8

# How long the error of a deadline waits for what is stopped, in seconds; and in milliseconds, until when after it.
_PATIENCE, _PATIENCE_AFTER = 0.5, 600
_LOOK_EVERY = 0.02


class Inputs:
    """The stored inputs of a run's blocks, of which the last are kept; and what a block came to that ended here."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self._ledger = ledger
        self._run = run
        self._known: dict[str, bytes] = {}
        self._ended: tuple[BlockRecord, dict[int, bytes]] | None = None

    def get(self, block: str) -> bytes:
        """The encoded input kept under a block."""
        raw = self._known.get(block)
        if raw is None:
            raw = self._ledger.input(self._run, block)
            self.put(block, raw)
        return raw

    def put(self, block: str, raw: bytes) -> None:
        """Keep an input that is at hand."""
        self._known[block] = raw
        if len(self._known) > _INPUTS_KEPT:
            del self._known[next(iter(self._known))]

    def keep(self, record: BlockRecord, values: dict[int, bytes]) -> None:
        """Keep the encoded values of a block, all of which were committed here; those of one before are let go."""
        self._ended = record, values

    def take(self, block: str) -> tuple[BlockRecord, dict[int, bytes]] | None:
        """What was kept of a block, once."""
        ended, self._ended = self._ended, None
        return ended if ended is not None and ended[0].id == block else None


class Reader:
    """Reads the outcomes of one run's blocks.

    Args:
        patient: wait a moment for what a deadline stops, so that its error can say how long that took.
    """

    def __init__(
        self, ledger: Ledger, run: str, root: spec.StepSpec, inputs: Inputs | None = None, *, patient: bool = False
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._root = root
        self._patient = patient
        self._inputs = inputs or Inputs(ledger, run)

    def error(self) -> errors.RunFailed:
        """The exception of a run that failed."""
        for raw in self._ledger.failures(self._run, ROOT).values():
            cause, leaf = self._cause(raw, self._root)
            if isinstance(cause, errors.ParallelExecutionError | errors.ParallelTimeoutError):
                return cause
            node = leaf.node if leaf else None
            where = f"node {node!r}" if node else "a node"
            text = f"run {self._run!r} failed in {where}: {_said(leaf)}"
            error = errors.RunFailed(
                text, run_id=self._run, node=node, remote_traceback=leaf.traceback if leaf else None
            )
            error.__cause__ = cause
            return error
        return errors.RunFailed(f"run {self._run!r} failed, and the ledger does not say why", run_id=self._run)

    def complete(self, block: str) -> tuple[BlockRecord, list[tuple[Any, bytes]]]:
        """A complete block: its record, and its branches' encoded values by name; of a failed one, a `BranchError`."""
        kept = self._inputs.take(block)
        record, values, failures = (*kept, {}) if kept is not None else self._ledger.collected(self._run, block)
        names = self.names(record)
        for branch, raw in failures.items():
            error = self._branch_error(raw, names[branch], self._step(record, branch))
            values[branch] = codec.encode(error, where=f"the error of branch {names[branch]!r}")
        return record, [(names[branch], values[branch]) for branch in range(record.n)]

    def _branch_errors(
        self, record: BlockRecord, names: list[Any], failures: dict[int, bytes]
    ) -> dict[Any, errors.BranchError]:
        return {
            names[branch]: self._branch_error(raw, names[branch], self._step(record, branch))
            for branch, raw in failures.items()
        }

    def _branch_error(self, raw: bytes, name: Any, step: spec.StepSpec) -> errors.BranchError:
        cause, leaf = self._cause(raw, step)
        if isinstance(cause, errors.ParallelExecutionError | errors.ParallelTimeoutError):
            return errors.BranchError(
                name,
                kind="timeout" if isinstance(cause, errors.ParallelTimeoutError) else "error",
                type=f"egregore_dist.errors.{type(cause).__name__}",
                message=str(cause),
                node=leaf.node if leaf else None,
                traceback=leaf.traceback if leaf else None,
            )
        return failure.to_branch_error(leaf or Failure(message=str(cause)), name)

    def names(self, record: BlockRecord) -> list[Any]:
        """The names of a block's branches, in order: for a map its keys or indices."""
        match spec.step_at(self._root, record.path):
            case _ if record.id == ROOT:
                return [record.name]
            case spec.ParallelSpec(keys=keys):
                return list(keys)
            case spec.MapSpec():
                return list(codec.split(self._inputs.get(record.input)).keys)
            case step:
                return [step.name]

    def _block_error(self, block: str) -> tuple[BaseException, Failure | None]:
        record = self._record(block)
        names = self.names(record)
        failures = self._ledger.failures(self._run, block)
        if isinstance(spec.step_at(self._root, record.path), spec.NodeSpec) and failures:
            # A node that only went to another queue: its own failure is the branch's.
            return self._cause(failures[0], self._step(record, 0))
        results = {names[branch]: codec.decode(raw) for branch, raw in self._ledger.results(self._run, block).items()}
        if record.state == "timeout":
            running = self._ledger.running(self._run, block)
            were = "was" if len(running) == 1 else "were"
            ended = results | self._branch_errors(record, names, failures)
            known = {*ended, *(names[branch] for branch in running)}
            badly = f", {len(failures)} of them badly" if failures else ""
            error = errors.ParallelTimeoutError(
                f"block {record.name!r} of run {self._run!r} did not end within its timeout of {record.timeout} s: "
                f"{len(ended)} of {record.n} branches had ended{badly}, {len(running)} {were} running",
                block=record.name,
                timeout=record.timeout or 0.0,
                results={name: ended[name] for name in names if name in ended},
                running=[names[branch] for branch in running],
                pending=[name for name in names if name not in known],
                stopping=self._stopping(record),
                run_id=self._run,
            )
            return error, None
        if record.state == "cancelled" or not failures:
            return errors.RunCancelled(
                f"block {record.name!r} of run {self._run!r} was cancelled", run_id=self._run
            ), None
        first = record.failed if record.failed in failures else min(failures)
        cause, leaf = self._cause(failures[first], self._step(record, first))
        at, said = "", str(cause)
        if leaf is not None and not isinstance(cause, errors.RunFailed):
            at, said = "" if leaf.node in (None, names[first]) else f" (node {leaf.node!r})", _said(leaf)
        failed = errors.ParallelExecutionError(
            f"branch {names[first]!r}{at} of block {record.name!r} failed in run {self._run!r}: {said}",
            block=record.name,
            branch=names[first],
            errors=self._branch_errors(record, names, failures),
            results=results,
            run_id=self._run,
            node=leaf.node if leaf else None,
            remote_traceback=leaf.traceback if leaf else None,
        )
        failed.__cause__ = cause
        return failed, leaf

    def _stopping(self, record: BlockRecord) -> float | None:
        assert record.deadline is not None
        stopped = self._ledger.stopped(self._run, record.id)
        if stopped is None and self._patient:
            # The caller has its error within a second of the deadline, by the server's clock.
            left = (record.deadline + _PATIENCE_AFTER - self._ledger.now()) / 1000
            until = time.monotonic() + min(_PATIENCE, left)
            while stopped is None and time.monotonic() < until:
                time.sleep(_LOOK_EVERY)
                stopped = self._ledger.stopped(self._run, record.id)
        return None if stopped is None else max(0.0, (stopped - record.deadline) / 1000)

    def _step(self, record: BlockRecord, branch: int) -> spec.StepSpec:
        step = spec.step_at(self._root, record.path)
        return self._root if record.id == ROOT else spec.step_at(step, branch_path(step, (), branch))

    def _cause(self, raw: bytes, step: spec.StepSpec) -> tuple[BaseException, Failure | None]:
        child = msgspec.msgpack.decode(raw, type=_Child)
        if child.block is not None:
            return self._block_error(child.block)
        leaf = failure.decode(raw)
        if leaf.node is None and len(only := {node.name for node in nodes(step)}) == 1:
            # Nobody was there to say it, and it can be no other.
            leaf = msgspec.structs.replace(leaf, node=only.pop())
        return failure.rebuild(leaf), leaf

    def _record(self, block: str) -> BlockRecord:
        record = self._ledger.block(self._run, block)
        if record is None:
            raise errors.RunNotFound(
                f"run {self._run!r} has no block {block!r} any more: the run was deleted or has expired"
            )
        return record


class _Child(msgspec.Struct):
    # What the ledger writes for a branch that failed with the block that it met.
    block: str | None = None


def _said(leaf: Failure | None) -> str:
    if leaf is None:
        return "it was stopped"
    return f"{leaf.type}: {leaf.message}" if leaf.message else leaf.type

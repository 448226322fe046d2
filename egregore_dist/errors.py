"""Every exception a user can meet.

    EgregoreError
    ├── WorkflowError(ValueError)        a workflow is built wrongly; raised while building it
    ├── BindingError(TypeError)          data does not fit a node's parameters
    ├── EncodingError(TypeError)         a value cannot travel as data
    │   └── UnreadableWorkflow           a run's workflow cannot be read: another release has submitted it
    ├── PayloadTooLarge(ValueError)      a value is larger than the limit
    ├── CodeError                        code cannot travel, or is refused by a worker
    ├── ConfigurationError(ValueError)   settings that cannot work
    ├── BrokerUnavailable(ConnectionError)  broker or ledger cannot be reached
    │   └── BrokerFull                   it can, and takes nothing more
    ├── NestedWaitError(RuntimeError)    a node waited for a run
    ├── RunNotFound(LookupError)         no run has this id
    ├── RunExists                        the id belongs to a run of another workflow, or of another input
    ├── WorkerNotFound(LookupError)      no live worker has this name
    └── RunFailed                        a run ended without a value
        ├── ParallelExecutionError       a branch of a block failed
        ├── ParallelTimeoutError(TimeoutError)  a block reached its deadline
        ├── RunCancelled                 somebody cancelled the run
        └── RunLost                      the server lost its data, and the run with it

``BranchError`` and ``RemoteError`` stand beside the tree: the first is a *value* (the entry of a failed branch under
``on_error="collect"``), the second is what a remote exception becomes where its class cannot be rebuilt here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class EgregoreError(Exception):
    """The root of every error of this package."""

    def __reduce__(self) -> Any:
        # By their state: a pool's process that hands one on cannot call a constructor that wants more than a message.
        return _restored, (type(self), self.args, vars(self))


class WorkflowError(EgregoreError, ValueError):
    """Raised while a workflow is built, when it could never run as written."""


class BindingError(EgregoreError, TypeError):
    """Raised when data does not fit the parameters of a node."""


class EncodingError(EgregoreError, TypeError):
    """Raised when a value cannot travel as data: named by where it came from and by its type."""


class UnreadableWorkflow(EncodingError):
    """Raised when what is stored of a run's workflow cannot be read here: another release has submitted the run."""


class PayloadTooLarge(EgregoreError, ValueError):
    """Raised when an encoded value is larger than ``EGREGORE_PAYLOAD_LIMIT``."""


class CodeError(EgregoreError):
    """Raised when a function cannot be shipped, or a worker refuses to load it."""


class ConfigurationError(EgregoreError, ValueError):
    """Raised when settings are missing or contradict each other."""


class BrokerUnavailable(EgregoreError, ConnectionError):
    """Raised when the broker or the ledger cannot be reached."""


class BrokerFull(BrokerUnavailable):
    """Raised when the server answers, and takes nothing more: its memory is full, or it cannot write its disk."""


class NestedWaitError(EgregoreError, RuntimeError):
    """Raised when a node waits for a run: it would hold the slot that the run needs."""


class RunNotFound(EgregoreError, LookupError):
    """Raised when the ledger has no run of this id: never submitted, or expired, or deleted."""


class RunExists(EgregoreError):
    """Raised by a submission whose id belongs to a run of another workflow, or of another input.

    Attributes:
        run_id: the id.
        workflow: the name of the existing run's workflow.
        state: the state of the existing run.
        submitted: when the existing run was submitted, in seconds since the epoch.
        differs: what differs: ``"workflow"``, ``"input"`` or both.
    """

    def __init__(
        self, message: str, *, run_id: str, workflow: str, state: str, submitted: float, differs: Sequence[str]
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.workflow = workflow
        self.state = state
        self.submitted = submitted
        self.differs = tuple(differs)


class WorkerNotFound(EgregoreError, LookupError):
    """Raised when no live worker has this name, or more than one has."""


class RunFailed(EgregoreError):
    """Raised when a run ended without a value.

    Attributes:
        run_id: the run.
        node: the name of the node that failed, or None.
        remote_traceback: the traceback of the process where it failed, or None.

    ``__cause__`` is the original exception, with its notes, its own causes and the remote traceback: as itself where
    its class is a builtin, or one that this process has imported under the same name, and what it held was plain data;
    otherwise as a `RemoteError`; so do ``SystemExit``, ``KeyboardInterrupt`` and ``GeneratorExit``, which would end or
    unwind the process that waits. An exception of one's own is set up from its state, without calling its constructor.
    Of a block in a block it is the inner block's error, whose cause is the next one.
    """

    def __init__(
        self,
        message: str,
        *,
        run_id: str | None = None,
        node: str | None = None,
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.node = node
        self.remote_traceback = remote_traceback


class ParallelExecutionError(RunFailed):
    """Raised when a branch of a block failed.

    Attributes:
        block: the name of the block.
        branch: the name of the branch that failed first.
        errors: every failure known, a mapping of branch name to `BranchError`.
        results: the values of the branches that had ended well by then, by name.
    """

    def __init__(
        self,
        message: str,
        *,
        block: str,
        branch: str,
        errors: Mapping[Any, BranchError],
        results: Mapping[Any, Any],
        run_id: str | None = None,
        node: str | None = None,
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message, run_id=run_id, node=node, remote_traceback=remote_traceback)
        self.block = block
        self.branch = branch
        self.errors = dict(errors)
        self.results = dict(results)


class ParallelTimeoutError(RunFailed, TimeoutError):
    """Raised when a block did not end within its ``timeout``.

    Attributes:
        block: the name of the block.
        timeout: its timeout, in seconds.
        results: how the branches had ended that had by then, by name: their values, and under ``on_error="collect"``
            a `BranchError` for each that had failed.
        running: the names of the branches that were running at the deadline.
        pending: the names of the branches that had not started.
        stopping: how long after the deadline, in seconds, nothing of the block ran any more; None where something still
            did half a second after it, which is stopped all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        block: str,
        timeout: float,
        results: Mapping[Any, Any],
        running: Sequence[Any],
        pending: Sequence[Any],
        stopping: float | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__(message, run_id=run_id)
        self.block = block
        self.timeout = timeout
        self.results = dict(results)
        self.running = list(running)
        self.pending = list(pending)
        self.stopping = stopping


class RunCancelled(RunFailed):
    """Raised by a waiting client when the run was cancelled."""


class RunLost(RunFailed):
    """Raised when the server has lost its data: the run was accepted, and nobody knows of it any more.

    A server that came back empty is told by its data's epoch, which is lost with them. Where only the last writes are
    lost, the epoch is the same; a run that is missing then, and had not ended when this handle last saw it, is lost
    too, unless somebody deleted it meanwhile, which cannot be told apart. One that had ended is `RunNotFound`.
    """


class BranchError(EgregoreError):
    """How a branch failed: its entry under ``on_error="collect"``, and in ``ParallelExecutionError.errors``.

    Attributes:
        branch: the name (or the key, or the index) of the branch.
        kind: the outcome: ``"error"``, ``"timeout"``, ``"cancelled"`` or ``"lost"``.
        type: the qualified name of the exception's class, such as ``"ValueError"``.
        message: what the exception said.
        node: the name of the node that raised, or that its process was lost under; None where that is not known.
        traceback: the remote traceback, or None.
        attempt: which attempt this was, from 1.
    """

    def __init__(
        self,
        branch: Any,
        *,
        kind: str = "error",
        type: str = "Exception",
        message: str = "",
        node: str | None = None,
        traceback: str | None = None,
        attempt: int = 1,
    ) -> None:
        where = f"branch {branch!r}" if node in (None, branch) else f"branch {branch!r} (node {node!r})"
        super().__init__(f"{where} failed: {type}: {message}")
        self.branch = branch
        self.kind = kind
        self.type = type
        self.message = message
        self.node = node
        self.traceback = traceback
        self.attempt = attempt


class RemoteError(EgregoreError):
    """A remote exception whose class is not rebuilt here: its class name and what it said.

    Attributes:
        type: the qualified name of the remote class.
        message: what the exception said.
    """

    def __init__(self, type: str, message: str) -> None:
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message


def _restored(kind: type[EgregoreError], args: tuple[Any, ...], state: Mapping[str, Any]) -> EgregoreError:
    exc = kind.__new__(kind, *args)
    exc.args = args
    vars(exc).update(state)
    return exc

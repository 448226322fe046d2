"""Nodes in Sentry: each call of a node is a transaction, and each node that fails for good is an event.

Sentry's own integration for Celery sees lanes, which serve many branches, and which no exception of a node leaves.
Where that integration is not active in this process, all of this costs one look into a dictionary.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from egregore_dist.wire import failure

if TYPE_CHECKING:
    from egregore_dist.engine.execute import Job
    from egregore_dist.engine.place import Place
    from egregore_dist.engine.runtime import Workload
    from egregore_dist.ledger import Lease

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Of Sentry's own integration, whose transactions and events these stand in the place of.
_OP, _ORIGIN, _SOURCE = "queue.task.celery", "auto.queue.egregore", "task"


def is_active() -> bool:
    """Whether Sentry's integration for Celery is active in this process."""
    if "sentry_sdk" not in sys.modules:
        return False
    try:
        return sys.modules["sentry_sdk"].get_client().get_integration("celery") is not None
    except Exception:
        # Releases before 2.0, or one that is being imported.
        return False


def leave_out(task: str) -> None:
    """Drop the transaction of the Celery task that a lane is: those of its nodes stand for it.

    Args:
        task: the task's name.
    """
    if not is_active():
        return
    transaction = sys.modules["sentry_sdk"].get_current_scope().transaction
    if transaction is not None and transaction.name == task:
        transaction.sampled = False


def _guarded(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T | None]:
    """What fails in Sentry is no failure of a branch."""

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return method(self, *args, **kwargs)
        except Exception:
            log.debug("Sentry was not told", exc_info=True)
            return None

    return call


class BranchEvents:
    """What Sentry is told of one branch; make it in the context of the lane."""

    def __init__(self, load: Workload, place: Place, lease: Lease) -> None:
        self._sdk = sys.modules["sentry_sdk"]
        self._load = load
        self._place = place
        self._lease = lease
        self._lane = self._sdk.get_isolation_scope(), self._sdk.get_current_scope()
        self._scopes: tuple[Any, Any] | None = None
        self._is_called = False
        self._transaction: Any = None

    @_guarded
    def enter(self, job: Job) -> ExitStack:
        """A node is called: its scopes are the current ones from here on."""
        if not self._is_called:
            self._is_called = True
            self._begin(job.node.name, job.attempts)
        stack = ExitStack()
        stack.enter_context(self._using())
        return stack

    @_guarded
    def leave(self, token: ExitStack | None) -> None:
        """The lane's scopes are the current ones again."""
        if token is not None:
            token.close()

    @_guarded
    def called(self) -> None:
        """A node has returned."""
        self._end("ok")

    @_guarded
    def failed(self, error: BaseException, *, timed_out: bool) -> None:
        """A call has failed and is made again: no event, as with a task of Celery that is tried again."""
        self._end("aborted")

    @_guarded
    def gave_up(self, error: BaseException, node: str | None) -> None:
        """The branch has failed: this is an event."""
        if not self._is_called:
            self._set_scopes(node, self._lease.attempt)
        utils = import_module("sentry_sdk.utils")
        event, hint = utils.event_from_exception(
            (type(error), error, failure.users_part(error)),
            client_options=self._sdk.get_client().options,
            mechanism={"type": "egregore", "handled": False},
        )
        with self._using():
            self._sdk.capture_event(event, hint=hint)
        self._end("internal_error")

    @_guarded
    def ended(self, end: object) -> None:
        """The lane is done with the branch: a call that is not over by now was interrupted."""
        self._end("cancelled")

    def _set_scopes(self, node: str | None, attempt: int) -> str:
        isolation, current = (scope.fork() for scope in self._lane)
        self._scopes = isolation, current
        name = self._load.name if node is None else f"{self._load.name}/{node}"
        record = self._place.record
        tags = {"run": self._load.run, "workflow": self._load.name, "attempt": attempt}
        tags |= {"node": node, "block": record.name, "branch": self._place.branch_title(self._lease.branch)}
        isolation.clear_breadcrumbs()
        isolation.set_transaction_name(name, source=_SOURCE)
        for key, value in tags.items():
            if value is not None:
                isolation.set_tag(f"egregore.{key}", str(value))
        return name

    def _begin(self, node: str, attempt: int) -> None:
        name = self._set_scopes(node, attempt)
        assert self._scopes is not None
        if self._streams():
            return
        isolation, current = self._scopes
        # Whoever sent the task decides, with its trace, whether its transactions are sampled.
        sent = isolation.get_active_propagation_context()
        # A span of the lane's would be this one's parent.
        current.span = None
        with self._using():
            self._transaction = self._sdk.start_transaction(
                name=name,
                op=_OP,
                source=_SOURCE,
                origin=_ORIGIN,
                trace_id=sent.trace_id,
                parent_span_id=sent.parent_span_id,
                parent_sampled=sent.parent_sampled,
                baggage=sent.baggage,
            )
            self._transaction.__enter__()

    def _streams(self) -> bool:
        # There are no transactions then, of any task.
        streams = getattr(import_module("sentry_sdk.tracing_utils"), "has_span_streaming_enabled", None)
        return streams is not None and streams(self._sdk.get_client().options)

    def _end(self, status: str) -> None:
        self._is_called = False
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            with self._using():
                transaction.set_status(status)
                transaction.__exit__(None, None, None)

    @contextmanager
    def _using(self) -> Iterator[None]:
        assert self._scopes is not None
        isolation, current = self._scopes
        scope = self._sdk.scope
        with scope.use_isolation_scope(isolation), scope.use_scope(current):
            yield

"""What follows branches while a lane executes them, such as tracing. An observer decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from egregore_dist import errors

if TYPE_CHECKING:
    from egregore_dist.engine.execute import Job
    from egregore_dist.engine.place import Place
    from egregore_dist.ledger import Lease

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Follows one branch, from its lease to what it commits."""

    def enter(self, job: Job) -> Any:
        """The code of a node begins to run, in this thread and context; what this returns is given to `leave`."""

    def leave(self, token: Any) -> None:
        """It has stopped running here: it has ended, or goes on in another context."""

    def called(self) -> None:
        """A node has returned a value that can travel."""

    def failed(self, error: BaseException, *, timed_out: bool) -> None:
        """A call of a node has failed, and there will be another one."""

    def gave_up(self, error: BaseException, node: str | None) -> None:
        """The branch fails with this error, of this node or of none."""

    def ended(self, end: object) -> None:
        """The lane commits this end, or has parked the branch at a block; None: the branch was interrupted."""


class Ends:
    """How a lane was done with a branch: unless it says so, it was interrupted."""

    end: object = None


@contextmanager
def follow(place: Place, lease: Lease, observers: Sequence[Observer]) -> Iterator[Ends]:
    """Let observers follow a branch while a lane executes it."""
    told = Ends()
    if not observers:
        yield told
        return
    place.observers[lease.branch] = observers
    try:
        yield told
    finally:
        place.observers.pop(lease.branch, None)
        for observer in observers:
            try:
                observer.ended(told.end)
            except errors.EgregoreError as error:
                log.info("a branch was not followed to its end: %s", error, extra={"action": "not_followed"})

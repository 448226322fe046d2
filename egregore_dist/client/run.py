"""One execution of a workflow, as its submitter or anybody who knows its id sees it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import tenacity

from egregore_dist import errors
from egregore_dist.client import session
from egregore_dist.client.events import Event
from egregore_dist.client.typed import typed
from egregore_dist.engine import inside, publish
from egregore_dist.engine.outcome import Reader
from egregore_dist.ledger import ENDED
from egregore_dist.wire import codec
from egregore_dist.workflow import describe, spec

log = logging.getLogger(__name__)

# One wait on the server, in seconds: short enough to notice a run that was deleted, and to let Ctrl-C through.
_WAIT = 1.0


# A run that has not begun after so many seconds may have nobody to serve it.
_TELL_AFTER = 3.0

# A server that is restarted does not end the wait for a run.
_PATIENCE: dict[str, Any] = {
    "retry": tenacity.retry_if_exception_type(errors.BrokerUnavailable),
    "wait": tenacity.wait_exponential(multiplier=0.1, max=2.0) + tenacity.wait_random(0, 0.1),
    "stop": tenacity.stop_after_delay(60),
    "reraise": True,
}
_patient = tenacity.Retrying(**_PATIENCE)
_apatient = tenacity.AsyncRetrying(**_PATIENCE)


class Run:
    """A handle on a run; ``Run(id)`` is one on a run that another process submitted.

    Args:
        id: the run's id.

    Attributes:
        id: the run's id.
    """

    def __init__(
        self, id: str, *, of: session.Session | None = None, result_type: describe.ResultType | None = None
    ) -> None:
        self.id = id
        self._session = of or session.current()
        self._ledger = self._session.ledger
        self._result_type = result_type

    def __repr__(self) -> str:
        return f"<Run {self.id}>"

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``succeeded``, ``failed`` or ``cancelled``. Raises `RunNotFound`."""
        return self._ledger.run(self.id).state

    def result(self, timeout: float | None = None, *, progress: bool | None = None) -> Any:
        """Wait for the run, and return its value.

        Args:
            timeout: how long to wait, in seconds; the run goes on after it.
            progress: show a progress bar; None shows one on a terminal.

        Raises:
            ParallelExecutionError: a branch of a block failed.
            ParallelTimeoutError: a block reached its deadline.
            RunCancelled: the run was cancelled.
            RunFailed: it failed outside of a block.
            TimeoutError: the run had not ended after ``timeout`` seconds.
            RunNotFound: there is no such run.
            NestedWaitError: called inside a node.
        """
        self._refuse_inside()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            from egregore_dist.client.progress import shown

            with shown(self._ledger, self.id, progress) as update:
                begun: float | None = time.monotonic()
                while not _patient(self._ledger.wait, self.id, self._next_wait(deadline, update.interval)):
                    _patient(update)
                    self._check(timeout, deadline)
                    if begun is not None and time.monotonic() - begun > _TELL_AFTER:
                        begun = None
                        self._tell_if_unserved()
        except KeyboardInterrupt:
            log.warning(
                "stopped waiting; run %s goes on. Look at it with: egregore-dist runs show %s", self.id, self.id
            )
            raise
        return self._outcome()

    def cancel(self) -> str:
        """End the run now: nothing more starts, what runs is stopped. Returns its state after that.

        A run that has ended already stays as it is. Raises `RunNotFound`.
        """
        return self._ledger.cancel(self.id)

    def retry(self) -> str:
        """Run again what did not end well, and keep the rest. Returns the run's state.

        Only a run that failed or was cancelled is changed. Raises `RunNotFound`.
        """
        before, wanted = self._ledger.retry(self.id)
        if before not in ("failed", "cancelled"):
            return before
        publish.messages(self._session.app, self.id, wanted)
        return self.status

    def events(self, *, follow: bool = True) -> Iterator[Event]:
        """What happened and happens in the run, oldest first, until it ends.

        Args:
            follow: wait for what happens next; False stops at what is known.
        """
        cursor = "0"
        while True:
            # Asked before the events: what is read after the end is all there is.
            ended = self._ledger.run(self.id).state in ENDED
            found = self._ledger.events(self.id, cursor, 0 if ended or not follow else _WAIT)
            for cursor, fields in found:
                yield Event.of(cursor, fields)
            if not found and (ended or not follow):
                return

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def __aiter__(self) -> AsyncIterator[Event]:
        cursor = "0"
        async with self._ledger.watch() as watch:
            while True:
                ended = (await asyncio.to_thread(self._ledger.run, self.id)).state in ENDED
                found = await watch.events(self.id, cursor, 0 if ended else _WAIT)
                for cursor, fields in found:
                    yield Event.of(cursor, fields)
                if ended and not found:
                    return

    async def _wait(self) -> Any:
        self._refuse_inside()
        async with self._ledger.watch() as watch:
            while not await _apatient(watch.wait, self.id, _WAIT):
                await asyncio.to_thread(self._check, None, None)
        return await asyncio.to_thread(self._outcome)

    def _outcome(self) -> Any:
        record, raw = _patient(self._ledger.outcome, self.id)
        if record.state == "succeeded":
            if raw is None:
                raise errors.RunNotFound(f"run {self.id!r} has succeeded, but its value was deleted or has expired")
            return typed(codec.decode(raw), self._result_type, self.id)
        if record.state == "cancelled":
            raise errors.RunCancelled(f"run {self.id!r} was cancelled", run_id=self.id)
        raise self._reader().error()

    def _reader(self) -> Reader:
        work = self._ledger.work(self.id)
        return Reader(self._ledger, self.id, spec.decode(work.spec).root)

    def _check(self, timeout: float | None, deadline: float | None) -> None:
        _patient(self._ledger.run, self.id)
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"run {self.id!r} has not ended within {timeout} s; it goes on")

    def _tell_if_unserved(self) -> None:
        if self.status == "pending" and not _patient(self._ledger.reports):
            log.warning("run %s waits: no worker is alive. Start one: egregore-dist worker -m MODULE", self.id)

    def _refuse_inside(self) -> None:
        node = inside.current.get()
        if node is not None:
            raise errors.NestedWaitError(
                f"node {node!r} waits for run {self.id!r}, so it would hold the slot that the run needs: "
                "put the steps into the workflow of this node (`this >> those`), or submit the run and do not wait"
            )

    @staticmethod
    def _next_wait(deadline: float | None, interval: float) -> float:
        return interval if deadline is None else min(interval, max(0.001, deadline - time.monotonic()))

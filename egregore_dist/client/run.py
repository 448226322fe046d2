"""One execution of a workflow, as its submitter or anybody who knows its id sees it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import tenacity

from egregore_dist import errors
from egregore_dist.client import events, session, stored, waiting
from egregore_dist.client.deadlines import Deadlines
from egregore_dist.client.events import Event
from egregore_dist.client.logs import LogLine, Reading, Wanted
from egregore_dist.client.runreport import RunReport
from egregore_dist.client.typed import typed
from egregore_dist.client.why import Reason
from egregore_dist.engine import inside, publish
from egregore_dist.engine.outcome import Reader
from egregore_dist.ledger import ENDED, RunRecord, logs
from egregore_dist.ledger.replies import EVENTS_READ
from egregore_dist.wire import codec
from egregore_dist.workflow import describe, names

log = logging.getLogger(__name__)

# One wait on the server, in seconds: short enough to notice a run that was deleted, and to let Ctrl-C through.
_WAIT = 1.0


# What nodes that were stopped said last may come after the end, by so many seconds.
_LAST = 0.5

# Seconds until a run is seen to have nobody to serve it, and again after twice the time, up to the most.
_TELL_AFTER, _TELL_AT_MOST = 3.0, 60.0

# A server that is restarted does not end the wait for a run.
_PATIENCE: dict[str, Any] = {
    "retry": tenacity.retry_if_exception_type(errors.BrokerUnavailable),
    "wait": tenacity.wait_exponential(multiplier=0.1, max=2.0) + tenacity.wait_random(0, 0.1),
    "stop": tenacity.stop_after_delay(60),
    "reraise": True,
}
_patient = tenacity.Retrying(**_PATIENCE)
_apatient = tenacity.AsyncRetrying(**_PATIENCE)


def _patient_until(deadline: float | None) -> tenacity.Retrying:
    """As patient, but no longer than until a deadline; the last try is then."""
    if deadline is None:
        return _patient
    wait, stop = _PATIENCE["wait"], _PATIENCE["stop"]
    return _patient.copy(
        wait=lambda state: min(wait(state), max(0.0, deadline - time.monotonic())),
        stop=lambda state: stop(state) or time.monotonic() >= deadline,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How a run has ended: with a value, or an error."""

    value: Any = None
    error: errors.RunFailed | None = None

    def outcome(self) -> Any:
        """The value; raises the error."""
        if self.error is not None:
            raise self.error
        return self.value


class Run:
    """A handle on a run; ``Run(id)`` is one on a run that another process submitted.

    Args:
        id: the run's id.

    Attributes:
        id: the run's id.
    """

    def __init__(
        self,
        id: str,
        *,
        of: session.Session | None = None,
        result_type: describe.ResultType | None = None,
        epoch: str | None = None,
        created: int | None = None,
    ) -> None:
        self.id = id
        self._session = of or session.current()
        self._ledger = self._session.ledger
        self._result_type = result_type
        self._epoch = epoch
        self._created = created
        self._ended = False
        self._told_page = False
        # Tasks that wait for it at once each tell on a thread.
        self._telling = threading.Lock()
        self._seen = time.monotonic()

    def __repr__(self) -> str:
        return f"<Run {self.id}>"

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``paused``, ``succeeded``, ``failed`` or ``cancelled``.

        A run that is paused may still have branches that run. Raises `RunNotFound`, `RunLost`.
        """
        return self._record().state

    @property
    def monitor_url(self) -> str | None:
        """The link of its page in the web monitor, for a browser; None where there is no monitor.

        A cluster that this program started has one where the extra ``monitor`` is installed: who has that link may see
        everything and act as an operator, from this machine, so it is not for a log. Of any other cluster
        ``EGREGORE_MONITOR_URL`` says where it is.
        """
        return self._session.page_of(self.id)

    def why(self) -> list[Reason]:
        """Why what is pending waits; nothing for a run that has ended, or of which everything runs.

        It is a look at this moment, with what workers reported some seconds ago, at 50 open blocks at most: where there
        are more, the last reason says so. Raises `RunNotFound`, `RunLost`.
        """
        with self._missed():
            self._keep(self._ledger.run(self.id))
            return waiting.of_run(self._ledger, self._session.settings, self.id)

    def result(self, timeout: float | None = None, *, progress: bool | None = None) -> Any:
        """Wait for the run, and return its value.

        Args:
            timeout: how long to wait, in seconds; the run goes on after it. Some seconds longer where the server is
                there and does not answer.
            progress: show a progress bar, and before it the link of the run's page; None shows them on a terminal.

        Raises:
            ParallelExecutionError: a branch of a block failed.
            ParallelTimeoutError: a block reached its deadline.
            RunCancelled: the run was cancelled.
            RunFailed: it failed outside of a block.
            RunLost: the server has lost its data, and the run with it.
            TimeoutError: the run had not ended after ``timeout`` seconds, or nobody could say so.
            RunNotFound: there is no such run.
            NestedWaitError: called inside a node.
            BindingError: what its last node returned does not fit the annotation of that node.
            TypeError, ValueError: ``timeout`` is no number.
        """
        self._refuse_inside()
        _check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if progress is not False:
                self.tell_page()
            end = self._wait_until(deadline, progress)
        except KeyboardInterrupt:
            self._leave()
            raise
        except errors.BrokerUnavailable as error:
            if deadline is None or time.monotonic() < deadline:
                raise
            raise TimeoutError(
                f"run {self.id!r} was not seen to end within {timeout} s: {error}; once it is there the run goes on"
            ) from error
        if end is None:
            raise TimeoutError(f"run {self.id!r} has not ended within {timeout} s; it goes on")
        return end.outcome()

    def tell_page(self) -> bool:
        """Print the link of its page to standard error, once, where that is wanted; whether it was printed."""
        with self._telling:
            if not self._told_page and self._session.tells_pages():
                link = self.monitor_url
                self._told_page = link is not None
                if link is not None:
                    sys.stderr.write(f"{link}\n")
                    sys.stderr.flush()
            return self._told_page

    def cancel(self) -> str:
        """End the run now: nothing more starts, what runs is stopped. Returns its state after that.

        A run that has ended already stays as it is. Raises `RunNotFound`, `RunLost`.
        """
        with self._missed():
            return self._ledger.cancel(self.id, self._created)

    def pause(self) -> str:
        """Start nothing more of the run until `resume`. Returns its state after that.

        The branches that run go on to their end, nested blocks' too, and are kept; if they were the last ones, the run
        ends. Timeouts go on: who waits for a block with a ``timeout`` gets its error in time, paused or not. A
        run that is paused or has ended stays as it is. Raises `RunNotFound`, `RunLost`.
        """
        with self._missed():
            return self._ledger.pause(self.id, self._created)

    def resume(self) -> str:
        """Let a paused run go on. Returns its state after that.

        A run that is not paused stays as it is. Raises `RunNotFound`, `RunLost`.
        """
        with self._missed():
            state, wanted = self._ledger.resume(self.id, self._created)
        publish.messages(self._session.app, self.id, wanted)
        return state

    def retry(self) -> str:
        """Run again what did not end well, and keep the rest. Returns the run's state.

        Only a run that failed or was cancelled is changed. What its end has stopped is waited for first, the grace and
        three seconds at most, so that no branch runs beside its former attempt. Raises `RunNotFound`, `RunLost`.
        """
        with self._missed():
            if not self._session.let_stop(self.id):
                return self.status
            before, wanted = self._ledger.retry(self.id, self._created)
        if before not in ("failed", "cancelled"):
            return before
        publish.messages(self._session.app, self.id, wanted)
        return self.status

    def report(self) -> RunReport:
        """What the run has done until now, in numbers: totals, durations, by node, block and worker.

        It is made from the ledger, for a run that goes on too. Raises `RunNotFound`, `RunLost`.
        """
        from egregore_dist.client import accounting

        with self._missed():
            self._keep(self._ledger.run(self.id))
            return accounting.of_run(self._ledger, self.id, thread_width=self._session.settings.thread_width)

    def events(self, *, follow: bool = True, after: str = "0") -> Iterator[Event]:
        """What happened and happens in the run, oldest first, until it ends.

        Args:
            follow: wait for what happens next; False stops at what is known.
            after: the cursor of an event, to go on after it.

        Raises `RunNotFound`, `RunLost`, and `ConfigurationError` for what is no cursor.
        """
        events.check(after)
        return itertools.chain.from_iterable(self.batches(follow=follow, after=after))

    def aevents(self, *, after: str = "0") -> AsyncIterator[Event]:
        """As `events`, for an event loop. A run itself can be iterated so, too."""
        events.check(after)
        return self._aevents(after)

    def batches(self, wait: float = _WAIT, *, follow: bool = True, after: str = "0") -> Iterator[list[Event]]:
        """As `events`, but all that were read at once; none after ``wait`` seconds (3 at most) without any."""
        cursor = after
        while True:
            # Asked before the events: what is read after the end is all there is.
            ended = _patient(self._record).state in ENDED
            found = _patient(self._ledger.events, self.id, cursor, 0 if ended or not follow else wait)
            if not found and (ended or not follow):
                return
            told = _patient(events.read, self._ledger, self.id, cursor, found)
            yield told
            if told:
                cursor = told[-1].cursor

    def logs(
        self,
        block: str | None = None,
        branch: int | str | None = None,
        node: str | None = None,
        level: int | str | None = None,
        *,
        follow: bool = False,
        after: str = "0",
    ) -> Iterator[LogLine]:
        """What the nodes of the run logged and printed, oldest first, as far as it is kept.

        Args:
            block: of this block alone, by its id or its name.
            branch: of this branch of a block alone, by its position or its name.
            node: of this node alone.
            level: of this level and above, such as ``"WARNING"``.
            follow: wait for what is said next, until the run ends.
            after: the cursor of a line, to go on after it.

        Raises `RunNotFound`, `RunLost`, and `ConfigurationError` for a level that there is not.
        """
        wanted = Wanted.of(block, branch, node, level)
        return self._lines(Reading(wanted, is_all=after == "0"), after, follow)

    def alogs(
        self,
        block: str | None = None,
        branch: int | str | None = None,
        node: str | None = None,
        level: int | str | None = None,
        *,
        follow: bool = False,
        after: str = "0",
    ) -> AsyncIterator[LogLine]:
        """As `logs`, for an event loop."""
        wanted = Wanted.of(block, branch, node, level)
        return self._alines(Reading(wanted, is_all=after == "0"), after, follow)

    def _lines(self, reading: Reading, cursor: str, follow: bool) -> Iterator[LogLine]:
        while True:
            ended = _patient(self._record).state in ENDED
            found = _patient(self._ledger.events, self.id, cursor, _line_wait(ended, follow), "log")
            yield from reading.take(logs.entry(*each) for each in found)
            if found:
                cursor = found[-1][0]
            elif ended or not follow:
                return

    async def _alines(self, reading: Reading, cursor: str, follow: bool) -> AsyncIterator[LogLine]:
        async with self._ledger.watch() as watch:
            while True:
                ended = (await asyncio.to_thread(_patient, self._record)).state in ENDED
                found: list[Any] = await _apatient(watch.events, self.id, cursor, _line_wait(ended, follow), "log")
                for line in reading.take(logs.entry(*each) for each in found):
                    yield line
                if found:
                    cursor = found[-1][0]
                elif ended or not follow:
                    return

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._aevents("0")

    async def _aevents(self, cursor: str) -> AsyncIterator[Event]:
        async with self._ledger.watch() as watch:
            while True:
                ended = (await asyncio.to_thread(_patient, self._record)).state in ENDED
                found: list[Any] = await _apatient(watch.events, self.id, cursor, 0 if ended else _WAIT)
                read = partial(events.read, self._ledger, self.id, cursor, found)
                # Only where there are very many is the server asked again.
                for event in read() if len(found) < EVENTS_READ else await asyncio.to_thread(_patient, read):
                    cursor = event.cursor
                    yield event
                if ended and not found:
                    return

    def _wait_until(self, deadline: float | None, progress: bool | None) -> _End | None:
        """How the run has ended; None where it has not at the deadline."""
        from egregore_dist.client.progress import shown

        patient = _patient_until(deadline)
        if self._epoch is None:
            # Seen once, so that it can be told apart from one that never was when it is missing.
            patient(self._record)
        with shown(self._ledger, self.id, progress) as update:
            teller, deadlines = _Teller(self), Deadlines(self._session, self.id)
            while True:
                if patient(self._ledger.wait, self.id, self._next_wait(deadline, update.interval)):
                    end = patient(self._end)
                    if end is not None:
                        return end
                    continue
                patient(update)
                patient(self._record)
                if deadline is not None and time.monotonic() >= deadline:
                    return None
                if deadlines.is_due():
                    deadlines.keep()
                if teller.is_due():
                    teller.tell()

    async def _wait(self) -> Any:
        self._refuse_inside()
        try:
            if not self._told_page and self._session.tells_pages():
                await asyncio.to_thread(self.tell_page)
            return await self._wait_for_end()
        except asyncio.CancelledError:
            if _is_interrupted():
                self._leave()
            raise

    async def _wait_for_end(self) -> Any:
        if self._epoch is None:
            await asyncio.to_thread(_patient, self._record)
        teller, deadlines = _Teller(self), Deadlines(self._session, self.id)
        async with self._ledger.watch() as watch:
            while True:
                if not await _apatient(watch.wait, self.id, _WAIT):
                    await asyncio.to_thread(_patient, self._record)
                    if deadlines.is_due():
                        await asyncio.to_thread(deadlines.keep)
                    if teller.is_due():
                        await asyncio.to_thread(teller.tell)
                elif (end := await asyncio.to_thread(_patient, self._end)) is not None:
                    return end.outcome()

    def _end(self) -> _End | None:
        """How the run has ended; None where it goes on again, since it was retried meanwhile."""
        with self._missed():
            record, raw = self._ledger.outcome(self.id)
            self._keep(record)
            if record.state not in ENDED:
                return None
            if record.state == "succeeded":
                if raw is None:
                    raise errors.RunNotFound(f"run {self.id!r} has succeeded, but its value was deleted or has expired")
                return _End(value=typed(codec.decode(raw), self._result_type, self.id))
            if record.state == "cancelled":
                return _End(error=errors.RunCancelled(f"run {self.id!r} was cancelled", run_id=self.id))
            try:
                error = self._reader().error()
            except errors.BrokerUnavailable:
                raise
            except Exception:
                if self._ledger.run(self.id).ended == record.ended:
                    raise
                return None
            # Of what belongs to one end, part may have been read after a retry has begun to take it away.
            return _End(error=error) if self._ledger.run(self.id).ended == record.ended else None

    def _reader(self) -> Reader:
        return Reader(self._ledger, self.id, stored.workflow(self._ledger, self.id).root, patient=True)

    def _record(self) -> RunRecord:
        with self._missed():
            record = self._ledger.run(self.id)
            self._keep(record)
            return record

    def _keep(self, record: RunRecord) -> None:
        created = round(record.created * 1000)
        if self._epoch not in (None, record.epoch) or self._created not in (None, created):
            raise errors.RunNotFound(f"the run {self.id!r} that is there now is another one")
        self._epoch, self._created = record.epoch, created
        self._ended, self._seen = record.state in ENDED, time.monotonic()

    @contextmanager
    def _missed(self) -> Iterator[None]:
        """Tell a run that the server has lost from one that it never had, or that was deleted or has expired."""
        try:
            yield
        except errors.RunNotFound:
            if self._epoch is None:
                raise
            if _patient(self._is_used_again):
                raise errors.RunNotFound(
                    f"run {self.id!r} is gone: it was deleted, or has expired, and its id was used again. "
                    f"Run({self.id!r}) is the run that has it now"
                ) from None
            if _patient(self._ledger.epoch) != self._epoch:
                raise errors.RunLost(
                    f"run {self.id!r} is lost: the server has come back without its data; submit it again",
                    run_id=self.id,
                ) from None
            # A run expires only after its end, and only after the end may somebody delete it.
            if self._ended or time.monotonic() - self._seen > self._session.settings.retention:
                raise
            raise errors.RunLost(
                f"run {self.id!r} is lost: it had not ended when it was last seen, and the server does not have it. "
                "The server has lost its last writes, unless somebody has deleted the run; submit it again",
                run_id=self.id,
            ) from None

    def _is_used_again(self) -> bool:
        try:
            record = self._ledger.run(self.id)
        except errors.RunNotFound:
            return False
        return record.epoch == self._epoch and round(record.created * 1000) != self._created

    def _publish(self, message: Callable[[], None]) -> None:
        # Whoever waits for the run is told how to find it, from here on.
        try:
            message()
        except KeyboardInterrupt:
            self._leave()
            raise

    def _leave(self) -> None:
        self._session.leave(self.id)
        if self._session.embedded:
            said = "stopped waiting; run %s goes on until this program ends. Wait for it again with: Run(%r).result()"
        else:
            said = "stopped waiting; run %s goes on. Look at it with: egregore-dist runs show %s"
        log.warning(said, self.id, self.id)

    def _refuse_inside(self) -> None:
        node = inside.caller()
        if node is not None:
            raise errors.NestedWaitError(
                f"{node} waits for run {self.id!r}, so it would hold the slot that the run needs: "
                "put the steps into the workflow of this node (`this >> those`), or submit the run and do not wait"
            )

    @staticmethod
    def _next_wait(deadline: float | None, interval: float) -> float:
        return interval if deadline is None else min(interval, max(0.001, deadline - time.monotonic()))


def _is_interrupted() -> bool:
    """Whether this event loop ends by Ctrl-C: `asyncio.run` cancels its task then, and tells nobody why."""
    handler = signal.getsignal(signal.SIGINT)
    return bool(getattr(getattr(getattr(handler, "func", None), "__self__", None), "_interrupt_count", 0))


def _line_wait(ended: bool, follow: bool) -> float:
    if not follow:
        return 0.0
    return _LAST if ended else _WAIT


class _Teller:
    """Tells who waits for a run, once each, that no live worker serves a queue, or that there is none at all."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told: set[tuple[str, ...]] = set()
        self._pause = _TELL_AFTER
        self._due = time.monotonic() + self._pause

    def is_due(self) -> bool:
        """Whether it is time to look."""
        return time.monotonic() >= self._due

    def tell(self) -> None:
        """Look, and log what was not told before."""
        try:
            found = self._run.why()
        except errors.BrokerUnavailable:
            # Whoever waits is told of that otherwise.
            found = []
        for reason in found:
            what = (reason.kind, *reason.names[:1])
            if reason.kind in ("queue", "workers") and what not in self._told:
                self._told.add(what)
                extra = {"action": "run_unserved", "run_id": self._run.id}
                log.warning("run %s waits: %s", self._run.id, reason, extra=extra)
        self._pause = min(2 * self._pause, _TELL_AT_MOST)
        self._due = time.monotonic() + self._pause


def _check_timeout(timeout: object) -> None:
    if timeout is None:
        return
    said = f"timeout must be a number of seconds, or None to wait for the end, not {names.shortened(timeout)}"
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(said)
    if math.isnan(timeout):
        raise ValueError(said)

"""The warden of a pool: ends the processes that do not stop, and gives back at once what dead ones held."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from celery import Celery
from celery.worker import state

from egregore_dist import errors
from egregore_dist.engine import publish
from egregore_dist.engine.board import NEVER, NOBODY, Call, Note, Reader, Rest, Where
from egregore_dist.engine.later import Later
from egregore_dist.ledger import Ledger, Loss, Message, Overrun
from egregore_dist.resources import cgroup, oom, recorder, router
from egregore_dist.wire import failure
from egregore_dist.wire.failure import Failure
from egregore_dist.worker import shortage
from egregore_dist.worker.heldup import HeldUp
from egregore_dist.worker.orphans import Orphans

log = logging.getLogger(__name__)

# Seconds. A branch that takes longer than the first is asked about every so often: it may not be its lane's any more.
_LONG = _ASK_EVERY = 1.0
# A lane that has not ended its block by itself so long after the deadline does not come to it.
_LATE = 0.1
# The kernel's count of those it killed may be ahead of the news of a death by so much.
_OOM_WINDOW = 5.0

Reason = tuple[object, ...]


@dataclass(slots=True)
class _Child:
    """One process of the pool.

    ``condemned`` is what it should stop for, and since when each is known; ``asked`` when the ledger was, ``gone`` what
    it said it does not hold any more; ``killed`` when it was, and ``blamed`` why its branch is to blame for that;
    ``held`` the bytes that it was last seen to hold, and at which branch, by when that began, or as which lane of many;
    ``is_reaped``: the pool has heard of its end, and had not yet noted how it ended.
    """

    pid: int
    reader: Reader
    process: Any = None
    condemned: dict[Reason, float] = field(default_factory=dict)
    asked: float = 0.0
    gone: Reason | None = None
    killed: float | None = None
    blamed: str = ""
    held: tuple[float | Where, int] = (0.0, 0)
    is_reaped: bool = False


@dataclass(slots=True)
class _Dead:
    """A process that has died; its branch had lasted so many seconds, and it was last seen to hold so much memory."""

    pid: int
    note: Note
    loss: Loss
    held: int
    lasted: float
    out_of_memory: bool = False


@dataclass(slots=True)
class _OutOfMemory:
    """Tells which of the killed processes the kernel killed for want of memory."""

    counts: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self) -> None:
        count = cgroup.oom_kills()
        if count is not None:
            now = monotonic()
            self.counts.append((now, count))
            while self.counts[0][0] < now - _OOM_WINDOW:
                self.counts.popleft()

    def killed(self) -> bool:
        """Whether one more was killed than has been asked for here; asked for each that died by SIGKILL."""
        self.look()
        if not self.counts or self.counts[-1][1] <= self.counts[0][1]:
            return False
        self.counts = deque((at, max(count, self.counts[0][1] + 1)) for at, count in self.counts)
        return True


class Warden:
    """Watches the processes of one prefork pool through their boards. Its methods may be called from any thread.

    Args:
        app: publishes what transitions ask for.
        grace: seconds from the moment that a process should stop to the one that it is killed.
        folder: the boards.
        busy: tells the processes that have lanes.
        report_ttl: seconds after which a silent worker counts as gone.
    """

    def __init__(
        self,
        ledger: Ledger,
        app: Celery,
        *,
        grace: float,
        folder: Path,
        busy: Callable[[], Collection[int]],
        report_ttl: float,
    ) -> None:
        self._ledger = ledger
        self._app = app
        self._grace = grace
        self._folder = folder
        self._busy = busy
        self._report_ttl = report_ttl
        self._processes: dict[int, Any] = {}
        self._children: dict[int, _Child] = {}
        self._dead: list[_Dead] = []
        self._ended: set[tuple[str, str]] = set()
        self._held_up = HeldUp()
        self._orphans = Orphans()
        # Processes that could not make a board.
        self._unseen: set[int] = set()
        self._out_of_memory = _OutOfMemory()
        self._later = Later()
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def started(self, process: Any) -> None:
        """A process of the pool was started."""
        self._processes[process.pid] = process
        # Its branch can be tried again; without the main process all of the worker's are lost for some seconds.
        oom.end_first(process.pid)

    def round(self) -> None:
        """Look at every process, and do what has to be done.

        Raises:
            errors.BrokerUnavailable: the ledger cannot be reached; what it has to hear is told in a later round.
        """
        with self._lock:
            self._orphans.round()
            self._find()
            self._out_of_memory.look()
            notes = [(child, note) for child in self._children.values() if (note := child.reader.read()) is not None]
            for child, note in notes:
                self._judge(child, note)
            self._give_back()
            self._end_blocks(notes)
            self._ask(notes)
            # Last of all: while the ledger is away, processes may well wait.
            self._free()

    def notes(self) -> list[Note]:
        """What the processes are executing now."""
        with self._lock:
            return [note for child in self._children.values() if (note := child.reader.read()) is not None]

    def bury(self) -> None:
        """Give back what processes held that have died by now.

        Raises:
            errors.BrokerUnavailable: the ledger cannot be reached.
        """
        with self._lock:
            self._find()
            for child in self._children.values():
                # Nobody looks again.
                child.is_reaped = True
            self._give_back()

    def widths(self) -> dict[str, int]:
        """The lanes that run now, by id, and how many branches each may run at a time."""
        with self._lock:
            notes = [child.reader.read() for child in self._children.values()]
            return {note.where.lane: note.where.width for note in notes if note is not None}

    def _find(self) -> None:
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name.isdigit() and (pid := int(path.name)) not in self._children:
                try:
                    self._children[pid] = _Child(pid, Reader(path), self._processes.get(pid))
                except (OSError, ValueError):
                    # It is being made, or could not be.
                    continue
        for pid, process in list(self._processes.items()):
            if pid not in self._children and _code(process) is not None:
                (self._folder / str(pid)).unlink(missing_ok=True)
                self._unseen.discard(pid)
                del self._processes[pid]

    # Those that live

    def _judge(self, child: _Child, note: Note) -> None:
        now = monotonic()
        work = _at_work(note, now)
        if work.branch != NOBODY or note.loop:
            # Of one that is dead already, nothing can be seen.
            held = recorder.held(child.pid)
            child.held = (_what_holds(work), held) if held else child.held
        reasons = _reasons(note, now)
        lane = _lane(note)
        if child.gone in (lane, (*lane, note.branch, note.since)):
            gone: Reason = ("gone", child.gone)
            reasons.append(gone)
            if gone not in child.condemned and not note.loop:
                # Its own thread may not get to say so, where C code holds the GIL; some looks for signals.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGALRM)
        child.condemned = {reason: child.condemned.get(reason, now) for reason in reasons}
        for reason, since in child.condemned.items():
            asked = note.asked if reason[0] == "gone" and note.asked != NEVER else since
            if now >= max(since, asked) + self._grace and child.killed is None:
                self._kill(child, note, now)

    def _kill(self, child: _Child, note: Note, now: float) -> None:
        log.warning(
            "process %d is killed: run %s, block %s, %s did not stop within %g s",
            child.pid,
            note.where.run,
            note.where.block,
            _nodes(_overdue(note, now) or [note.call]),
            self._grace,
            extra={"action": "process_killed", "run_id": note.where.run},
        )
        self._end(child, now)

    @staticmethod
    def _end(child: _Child, now: float) -> None:
        child.killed = now
        _kill(child.pid)

    def _free(self) -> None:
        # What holds up a process that calls no node may hold it up for ever: it would keep its slot, and its branches.
        resting = {pid: rest for pid in self._busy() if (rest := self._rest(pid)) is not None}
        found = self._held_up.look(resting)
        if self._held_up.doubtful:
            try:
                self._ledger.now()
            except errors.BrokerUnavailable:
                self._held_up.forget()
                raise
        for pid, why in found.items():
            if self._rest(pid) != resting[pid]:
                # It went on while the ledger was asked.
                continue
            log.warning("process %d is killed: %s", pid, why, extra={"action": "process_killed"})
            if (child := self._children.get(pid)) is not None:
                child.blamed = why if resting[pid].where == "code" else ""
                self._end(child, monotonic())
            elif pid in self._processes and _code(self._processes[pid]) is None:
                _kill(pid)

    def _rest(self, pid: int) -> Rest | None:
        child = self._children.get(pid)
        if child is not None:
            return child.reader.rests() if child.killed is None else None
        # It may not have come to make a board; of one that could not, nothing is known.
        if pid in self._unseen or (self._folder / str(pid)).exists() or not self._takes_files():
            self._unseen.add(pid)
            return None
        return Rest("away")

    def _takes_files(self) -> bool:
        probe = self._folder / "probe"
        try:
            probe.touch()
            probe.unlink()
        except OSError:
            return False
        return True

    def _end_blocks(self, notes: list[tuple[_Child, Note]]) -> None:
        # Its lanes would have ended it; where all are stuck in their nodes, a janitor's next round is far away.
        late = {
            (note.where.run, note.where.block)
            for _, note in notes
            if note.stop_at + _LATE <= monotonic() and (note.branch != NOBODY or note.loop)
        }
        for run, block in late - self._ended:
            try:
                self._publish(run, self._ledger.sweep(run, "deadline", block, workers=None))
            except errors.BrokerUnavailable:
                raise
            except Exception:
                # One block that cannot be dealt with must not keep the others waiting.
                log.exception("warden: run %s, block %s", run, block, extra={"action": "sweep_failed", "run_id": run})
            self._ended.add((run, block))
        self._ended &= late

    def _ask(self, notes: list[tuple[_Child, Note]]) -> None:
        now = monotonic()
        due = [(child, note) for child, note in notes if _is_long(note, now) and child.asked + _ASK_EVERY <= now]
        if not due:
            return
        held = self._ledger.held(
            [
                (note.where.run, note.where.block, None if note.branch == NOBODY else note.branch, note.where.token)
                for _, note in due
            ]
        )
        for (child, note), holds in zip(due, held, strict=True):
            lane = _lane(note)
            branch = () if note.branch == NOBODY else (note.branch, note.since)
            child.asked, child.gone = now, None if holds else (*lane, *branch)

    # Those that died

    def _give_back(self) -> None:
        for child in list(self._children.values()):
            ended = _how_it_ended(child)
            if ended is None:
                continue
            note = child.reader.read()
            if note is not None:
                self._dead.append(self._died(child, _at_work(note, monotonic()), *ended))
            self._orphans.died(child.reader.path)
            child.reader.close()
            child.reader.path.unlink(missing_ok=True)
            del self._children[child.pid]
            self._unseen.discard(child.pid)
            self._processes.pop(child.pid, None)
        while self._dead:
            dead = self._dead[0]
            where = dead.note.where
            try:
                if dead.out_of_memory:
                    self._make_room(dead)
                wanted = self._ledger.lost(where.run, where.block, where.token, dead.loss)
                self._publish(where.run, wanted)
            except errors.BrokerUnavailable:
                raise
            except Exception:
                # The janitor finds it too; the others must not wait for this one.
                log.exception("warden: process %d", dead.pid, extra={"action": "give_back_failed"})
            self._dead.pop(0)

    def _publish(self, run: str, wanted: list[Message]) -> None:
        # On a thread of its own: a broker that does not answer must not keep the worker from reporting, nor from
        # ending processes. What it does not take, a janitor asks for again.
        if wanted:
            self._later.put(f"{run} {next(self._numbers)}", 0.0, partial(publish.messages, self._app, run, wanted))

    def _make_room(self, dead: _Dead) -> None:
        try:
            short = shortage.after(self._ledger, dead.note, held=dead.held, lasted=dead.lasted, ttl=self._report_ttl)
            dead.loss = replace(dead.loss, short=short)
        except errors.BrokerUnavailable:
            raise
        except Exception:
            # Its branch is given back all the same.
            log.exception("warden: process %d", dead.pid, extra={"action": "not_reserved"})
        # What was done for it is not done again where the ledger is away after that.
        dead.out_of_memory = False

    def _died(self, child: _Child, note: Note, code: int | None, text: str) -> _Dead:
        held = child.held[1] if child.held[0] == _what_holds(note) else 0
        is_short = code == -signal.SIGKILL and child.killed is None and self._out_of_memory.killed()
        if is_short:
            text += f" (out of memory), it held {router.size(held)}" if held else " (out of memory)"
        loss = self._loss(child, note, text)
        lasted = monotonic() - note.since
        is_lost = is_short and loss.verdict == "lost"
        loss = replace(loss, lacked_memory=is_lost)
        return _Dead(child.pid, note, loss, held=held, lasted=lasted, out_of_memory=is_lost)

    def _loss(self, child: _Child, note: Note, text: str) -> Loss:
        branch = None if note.branch == NOBODY else note.branch
        if child.blamed:
            why = f"its process was killed: {child.blamed}"
            return Loss(verdict="lost", branch=branch, why=why, node=note.node)
        if child.killed is not None:
            # Not only the one that had its grace: one kill is enough for all that were over their timeouts by then.
            return Loss(verdict="stopped", overruns=tuple(_overrun(call) for call in _overdue(note, child.killed)))
        if state.should_terminate:
            return Loss(verdict="stopped")
        log.warning(
            "process %d died: %s; run %s, block %s, node %r",
            child.pid,
            text,
            note.where.run,
            note.where.block,
            note.node,
            extra={"action": "process_died", "run_id": note.where.run},
        )
        return Loss(verdict="lost", branch=branch, why=f"its process {text}", node=note.node)


def _reasons(note: Note, now: float) -> list[Reason]:
    # Why a process should stop, by what has to change for it to have stopped.
    where = note.where
    found: list[Reason] = [("node", where.block, where.token, call.branch, call.called) for call in _overdue(note, now)]
    if note.stop_at <= now and (note.branch != NOBODY or note.loop):
        found.append(("block", where.block, where.token))
    return found


def _at_work(note: Note, now: float) -> Note:
    # While an event loop waits, the process may be at a call on a thread: where there is one, at that. One that is
    # overdue may be a call on the loop.
    if note.branch != NOBODY or len(note.watched) != 1 or note.watched[0].stop_at <= now:
        return note
    (call,) = note.watched
    return replace(note, call=call, since=call.called)


def _what_holds(note: Note) -> float | Where:
    # Many branches share what their process holds.
    return note.where if note.loop else note.since


def _lane(note: Note) -> Reason:
    # With the track: a lane that has none left of one may go on with another's.
    return (note.where.block, note.where.track, note.where.token)


def _overdue(note: Note, now: float) -> list[Call]:
    # The calls that go on after their nodes' timeouts. A turn on an event loop may be that of one that is watched.
    found = {(call.branch, call.called): call for call in (*note.watched, note.call) if call.branch != NOBODY}
    return [call for call in found.values() if call.stop_at <= now]


def _nodes(calls: Iterable[Call]) -> str:
    counts = Counter(call.node for call in calls)
    return ", ".join(f"node {name!r}" + (f" in {n} branches" if n > 1 else "") for name, n in counts.items())


def _is_long(note: Note, now: float) -> bool:
    return note.since + _LONG <= now and (note.branch != NOBODY or note.loop)


def _overrun(call: Call) -> Overrun:
    found = Failure(
        kind="timeout",
        type=TimeoutError.__name__,
        message=f"node {call.node!r} did not end within its timeout of {call.timeout:g} s, and its process was killed",
        node=call.node,
        attempt=call.attempt,
    )
    return Overrun(
        branch=call.branch,
        node=call.node,
        calls=call.calls,
        most=call.retries + 1,
        failure=failure.encode(found),
    )


def _how_it_ended(child: _Child) -> tuple[int | None, str] | None:
    # Only looked at: the pool has to hear of it too.
    code: int | None = None
    try:
        if hasattr(os, "waitid"):
            found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return None
            code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        elif child.process is None:
            os.kill(child.pid, 0)
            return None
        else:
            code = child.process.exitcode
            return None if code is None else (code, _said(code))
    except (ChildProcessError, ProcessLookupError):
        code = _code(child.process)
        if code is None and child.process is not None and not child.is_reaped:
            # The pool has just heard of it, and notes in this moment how it ended.
            child.is_reaped = True
            return None
    return code, _said(code)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _code(process: Any) -> int | None:
    # What the pool has found out; it is not asked to look.
    return getattr(getattr(process, "_popen", None), "returncode", None)


def _said(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

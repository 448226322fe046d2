"""When what ran where: told from the run's stream of events, read on from where it was read to before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from egregore_dist.client.events import Event
from egregore_dist.ledger import Ledger, browse
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.watch import EVENTS_READ

# Attempts that are remembered of one run, and runs that are: the events themselves stay in the ledger.
_ATTEMPTS_KEPT = 20_000
_RUNS_KEPT = 8


@dataclass(slots=True)
class Attempt:
    """One execution of a branch, or of some tiny ones that were leased together. Times are seconds, as an event's.

    Attributes:
        start: when it was leased.
        end: when it ended; None while it runs.
        how: "running", "ok", "error", "lost", "returned" (not begun), or how its block ended under it.
        worker: where.
    """

    start: float
    end: float | None
    how: str
    worker: str


@dataclass(slots=True)
class BlockTimes:
    """When a block was open. ``ended`` is None while it is."""

    id: str
    name: str
    n: int
    opened: float
    ended: float | None = None
    state: str = "open"


@dataclass(slots=True)
class Timeline:
    """What a run's events say of times.

    Attributes:
        blocks: by id, in the order in which they were opened.
        attempts: by block and branch.
        submitted: when the run was; None where the stream has lost its beginning.
        started: when its first branch was.
        ended: when it ended.
        cursor: of the last event that was read.
        partial: the stream, which is bounded, has lost its beginning, or has more than is remembered.
    """

    blocks: dict[str, BlockTimes] = field(default_factory=dict)
    attempts: dict[tuple[str, int], list[Attempt]] = field(default_factory=dict)
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    cursor: str = "0"
    partial: bool = False
    _kept: int = 0
    _live: dict[str, set[int]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take one event in."""
        if self.cursor == "0" and event.type != "run.submitted":
            self.partial = True
        self.cursor = event.cursor
        match event.type:
            case "run.submitted":
                self.submitted = event.time
            case "run.started":
                self.started = event.time
            case "run.ended":
                self.ended = event.time
            case "run.retried":
                self.ended = None
            case "block.opened" if event.block is not None:
                self._open(event.block, event)
            case "branches.started" if event.block is not None:
                for branch in event.branches:
                    self._start(event.block, branch, event)
            case "branches.ended" if event.block is not None:
                for branch in event.branches:
                    self._end(event.block, branch, event.time, "ok")
                for branch in event.failed:
                    self._end(event.block, branch, event.time, "error")
            case "branch.lost" | "branch.returned" if event.block is not None:
                for branch in event.branches:
                    self._end(event.block, branch, event.time, event.type.removeprefix("branch."))
            case "block.ended" if event.block is not None:
                self._close(event.block, event)
            case _:
                pass

    def _open(self, block: str, event: Event) -> None:
        known = self.blocks.get(block)
        if known is None:
            name, n = event.detail.get("name", ""), int(event.detail.get("n", 0))
            self.blocks[block] = BlockTimes(block, name, n, event.time)
        else:
            known.ended, known.state = None, "open"

    def _start(self, block: str, branch: int, event: Event) -> None:
        attempts = self.attempts.get((block, branch), [])
        if attempts and attempts[-1].end is None:
            # It was given back before it began, and that is no event.
            attempts.pop()
            self._kept -= 1
        if self._kept >= _ATTEMPTS_KEPT:
            self.partial = True
            return
        self.attempts[block, branch] = attempts
        attempts.append(Attempt(event.time, None, "running", event.worker or ""))
        self._kept += 1
        self._live.setdefault(block, set()).add(branch)

    def _end(self, block: str, branch: int, at: float, how: str) -> None:
        attempts = self.attempts.get((block, branch))
        if attempts and attempts[-1].end is None:
            attempts[-1].end, attempts[-1].how = at, how
        self._live.get(block, set()).discard(branch)

    def _close(self, block: str, event: Event) -> None:
        state = event.detail.get("state", "")
        if block in self.blocks:
            self.blocks[block].ended, self.blocks[block].state = event.time, state
        for branch in self._live.pop(block, set()):
            attempts = self.attempts[block, branch]
            if attempts and attempts[-1].end is None:
                attempts[-1].end, attempts[-1].how = event.time, "cancelled" if state in ("ok", "error") else state

    def critical(self, now: float) -> set[str | tuple[str, int]]:
        """What the run's end waited for: blocks by id, and the last branch of each to end, by block and position."""
        last: dict[str, tuple[float, int]] = {}
        for (block, branch), attempts in self.attempts.items():
            if attempts:
                end = attempts[-1].end or now
                if block not in last or end > last[block][0]:
                    last[block] = (end, branch)
        inside: dict[tuple[str, int], list[str]] = {}
        for block in self.blocks:
            parent, branch = _hangs_on(block)
            inside.setdefault((parent, branch), []).append(block)
        found: set[str | tuple[str, int]] = set()
        todo = list(inside.get((ROOT, 0), ()))
        while todo:
            block = todo.pop()
            found.add(block)
            if block in last:
                place = (block, last[block][1])
                found.add(place)
                todo += inside.get(place, ())
        return found


class Timelines:
    """The timelines of the runs that were looked at last, each read on where it is asked for again."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: OrderedDict[tuple[str, float], tuple[threading.Lock, Timeline]] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def read(self, run: str, created: float) -> Iterator[Timeline]:
        """A run's timeline up to now; it does not change within the body.

        Args:
            run: its id.
            created: when it was submitted: an id may be used again after a run was deleted.
        """
        with self._lock:
            key = (run, created)
            if key not in self._known:
                self._known[key] = (threading.Lock(), Timeline())
            self._known.move_to_end(key)
            lock, timeline = self._known[key]
            while len(self._known) > _RUNS_KEPT:
                self._known.popitem(last=False)
        with lock:
            while found := browse.events(self._ledger, run, timeline.cursor):
                for cursor, fields in found:
                    timeline.add(Event.of(cursor, fields))
                if len(found) < EVENTS_READ:
                    break
            yield timeline


def _hangs_on(block: str) -> tuple[str, int]:
    """The block and branch that a block is nested in: its id is ``<parent>.<branch>-<path>``."""
    parent, _, own = block.rpartition(".")
    return parent, int(own.partition("-")[0] or 0) if parent else 0

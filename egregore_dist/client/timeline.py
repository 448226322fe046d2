"""When what ran where: told from the run's stream of events."""

from __future__ import annotations

from dataclasses import dataclass, field

from egregore_dist.client.events import Event, Spent
from egregore_dist.ledger import Ledger, browse
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.replies import EVENTS_READ

# Attempts that are remembered of one run: the events themselves stay in the ledger.
_ATTEMPTS_KEPT = 20_000


@dataclass(slots=True)
class Attempt:
    """One execution of a branch, or of some tiny ones that were leased together. Times are seconds, as an event's.

    Attributes:
        start: when it was leased.
        end: when it ended; None while it runs.
        how: "running", "ok", "error", "lost", "stopped" (for its node's timeout), or how its block ended under it.
        worker: where.
        together: with how many branches, itself included, it was leased.
        number: which attempt of the branch it was, from 1, with the calls of its node that failed in it.
        size: bytes of its encoded value; None without one.
        spent: what it took, where that was measured.
    """

    start: float
    end: float | None
    how: str
    worker: str
    together: int = 1
    number: int = 1
    size: int | None = None
    spent: Spent | None = None


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
        retried: when it was retried.
        cursor: of the last event that was read.
        partial: the stream, which is bounded, has lost its beginning, or has more than is remembered.
    """

    blocks: dict[str, BlockTimes] = field(default_factory=dict)
    attempts: dict[tuple[str, int], list[Attempt]] = field(default_factory=dict)
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    retried: list[float] = field(default_factory=list)
    cursor: str = "0"
    partial: bool = False
    _kept: int = 0
    _live: dict[str, set[int]] = field(default_factory=dict)
    _parked: set[tuple[str, int]] = field(default_factory=set)

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
                self.retried.append(event.time)
            case "block.opened" if event.block not in (None, ROOT):
                assert event.block is not None
                self._open(event.block, event)
            case "branches.started" if event.block is not None:
                for branch in event.branches:
                    self._start(event.block, branch, event)
            case "branches.ended" if event.block is not None:
                for branch in event.branches:
                    self._end(event.block, branch, event, "ok")
                for branch in event.failed:
                    self._end(event.block, branch, event, "error")
            case "branch.again" if event.block is not None:
                # The node has failed, and is tried again: see `Limit`.
                for branch in event.branches:
                    self._end(event.block, branch, event, "error")
            case "branch.lost" | "branch.stopped" if event.block is not None:
                for branch in event.branches:
                    self._end(event.block, branch, event, event.type.removeprefix("branch."))
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
        place = hangs_on(block)
        attempts = self.attempts.get(place)
        if attempts and attempts[-1].end is not None:
            # A retry opens the block again, and the branch waits for it without having been leased.
            self._start(*place, event)
        self._parked.add(place)

    def _start(self, block: str, branch: int, event: Event) -> None:
        attempts = self.attempts.get((block, branch), [])
        if attempts and attempts[-1].end is None:
            if (block, branch) in self._parked:
                # It goes on after the block that it has met.
                return
            # It was given back before it began, and that is no event.
            attempts.pop()
            self._kept -= 1
        if self._kept >= _ATTEMPTS_KEPT:
            self.partial = True
            return
        self.attempts[block, branch] = attempts
        made = Attempt(event.time, None, "running", event.worker or "", max(1, len(event.branches)))
        made.number = event.attempts.get(branch, 1)
        attempts.append(made)
        self._kept += 1
        self._live.setdefault(block, set()).add(branch)

    def _end(self, block: str, branch: int, event: Event, how: str) -> None:
        attempts = self.attempts.get((block, branch))
        # The last time that it was stopped it has failed with that, and both are said.
        if attempts and (attempts[-1].end is None or (attempts[-1].how, how) == ("stopped", "error")):
            last = attempts[-1]
            last.end, last.how = event.time, how
            last.number = event.attempts.get(branch, last.number)
            last.size, last.spent = event.sizes.get(branch), event.spent.get(branch, last.spent)
        self._live.get(block, set()).discard(branch)
        self._parked.discard((block, branch))

    def _close(self, block: str, event: Event) -> None:
        state = event.detail.get("state", "")
        if block in self.blocks:
            self.blocks[block].ended, self.blocks[block].state = event.time, state
        for branch in self._live.pop(block, set()):
            self._parked.discard((block, branch))
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
            parent, branch = hangs_on(block)
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


def read_on(ledger: Ledger, run: str, timeline: Timeline) -> None:
    """Take in what has happened in a run since the timeline was read last. Raises `errors.BrokerUnavailable`."""
    while found := browse.events(ledger, run, timeline.cursor):
        for cursor, fields in found:
            timeline.add(Event.of(cursor, fields))
        if len(found) < EVENTS_READ:
            break


def hangs_on(block: str) -> tuple[str, int]:
    """The block and branch that a block is nested in: its id is ``<parent>.<branch>-<path>``."""
    parent, _, own = block.rpartition(".")
    return parent, int(own.partition("-")[0] or 0) if parent else 0

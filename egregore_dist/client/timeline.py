"""When what ran where: told from the run's stream of events, and, where that is incomplete, from its records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from egregore_dist.client.events import Event, FailedCall, Spent
from egregore_dist.ledger import Ledger, RunRecord, browse
from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.replies import EVENTS_READ

# Attempts and blocks that are remembered of one run: the events themselves stay in the ledger.
_ATTEMPTS_KEPT = 20_000
_BLOCKS_KEPT = 20_000
# Seconds. By the record a block is opened when its transition begins, and by the event a little later.
_APART = 1.0

# Instants of events are whole milliseconds, so what is between two of them may be so many seconds longer.
_ROUNDED = 0.001


class Park(msgspec.Struct, gc=False):
    """A stretch of an attempt in which its branch waits for a block that it has met. Times are seconds.

    Attributes:
        block: the block.
        since: when that was opened.
        until: when the branch went on; while that is not ``told``, when the block ended well; None before.
        worker: where it went on; "" where that is not known.
        told: whether an event tells that it has gone on. The lane that ends a block goes on behind it without an event;
            where it may not, the branch waits for another one.
    """

    block: str
    since: float
    until: float | None = None
    worker: str = ""
    told: bool = False


class Attempt(msgspec.Struct, gc=False):
    """One execution of a branch, or a part of it: up to a call that failed, or from the next one on. Times are seconds.

    Attributes:
        start: when it began; until it has ended, and where it was not told how long it took, when it was leased.
        end: when it ended; None while it runs.
        how: "running", "ok", "error", "lost", "stopped" (for its node's timeout), or how its block ended under it.
        worker: where.
        together: with how many branches, itself included, it was leased.
        number: which attempt of the branch it was, from 1, with the calls of its node that failed in it.
        size: bytes of its encoded value; None without one.
        spent: what it took, where that was measured.
        node: the node that it failed, was lost or was stopped at; "" where that is not known.
        at: the node that it began with, where that was called again; else "".
        behind: the block that it began behind, where a former attempt had come to; else "".
        met: the block that it has met last, or "".
        parks: the stretches in which it waited for blocks.
        within: whether it stands, or ended, at a block that had not ended well.
        cut: when it was last heard of, where events are missing that may be about it: it may have begun or ended at
            another time than is told, and ``end`` is None where that was not told at all.
    """

    start: float
    end: float | None
    how: str
    worker: str
    together: int = 1
    number: int = 1
    size: int | None = None
    spent: Spent | None = None
    node: str = ""
    at: str = ""
    behind: str = ""
    met: str = ""
    within: bool = False
    parks: tuple[Park, ...] = ()
    cut: float | None = None


@dataclass(slots=True)
class BlockTimes:
    """When a block was open. ``ended`` is None while it is.

    ``partial``: not all attempts of its branches are known. ``again``: a retry has opened it again.
    """

    id: str
    name: str
    n: int
    opened: float
    ended: float | None = None
    state: str = "open"
    partial: bool = False
    again: bool = False


@dataclass(slots=True)
class Timeline:
    """What a run's events say of times.

    Attributes:
        blocks: by id, in the order in which they were opened.
        attempts: by block and branch.
        submitted: when the run was; None where the stream has lost its beginning.
        started: when its first branch was.
        ended: when it ended.
        state: how: "succeeded", "failed" or "cancelled"; "" before.
        retried: when it was retried.
        cursor: of the last event that was read.
        partial: the stream, which is bounded, has lost some of it, or has more than is remembered.
    """

    blocks: dict[str, BlockTimes] = field(default_factory=dict)
    attempts: dict[tuple[str, int], list[Attempt]] = field(default_factory=dict)
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    state: str = ""
    retried: list[float] = field(default_factory=list)
    cursor: str = "0"
    partial: bool = False
    _kept: int = 0
    _live: dict[str, set[int]] = field(default_factory=dict)
    _parked: set[tuple[str, int]] = field(default_factory=set)
    # The block and worker of the last event.
    _last: tuple[str | None, str] = (None, "")
    # The last block that a branch has met and that has ended well.
    _passed: dict[tuple[str, int], str] = field(default_factory=dict)

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
                self.ended, self.state = event.time, event.detail.get("state", "")
            case "run.retried":
                self.ended, self.state = None, ""
                self.retried.append(event.time)
            case "block.opened" if event.block not in (None, ROOT):
                assert event.block is not None
                self._open(event.block, event)
                place = hangs_on(event.block)
                if place[1] in event.calls and (attempts := self.attempts.get(place)):
                    attempts[-1].number += len(event.calls[place[1]])
                    self._split(place, event.calls[place[1]], event.time)
            case "branches.started" if event.block is not None:
                for branch in event.branches:
                    self._start(event.block, branch, event)
            case "branches.ended" if event.block is not None:
                ends = [*((branch, "ok") for branch in event.branches), *((branch, "error") for branch in event.failed)]
                ended = [(branch, self._end(event.block, branch, event, how)) for branch, how in ends]
                _place([(attempt, event.took[branch]) for branch, attempt in ended if attempt and branch in event.took])
                for branch, attempt in ended:
                    if attempt is not None and branch in event.calls:
                        self._split((event.block, branch), event.calls[branch], attempt.end or event.time)
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
        self._last = event.block, event.worker or ""

    def miss(self) -> None:
        """What came between the last event and the next one is missing."""
        self.partial = True
        heard = int(self.cursor.partition("-")[0]) / 1000
        for known in self.blocks.values():
            if known.ended is None:
                known.partial = True
        for block, branches in self._live.items():
            for branch in branches:
                last = self.attempts[block, branch][-1]
                if last.cut is None:
                    last.cut = heard

    def learn(self, record: RunRecord, blocks: Iterable[BlockGlance]) -> None:
        """Complete what events do not say any more from the records of the run and its blocks.

        Args:
            record: of the run.
            blocks: of it, as many as were read.
        """
        if not self.partial:
            return
        self.submitted, self.started, self.ended = record.created, record.started, record.ended
        self.state = "" if record.ended is None else record.state
        for block in blocks:
            if block.id == ROOT:
                continue
            known = self.blocks.get(block.id)
            opened = block.opened / 1000
            if known is None or known.opened - opened > _APART:
                # It was opened before the first event about it.
                known = self.blocks[block.id] = BlockTimes(block.id, block.name, block.n, opened, partial=True)
            known.ended, known.state = None if block.ended is None else block.ended / 1000, block.state
            known.again |= block.reopened is not None
        for inside in self.blocks.values():
            place = hangs_on(inside.id)
            attempts = self.attempts.get(place)
            if attempts and attempts[0].cut is None and attempts[0].start > inside.opened:
                # It was begun before it met that block; what was seen is how it went on.
                attempts[0].cut = attempts[0].start
                if place[0] in self.blocks:
                    self.blocks[place[0]].partial = True

    def lacks(self, block: str) -> bool:
        """Whether attempts of a block's branches may be missing."""
        return self.blocks[block].partial if block in self.blocks else self.partial

    def known(self, block: str | None = None) -> tuple[int, int]:
        """Of how many branches all times are known, and how many branches there are: of one block, or of all."""
        of = [each for each in self.blocks.values() if block in (None, each.id)]
        ids = {each.id for each in of}
        whole = sum(
            id in ids and bool(attempts) and all(attempt.cut is None for attempt in attempts)
            for (id, _), attempts in self.attempts.items()
        )
        return whole, sum(each.n for each in of)

    def _open(self, block: str, event: Event) -> None:
        known = self.blocks.get(block)
        if known is None and len(self.blocks) >= _BLOCKS_KEPT:
            self.partial = True
        elif known is None:
            name, n = event.detail.get("name", ""), int(event.detail.get("n", 0))
            self.blocks[block] = BlockTimes(block, name, n, event.time)
        else:
            known.ended, known.state, known.again = None, "open", True
        place = hangs_on(block)
        attempts = self.attempts.get(place)
        is_again = bool(attempts and attempts[-1].end is not None)
        if is_again:
            # A retry opens the block again, and the branch waits for it without having been leased.
            self._start(*place, event)
        if attempts and attempts[-1].end is None:
            last = attempts[-1]
            last.behind, last.met = (block, "") if is_again else (last.behind, block)
            last.within = True
            self._goes_on(last)
            last.parks += (Park(block, event.time),)
        if attempts or len(self._parked) < _ATTEMPTS_KEPT:
            self._parked.add(place)

    def _start(self, block: str, branch: int, event: Event) -> None:
        place = (block, branch)
        attempts = self.attempts.get(place, [])
        if attempts and attempts[-1].end is None:
            if place in self._parked:
                # It goes on after the block that it has met: if it was leased before, it had not begun.
                if (park := _passed(attempts[-1])) is not None:
                    park.until, park.worker, park.told = event.time, event.worker or "", True
                return
            if attempts[-1].cut is None:
                # It was given back before it began, and that is no event.
                attempts.pop()
                self._kept -= 1
        if self._kept >= _ATTEMPTS_KEPT:
            self._lose(block)
            if not attempts:
                return
            # Its last attempt tells most.
            self._kept -= len(attempts)
            attempts = []
        self.attempts[place] = attempts
        made = Attempt(event.time, None, "running", event.worker or "", len(event.branches) or 1)
        made.number, made.behind = event.attempts.get(branch, 1), self._passed.get(place, "")
        attempts.append(made)
        self._kept += 1
        self._live.setdefault(block, set()).add(branch)

    def _lose(self, block: str) -> None:
        """Not all attempts of a block's branches are remembered."""
        self.partial = True
        if block in self.blocks:
            self.blocks[block].partial = True

    def _end(self, block: str, branch: int, event: Event, how: str) -> Attempt | None:
        """The attempt that has ended, where it is known."""
        place = (block, branch)
        attempts, last = self.attempts.get(place), None
        # The last time that it was stopped it has failed with that, and both are said.
        if attempts and (attempts[-1].end is None or (attempts[-1].how, how) == ("stopped", "error")):
            last = attempts[-1]
            last.end, last.how = event.time, how
            self._goes_on(last, event.worker or "")
            last.number = event.attempts.get(branch, last.number)
            last.size, last.spent = event.sizes.get(branch), event.spent.get(branch, last.spent)
            last.node = event.nodes.get(branch, last.node)
        if block in self._live:
            self._live[block].discard(branch)
        self._parked.discard(place)
        return last

    @staticmethod
    def _goes_on(attempt: Attempt, worker: str = "") -> None:
        """What is heard of an attempt tells that it has gone on behind the block that it met last."""
        park = _passed(attempt)
        if park is not None:
            park.worker, park.told = worker or park.worker, True

    def _split(self, place: tuple[str, int], calls: Sequence[FailedCall], end: float) -> None:
        """Tell the calls that failed in a branch's last attempt, up to an instant, from what came after."""
        attempts = self.attempts[place]
        last = attempts.pop()
        if self._kept + len(calls) > _ATTEMPTS_KEPT:
            self._lose(place[0])
            attempts.append(last)
            return
        number = last.number - len(calls)
        for call in calls:
            over = min(max(last.start, end - call.ago), end)
            part = Attempt(last.start, over, "error", last.worker, last.together, max(1, number))
            part.node, part.at, part.behind = call.node, last.at, last.behind
            part.parks = tuple(park for park in last.parks if park.since < over)
            last.parks = last.parks[len(part.parks) :]
            if part.parks:
                last.behind, last.worker = part.parks[-1].block, part.parks[-1].worker
            attempts.append(part)
            last.start, last.at, number = min(over + call.waited, end), call.node, number + 1
        attempts.append(last)
        self._kept += len(calls)

    def _close(self, block: str, event: Event) -> None:
        state = event.detail.get("state", "")
        if block in self.blocks:
            self.blocks[block].ended, self.blocks[block].state = event.time, state
        if state == "ok":
            self._pass(block, event.time)
        for branch in self._live.pop(block, set()):
            self._parked.discard((block, branch))
            attempts = self.attempts[block, branch]
            if attempts and attempts[-1].end is None and attempts[-1].cut is None:
                attempts[-1].end, attempts[-1].how = event.time, "cancelled" if state in ("ok", "error") else state

    def _pass(self, block: str, time: float) -> None:
        place = hangs_on(block)
        attempts = self.attempts.get(place)
        if attempts or len(self._passed) < _ATTEMPTS_KEPT:
            self._passed[place] = block
        if attempts:
            attempts[-1].within = False
            if attempts[-1].parks and attempts[-1].parks[-1].block == block:
                # The event before is the commit that has ended it, and its lane goes on, if any does at once.
                park = attempts[-1].parks[-1]
                park.until, park.worker = time, self._last[1] if self._last[0] == block else ""

    def critical(self, now: float) -> set[str | tuple[str, int]]:
        """What the run's end waited for: blocks by id, and the last branch of each to end, by block and position."""
        last: dict[str, tuple[float, bool, int]] = {}
        for (block, branch), attempts in self.attempts.items():
            # Where some are not known, the last one that is may not be the last one.
            if attempts and not (block in self.blocks and self.blocks[block].partial):
                end, failed = attempts[-1].end or now, attempts[-1].how in ("error", "lost")
                # What failed ends its block, and those that are stopped for it end in that instant too.
                if block not in last or (end, failed) > last[block][:2]:
                    last[block] = (end, failed, branch)
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
                place = (block, last[block][2])
                found.add(place)
                todo += inside.get(place, ())
        return found


def _passed(attempt: Attempt) -> Park | None:
    """The stretch in which an attempt waited last, if the block that it waited for has ended well."""
    return attempt.parks[-1] if attempt.parks and attempt.parks[-1].until is not None else None


def _place(ended: list[tuple[Attempt, float]]) -> None:
    """Give attempts that were committed together the seconds that each took.

    One after the other in their order, or, where the lease is too short for that, side by side.
    """
    if not ended:
        return
    end = max(attempt.end or 0.0 for attempt, _ in ended)
    lease = end - min(attempt.start for attempt, _ in ended)
    in_turn = sum(seconds for _, seconds in ended) <= lease + _ROUNDED
    for attempt, seconds in reversed(ended):
        attempt.start, attempt.end = max(attempt.start - _ROUNDED, end - seconds), end
        if in_turn:
            end = attempt.start


def read_on(ledger: Ledger, run: str, timeline: Timeline) -> None:
    """Take in what has happened in a run since the timeline was read last. Raises `errors.BrokerUnavailable`."""
    while True:
        found, is_whole = browse.events(ledger, run, timeline.cursor)
        if not is_whole:
            timeline.miss()
        for cursor, fields in found:
            timeline.add(Event.of(cursor, fields))
        if len(found) < EVENTS_READ:
            break


def hangs_on(block: str) -> tuple[str, int]:
    """The block and branch that a block is nested in: its id is ``<parent>.<branch>-<path>``."""
    parent, _, own = block.rpartition(".")
    return parent, int(own.partition("-")[0] or 0) if parent else 0

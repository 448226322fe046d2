"""One checker of the invariants I1 to I10 over what a test's runs left behind.

It reads the event streams, what the ledger holds at the end, and what the test itself wrote down: executions (by the
nodes, see `tests.support.work`), what readers were told, how workers ended, how long control runs took. Times are
milliseconds of the server's clock. Where no node wrote down its executions, the events tell of leases: who held a
branch from when to when, and as which attempt.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, inf
from pathlib import Path
from typing import Any, cast

from egregore_dist import errors
from egregore_dist.engine.outcome import Reader
from egregore_dist.ledger import ENDED, BlockRecord, Ledger
from egregore_dist.ledger.replies import unpack_positions
from egregore_dist.wire import codec
from egregore_dist.workflow import spec

# A branch is not its lane's any more.
GIVEN_BACK = frozenset({"branch.lost", "branch.stopped", "branch.again"})

# Milliseconds. Executions are timed by another process than the one that keeps the ledger.
JITTER = 50
AFTER_THE_END = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """One event of a run, in the stream's order."""

    at: int
    type: str
    block: str | None = None
    branches: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    lane: str = ""
    state: str = ""
    attempts: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One call of a node, as it wrote it down itself. ``end`` is None where its process died in it."""

    run: str
    block: str
    branch: Any
    node: str
    attempt: int
    start: float
    end: float | None = None
    value: str | None = None
    path: tuple[int, ...] = ()
    pid: int = 0
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block at the end: ``values`` and ``failures`` by position, ``names`` of its branches by position.

    ``widths``: how many branches at once a lane of each track executes. ``tracks``: of its branches, where there are
    several.
    """

    id: str
    name: str
    state: str
    n: int
    limit: int = 0
    done: int = 0
    deadline: int | None = None
    ended: int | None = None
    names: tuple[Any, ...] = ()
    values: Mapping[int, Any] = field(default_factory=dict)
    failures: frozenset[int] = frozenset()
    parent: str | None = None
    branch: int | None = None
    widths: tuple[int, ...] = (1,)
    tracks: Mapping[int, int] = field(default_factory=dict)

    def width(self, branch: int) -> int:
        """How many branches the lane of a branch executes at once."""
        track = self.tracks.get(branch, 0)
        return self.widths[track] if track < len(self.widths) else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """One run at the end.

    ``state`` is None where the ledger does not know it, ``keeps`` its keys that never expire, ``entries`` what is on
    the agenda of it, both where it has ended; ``retries`` the most that one of its nodes may have.
    """

    id: str
    state: str | None
    value: Any = None
    events: Sequence[Happened] = ()
    blocks: Mapping[str, Block] = field(default_factory=dict)
    keeps: Sequence[str] = ()
    entries: Sequence[str] = ()
    retries: int = 0

    def of_block(self, block: str) -> list[Happened]:
        """The events of one block."""
        return [event for event in self.events if event.block == block]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader was told of a run: its state, and its value where it has one."""

    run: str
    state: str
    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What the server still held when nothing ran any more.

    Attributes:
        queued: messages on queues.
        unacked: messages that workers have taken and not acknowledged.
        may_hold: how many of them killed workers can have taken.
        agenda: entries of the agenda.
        messages: what the unacknowledged ones are.
        keys: those that never expire, and belong to no run that is known and to nothing that is kept on purpose.
    """

    queued: int = 0
    unacked: int = 0
    may_hold: int = 0
    agenda: int = 0
    messages: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Latencies of control runs in seconds, without faults and with them, and what went wrong with any of them.

    ``at_least``: no latency below this counts as bad, since the machine is shared.
    """

    quiet: Sequence[float]
    during: Sequence[float]
    failures: Sequence[str] = ()
    at_least: float = 2.0


@dataclass(kw_only=True)
class History:
    """All that is known of a test's runs.

    Attributes:
        runs: by id.
        accepted: the ids that a submit has returned.
        executions: as the nodes wrote them down.
        seen: what readers were told.
        lost: runs for which `RunLost` was raised.
        died: workers that ended though nobody asked them to.
        remaining: processes that outlived the cluster.
        left: what the server held at the end.
        control: the control runs, where there were any.
        attempts: the most attempts that a branch may take.
        late: seconds that a deadline may be kept too late.
    """

    runs: dict[str, RunHistory] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    executions: list[Execution] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    died: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)
    left: Left = field(default_factory=Left)
    control: Control | None = None
    attempts: int = 3
    late: float = 5.0
    _sorted: dict[str, dict[str, list[Execution]]] = field(default_factory=dict)

    def sort_executions(self) -> None:
        """Sort the executions by run and block, once for all checks."""
        self._sorted = defaultdict(lambda: defaultdict(list))
        for execution in sorted(self.executions, key=lambda execution: execution.start):
            self._sorted[execution.run][execution.block].append(execution)

    def is_lost(self, run: RunHistory) -> bool:
        """Whether its events are lost with it, so that what is known otherwise says nothing."""
        return run.state is None and run.id in self.lost

    def executions_of(self, run: str) -> Mapping[str, list[Execution]]:
        """The executions of a run by block, in order of their start."""
        return self._sorted.get(run, {})


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold, and where."""

    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.what}"


# Those that compare what the ledger has with what readers were told, or nodes have written down.
OF_WHAT_WAS_TOLD = frozenset({"I2", "I3", "I4", "I5", "I6"})


def check(history: History) -> list[Broken]:
    """Every breach of I1 to I10 in a history."""
    history.sort_executions()
    broken: list[Broken] = []
    for invariant, finds in CHECKS.items():
        broken += [Broken(invariant, what) for what in finds(history)]
    return broken


def told(broken: Sequence[Broken]) -> str:
    """The breaches, a line each."""
    more = f"\n... and {len(broken) - 40} more" if len(broken) > 40 else ""
    return f"{len(broken)} breaches of the invariants:\n" + "\n".join(map(str, broken[:40])) + more


# The invariants


def no_loss(history: History) -> Iterator[str]:
    """I1: an accepted run reaches exactly one end, or is known as lost."""
    for id in sorted(history.accepted):
        run = history.runs.get(id)
        if run is None or run.state is None:
            if id not in history.lost:
                yield f"run {id}: accepted, and the ledger does not know it"
            continue
        if run.state not in ENDED:
            yield f"run {id}: accepted, and still {run.state}"
            continue
        ends = sum(event.type == "run.ended" for event in run.events)
        times = 1 + sum(event.type == "run.retried" for event in run.events)
        if run.events and ends != times:
            yield f"run {id}: ended {ends} times, and was begun {times} times"


def one_truth(history: History) -> Iterator[str]:
    """I2: an end never changes, and everybody is told the same."""
    for run in history.runs.values():
        ended: Happened | None = None
        for event in run.events:
            if event.type == "run.retried":
                ended = None
            elif ended is not None and event.type in ("run.ended", "block.ended", "branches.ended", "block.opened"):
                yield f"run {run.id}: {event.type} of block {event.block} after it had ended as {ended.state}"
            elif event.type == "run.ended":
                ended = event
        if ended is not None and ended.state != run.state:
            yield f"run {run.id}: its last event says {ended.state}, the ledger {run.state}"
        for id, block in run.blocks.items():
            ends = [event.state for event in run.of_block(id) if event.type == "block.ended"]
            if ends and block.state in ("ok", "error", "timeout", "cancelled") and ends[-1] != block.state:
                yield f"run {run.id}, block {id}: its last event says {ends[-1]}, the ledger {block.state}"
    for seen in history.seen:
        run = history.runs[seen.run]
        if history.is_lost(run):
            continue
        if seen.state != run.state:
            yield f"run {seen.run}: a reader was told {seen.state}, the ledger says {run.state}"
        elif seen.state == "succeeded" and not _same(seen.value, run.value):
            yield f"run {seen.run}: a reader was told {seen.value!r}, the ledger says {run.value!r}"


def exact_join(history: History) -> Iterator[str]:
    """I3: a complete block has each of its branches once, and each value is from one execution that ended well."""
    for run in history.runs.values():
        executions = history.executions_of(run.id)
        for id, block in run.blocks.items():
            where = f"run {run.id}, block {id} ({block.name})"
            known = set(block.values) | block.failures
            if set(block.values) & block.failures:
                yield f"{where}: branches {sorted(set(block.values) & block.failures)} have a value and a failure"
            if block.state == "ok" and known != set(range(block.n)):
                yield f"{where}: complete, with branches {sorted(known)} of {block.n}"
            if block.state == "ok" and block.done != block.n:
                yield f"{where}: complete, and counts {block.done} of {block.n} as done"
            yield from (f"{where}: {what}" for what in _counted_once(run.of_block(id), block))
            yield from (f"{where}: {what}" for what in _from_an_execution(executions.get(id, []), block))


def leases(history: History) -> Iterator[str]:
    """I4: attempts are bounded, do not overlap, and what was taken from a lane is not settled by it."""
    for run in history.runs.values():
        if history.is_lost(run):
            continue
        for id, executions in history.executions_of(run.id).items():
            events, block = run.of_block(id), run.blocks.get(id)
            where = f"run {run.id}, block {id}"
            for execution in executions:
                if execution.attempt > history.attempts:
                    yield f"{where}, branch {execution.branch!r}: attempt {execution.attempt} of {history.attempts}"
            for first, second in _consecutive(executions):
                if _live_until(first, events, block) > second.start + JITTER:
                    yield (
                        f"{where}, branch {first.branch!r}, node {first.node}: attempt {second.attempt} began at "
                        f"{second.start:.0f} while attempt {first.attempt} was live since {first.start:.0f}"
                    )
        for id in run.blocks:
            events = run.of_block(id)
            for found in (
                _bounded(events, history.attempts),
                _numbered(events, history.attempts + run.retries),
                _leased_once(events),
                _fenced(events, _parents(run, id)),
            ):
                yield from (f"run {run.id}, block {id}: {what}" for what in found)


def concurrency(history: History) -> Iterator[str]:
    """I5: never more live executions of a block than its limit, nor more branches that lanes hold to execute them."""
    for run in history.runs.values():
        executions = history.executions_of(run.id)
        for id, block in run.blocks.items():
            if block.limit:
                yield from (f"run {run.id}, block {id}: {what}" for what in _over_the_limit(run, block))
                events = run.of_block(id)
                steps = []
                for execution in executions.get(id, []):
                    # What ends and what starts in one instant do not overlap.
                    steps.append((_live_until(execution, events, block) - JITTER, 0, -1))
                    steps.append((execution.start, 1, +1))
                running = 0
                for at, _, change in sorted(steps):
                    running += change
                    if running > block.limit:
                        yield f"run {run.id}, block {id}: {running} at once at {at:.0f}, its limit is {block.limit}"
                        break


def quiet_after_the_end(history: History) -> Iterator[str]:
    """I6: nothing starts in a block that has ended, and no process outlives its cluster."""
    for run in history.runs.values():
        yield from (f"run {run.id}, {what}" for what in _begun_after_an_end(run.events))
        if history.is_lost(run):
            continue
        for id, executions in history.executions_of(run.id).items():
            periods = _periods(run, id)
            for execution in executions:
                if all(not opened - JITTER <= execution.start <= ended + AFTER_THE_END for opened, ended in periods):
                    yield (
                        f"run {run.id}, block {id}: node {execution.node} of branch {execution.branch!r} began at "
                        f"{execution.start:.0f}, when the block was not open"
                    )
    for process in history.remaining:
        yield f"a process remains: {process}"


def deadlines(history: History) -> Iterator[str]:
    """I7: a block with a deadline has ended by then."""
    for run in history.runs.values():
        for id, block in run.blocks.items():
            if block.deadline is None or run.state not in ENDED:
                continue
            where = f"run {run.id}, block {id} ({block.name})"
            if block.ended is None:
                yield f"{where}: it has a deadline and has not ended"
            elif block.ended > block.deadline + history.late * 1000:
                yield f"{where}: {block.state} {(block.ended - block.deadline) / 1000:.3f} s after its deadline"
            elif block.state == "timeout" and block.ended < block.deadline:
                yield f"{where}: timed out {(block.deadline - block.ended) / 1000:.3f} s before its deadline"


def conservation(history: History) -> Iterator[str]:
    """I8: every accepted run is counted once, and nothing is left on the server when nothing runs."""
    for run in history.runs.values():
        if run.keeps:
            yield f"run {run.id}: keys that never expire: {', '.join(sorted(run.keeps))}"
        if run.entries:
            yield f"run {run.id}: it has ended, and is on the agenda: {', '.join(sorted(run.entries))}"
    states = [run.state for id, run in history.runs.items() if id in history.accepted]
    ended = sum(state in ENDED for state in states) + len(history.lost & history.accepted)
    if ended != len(history.accepted):
        yield f"{len(history.accepted)} runs were accepted, and {ended} have ended"
    if any(run.state not in ENDED for run in history.runs.values()):
        return
    left = history.left
    if left.queued:
        yield f"{left.queued} messages are still on the queue"
    if left.unacked > left.may_hold:
        held = "; ".join(left.messages)
        yield f"{left.unacked} messages are not acknowledged, and killed workers can hold {left.may_hold}: {held}"
    if left.agenda:
        yield f"{left.agenda} entries are still on the agenda"
    if left.keys:
        yield f"keys that never expire and belong to nothing: {', '.join(sorted(left.keys)[:20])}"


def survivors(history: History) -> Iterator[str]:
    """I9: no worker ends unless it is asked to."""
    for worker in history.died:
        yield f"worker {worker}"


def blast_radius(history: History) -> Iterator[str]:
    """I10: control runs elsewhere go on, about as fast."""
    control = history.control
    if control is None:
        return
    yield from (f"control run: {what}" for what in control.failures)
    if not control.during:
        yield "no control run ended"
        return
    allowed = max(2 * percentile(control.quiet, 99), control.at_least)
    if percentile(control.during, 99) > allowed:
        yield f"control runs: p99 is {percentile(control.during, 99):.3f} s, {allowed:.3f} s are allowed"


CHECKS: dict[str, Callable[[History], Iterator[str]]] = {
    "I1": no_loss,
    "I2": one_truth,
    "I3": exact_join,
    "I4": leases,
    "I5": concurrency,
    "I6": quiet_after_the_end,
    "I7": deadlines,
    "I8": conservation,
    "I9": survivors,
    "I10": blast_radius,
}


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that so many percent of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


def _same(one: Any, other: Any) -> bool:
    # Errors that are values are not equal to anything.
    return bool(one == other) or codec.encode(one, where="one") == codec.encode(other, where="the other")


def _counted_once(events: Iterable[Happened], block: Block) -> Iterator[str]:
    good: set[int] = set()
    bad: set[int] = set()
    for event in events:
        if event.type == "block.opened":
            bad = set()
        elif event.type == "branches.ended":
            for branch in (*event.branches, *event.failed):
                if branch in good or branch in bad:
                    yield f"branch {branch} was settled twice"
            good |= set(event.branches)
            bad |= set(event.failed)
    if good != set(block.values):
        yield f"events settle {sorted(good ^ set(block.values))} otherwise than the ledger"
    if bad != block.failures:
        yield f"events fail {sorted(bad ^ block.failures)} otherwise than the ledger"


def _from_an_execution(executions: Iterable[Execution], block: Block) -> Iterator[str]:
    ended: dict[Any, set[str]] = defaultdict(set)
    for execution in executions:
        if execution.value is not None:
            ended[execution.branch].add(execution.value)
    for branch, value in block.values.items():
        name = block.names[branch] if branch < len(block.names) else branch
        if isinstance(value, str) and ended.get(name) and value not in ended[name]:
            yield f"branch {name!r} has the value {value!r}, which no execution that ended has given"


def _bounded(events: Iterable[Happened], attempts: int) -> Iterator[str]:
    lost: dict[int, int] = defaultdict(int)
    for event in events:
        if event.type == "block.opened":
            lost.clear()
        elif event.type == "branch.lost":
            for branch in event.branches:
                lost[branch] += 1
                if lost[branch] > attempts:
                    yield f"branch {branch} was lost {lost[branch]} times"


def _consecutive(executions: Iterable[Execution]) -> Iterator[tuple[Execution, Execution]]:
    of_node: dict[tuple[Any, ...], list[Execution]] = defaultdict(list)
    for execution in executions:
        of_node[repr(execution.branch), execution.node, execution.path].append(execution)
    for found in of_node.values():
        yield from pairwise(found)


def _live_until(execution: Execution, events: Iterable[Happened], block: Block | None) -> float:
    # An attempt is live until it ends, or is taken from its lane, or its block ends: what it does later does not count.
    # A retry waits for what the end has stopped, so one whose block is opened again is live until it ends itself. When
    # it was killed nobody has written down.
    names = block.names if block is not None else ()
    ends = [execution.end if execution.end is not None else inf]
    closed = inf
    for event in events:
        if event.at + JITTER < execution.start:
            continue
        is_its = any((names[branch] if branch < len(names) else None) == execution.branch for branch in event.branches)
        if event.type in GIVEN_BACK and (execution.branch is None or is_its):
            ends.append(event.at)
        elif event.type == "block.ended":
            closed = min(closed, event.at)
        elif event.type == "block.opened" and execution.end is not None:
            closed = inf
    return min(*ends, closed)


def _numbered(events: Iterable[Happened], attempts: int) -> Iterator[str]:
    # Calls that a node has retried count with the leases that were lost.
    given_back: set[int] = set()
    for event in events:
        if event.type == "block.opened":
            given_back.clear()
        elif event.type in GIVEN_BACK:
            given_back.update(event.branches)
        for branch, attempt in event.attempts.items():
            if attempt > attempts:
                yield f"branch {branch}: {event.type} of attempt {attempt} of {attempts}"
            if event.type == "branches.started" and branch not in given_back:
                yield f"branch {branch} was leased as attempt {attempt}, and nobody had given it back"


def _leased_once(events: Iterable[Happened]) -> Iterator[str]:
    settled: set[int] = set()
    for event in events:
        if event.type == "block.opened":
            # A retry leases anew what has failed; what has a value is leased no more.
            settled = {branch for branch in settled if branch >= 0}
        elif event.type == "branches.ended":
            settled.update(event.branches)
            settled.update(-1 - branch for branch in event.failed)
        elif event.type == "branches.started":
            for branch in event.branches:
                if branch in settled or -1 - branch in settled:
                    yield f"branch {branch} was leased to {event.lane} after it had been settled"


def _over_the_limit(run: RunHistory, block: Block) -> Iterator[str]:
    """Where more of a block's branches ran than its limit allows: at least so many, by the events.

    A lane runs at most as many of the branches that it holds as its width; a branch that stands at a block below runs
    too, until that ends. That a branch is given back before it began is no event: so it counts as held where its lane
    has told of it next, and else for the moment only in which it was leased.
    """
    children = {child.id: child.branch for child in run.blocks.values() if child.parent == block.id}
    changes: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    held: dict[int, tuple[int, str]] = {}
    parked: dict[int, int] = {}

    def over(branch: int, until: int | None) -> None:
        began, lane = held.pop(branch)
        changes[began].append((+1, lane, branch))
        changes[began + 1 if until is None else until].append((-1, lane, branch))

    for at, event in enumerate(run.events):
        branch = children.get(event.block) if event.block is not None else None
        if event.type == "run.retried" or (event.type == "block.ended" and event.block == block.id):
            for branch in list(held):
                over(branch, None)
            for branch, began in parked.items():
                changes[began].append((+1, f"block of branch {branch}", branch))
                changes[at].append((-1, f"block of branch {branch}", branch))
            parked.clear()
        elif branch is not None and event.type == "block.opened":
            if branch in held:
                over(branch, at)
            parked.setdefault(branch, at)
        elif branch is not None and event.type == "block.ended" and branch in parked:
            changes[parked.pop(branch)].append((+1, f"block of branch {branch}", branch))
            changes[at].append((-1, f"block of branch {branch}", branch))
        elif event.block == block.id and event.type == "branches.started":
            for branch in event.branches:
                if branch in held:
                    over(branch, None)
                held[branch] = (at, event.lane)
        elif event.block == block.id and event.type in (*GIVEN_BACK, "branches.ended"):
            for branch in (*event.branches, *event.failed):
                if branch in held:
                    over(branch, at if held[branch][1] == event.lane else None)
    for branch in list(held):
        over(branch, None)

    lanes: dict[str, set[int]] = defaultdict(set)
    running = 0
    for at in sorted(changes):
        # What is given up and what is taken at one place of the stream do not overlap.
        for change, lane, branch in sorted(changes[at]):
            before = _slots(lanes[lane], block)
            lanes[lane] ^= {branch}
            assert (branch in lanes[lane]) == (change > 0)
            running += _slots(lanes[lane], block) - before
        if running > block.limit:
            yield (
                f"by its events {running} ran at once at {run.events[at].at}, its limit is {block.limit}: "
                f"{ {lane: sorted(branches) for lane, branches in lanes.items() if branches} }"
            )
            return


def _slots(held: set[int], block: Block) -> int:
    return min(len(held), min(map(block.width, held), default=0))


def _begun_after_an_end(events: Iterable[Happened]) -> Iterator[str]:
    # A block ends with each that it is in. A retry opens those below before those above.
    ended: set[str] = set()
    for event in events:
        if event.type == "run.retried":
            ended.clear()
        elif event.type == "block.ended":
            ended.add(event.block or "")
        elif event.type == "run.ended":
            ended.add("0")
        elif event.type in ("block.opened", "branches.started") and event.block is not None:
            if event.type == "block.opened":
                ended.discard(event.block)
            for above in _and_above(event.block):
                if above in ended:
                    what = f"branches {event.branches} were leased" if event.branches else "it was opened"
                    end = "its end" if above == event.block else f"the end of block {above}"
                    yield f"block {event.block}: {what} after {end}"
                    break


def _and_above(block: str) -> Iterator[str]:
    parts = block.split(".")
    return (".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _parents(run: RunHistory, block: str) -> set[int]:
    return {child.branch for child in run.blocks.values() if child.parent == block and child.branch is not None}


def _fenced(events: Iterable[Happened], parents: set[int]) -> Iterator[str]:
    # A branch that met a block may be gone on with by any lane, which its events do not name.
    holder: dict[int, str] = {}
    for event in events:
        if event.type == "branches.started":
            holder.update(dict.fromkeys(event.branches, event.lane))
        elif event.type in GIVEN_BACK:
            for branch in event.branches:
                if holder.get(branch) == event.lane:
                    del holder[branch]
        elif event.type == "branches.ended" and event.lane:
            for branch in (*event.branches, *event.failed):
                if branch not in parents and holder.get(branch) != event.lane:
                    yield (
                        f"branch {branch} was settled by lane {event.lane}, it was leased to "
                        f"{holder.get(branch, 'nobody')}"
                    )


def _periods(run: RunHistory, block: str) -> list[tuple[float, float]]:
    # When the block was open. Block 0 opens with the run.
    periods: list[tuple[float, float]] = []
    opened: float | None = 0.0 if block == "0" else None
    for event in run.of_block(block):
        if event.type == "block.opened":
            opened = event.at
        elif event.type == "block.ended" and opened is not None:
            periods.append((opened, event.at))
            opened = None
    if opened is not None:
        periods.append((opened, inf))
    return periods


# Reading


class Log:
    """The file that nodes write their executions to, read as it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._running: dict[str, dict[str, Any]] = {}

    def new(self) -> list[Execution]:
        """Executions that have begun or ended since the last time."""
        if not self._file.exists():
            return []
        with self._file.open("rb") as file:
            file.seek(self._read)
            raw = file.read()
        # The last line may be on its way.
        whole = raw[: raw.rfind(b"\n") + 1]
        self._read += len(whole)
        changed: dict[str, Execution] = {}
        for line in whole.splitlines():
            said = json.loads(line)
            if said["what"] == "start":
                self._running[said["id"]] = said
            elif said["id"] in self._running:
                self._running[said["id"]] |= {"end": said["t"], "value": said["value"]}
            changed[said["id"]] = _execution(self._running[said["id"]])
        for id, execution in changed.items():
            if execution.end is not None:
                del self._running[id]
        return list(changed.values())


def read_executions(file: Path) -> list[Execution]:
    """All executions that nodes wrote down so far."""
    return Log(file).new()


def _execution(said: Mapping[str, Any]) -> Execution:
    return Execution(
        run=said["run"],
        block=said["block"],
        branch=said["branch"],
        node=said["node"],
        attempt=said["attempt"],
        start=said["t"],
        end=said.get("end"),
        value=said.get("value"),
        path=tuple(said["path"]),
        pid=said["pid"],
        id=said["id"],
    )


def lasting(ledger: Ledger) -> dict[str, list[str]]:
    """The keys of runs that never expire, by run."""
    names = list(ledger.redis.scan_iter(match=f"{ledger.keys.prefix}:{{*", count=1000))
    pipe = ledger.redis.pipeline(transaction=False)
    for name in names:
        pipe.pttl(name)
    found: dict[str, list[str]] = defaultdict(list)
    for name, left in zip(names, pipe.execute(), strict=True):
        if left == -1:
            found[name.decode().partition("{")[2].partition("}")[0]].append(name.decode())
    return found


#: What stays on a server for ever on purpose, after the prefix: it does not grow with the runs. All else that is not a
#: run's has a time to live, as the reports of workers, and what Celery keeps of a chord. The keys of a run that has
#: ended have one too: so the count of keys comes back to what it was once their time is over.
FIXED = (
    *("agenda", "runs", "epoch", "aside", "profiles", "profiles:used", "counts", "counts:cluster", "queues", "workers"),
    *("limits", "limits:set", "limits:due", "evictions"),
)
#: One for each workflow, of which so many are kept.
BOUNDED = "counts:of:"
#: The broker's. Lists are queues, which are counted.
BROKERS = ("_kombu.binding", "unacked")


def strays(ledger: Ledger, runs: Iterable[str]) -> list[str]:
    """The keys that never expire, and belong neither to one of these runs nor to what is kept on purpose."""
    prefix, known = f"{ledger.keys.prefix}:", set(runs)

    def is_known(name: str) -> bool:
        rest = name.removeprefix(prefix)
        if rest != name:
            return rest in FIXED or rest.startswith(BOUNDED) or rest.partition("{")[2].partition("}")[0] in known
        return name.startswith(BROKERS)

    queues = set(ledger.redis.scan_iter(match="*", count=1000, _type="list"))
    names = [raw for raw in ledger.redis.scan_iter(match="*", count=1000) if raw not in queues or b"{" in raw]
    names = [raw for raw in names if not is_known(raw.decode())]
    pipe = ledger.redis.pipeline(transaction=False)
    for raw in names:
        pipe.pttl(raw)
    return [raw.decode() for raw, left in zip(names, pipe.execute(), strict=True) if left == -1]


def scheduled(ledger: Ledger) -> dict[str, list[str]]:
    """The entries of the agenda, by run."""
    found: dict[str, list[str]] = defaultdict(list)
    for raw in cast(list[bytes], ledger.redis.zrange(ledger.keys.agenda, 0, -1)):
        run, _, what = raw.decode().partition(" ")
        found[run].append(what)
    return found


def read_left(ledger: Ledger, *, may_hold: int = 0) -> Left:
    """What the server holds now; ``may_hold``: see `Left`. The broker is the ledger's server."""
    server = ledger.redis
    bound = {key.decode().removeprefix("_kombu.binding.") for key in server.scan_iter(match="_kombu.binding.*")}
    queues = [key for key in server.scan_iter(match="*", count=1000, _type="list") if b"{" not in key]
    return Left(
        queued=sum(int(cast(int, server.llen(key))) for key in queues if key.decode() in bound),
        unacked=int(cast(int, server.hlen("unacked"))),
        messages=tuple(_brief(raw) for raw in cast(list[bytes], server.hvals("unacked"))),
        may_hold=may_hold,
        agenda=int(cast(int, server.zcard(ledger.keys.agenda))),
    )


def _brief(raw: bytes) -> str:
    headers = json.loads(raw)[0]["headers"]
    return f"{headers.get('shadow')} {headers.get('argsrepr')} of {headers.get('origin')}"


def read_runs(ledger: Ledger, wanted: Iterable[str] = ()) -> dict[str, RunHistory]:
    """All runs that the ledger knows, and those that are wanted, known or not."""
    ids = {record.id for record in ledger.runs(limit=1_000_000)} | set(wanted)
    keys, entries = lasting(ledger), scheduled(ledger)
    return {id: read_run(ledger, id, keys.get(id, ()), entries.get(id, ())) for id in ids}


def read_run(ledger: Ledger, run: str, keeps: Sequence[str] = (), entries: Sequence[str] = ()) -> RunHistory:
    """What the ledger holds of a run; ``keeps``: its keys that never expire, ``entries``: of the agenda."""
    try:
        record, raw = ledger.outcome(run)
        root = spec.decode(ledger.work(run).spec).root
    except errors.RunNotFound:
        return RunHistory(id=run, state=None)
    reader = Reader(ledger, run, root)
    blocks = {found.id: _block(ledger, reader, run, found) for found in ledger.blocks(run)}
    return RunHistory(
        id=run,
        state=record.state,
        value=None if raw is None else codec.decode(raw),
        events=_events(ledger, run),
        blocks=blocks,
        keeps=keeps if record.state in ENDED else (),
        entries=entries if record.state in ENDED else (),
        retries=_retries(root),
    )


def _retries(step: spec.StepSpec) -> int:
    own = step.retries if isinstance(step, spec.NodeSpec) else 0
    return max([own, *map(_retries, spec.children(step))])


def _block(ledger: Ledger, reader: Reader, run: str, record: BlockRecord) -> Block:
    values = {branch: codec.decode(raw) for branch, raw in ledger.results(run, record.id).items()}
    names = reader.names(record)
    return Block(
        id=record.id,
        name=record.name,
        state=record.state,
        n=record.n,
        limit=record.limit,
        done=record.done,
        deadline=record.deadline,
        ended=record.ended,
        # The branch of the whole run has no name of its own.
        names=(None,) if record.id == "0" else tuple(names),
        values=values,
        failures=frozenset(ledger.failures(run, record.id)),
        parent=record.parent,
        branch=record.branch,
        widths=record.widths,
        tracks=_tracks(ledger, run, record.id) if len(record.widths) > 1 else {},
    )


def _tracks(ledger: Ledger, run: str, block: str) -> dict[int, int]:
    marks = ledger.redis.hgetall(ledger.keys.block(run, "m", block))
    found = (mark.decode().partition(":")[2] for mark in marks if mark.startswith(b"track:"))
    return {int(branch): int(marks[f"track:{branch}".encode()]) for branch in found}


def _events(ledger: Ledger, run: str) -> list[Happened]:
    found = []
    for cursor, raw in ledger.redis.xrange(ledger.keys.part(run, "events")):
        fields = {name.decode(): value for name, value in raw.items()}
        branches = [*_positions(fields, "branches"), *_positions(fields, "ok")]
        attempts = dict(zip(*[iter(_positions(fields, "attempts"))] * 2, strict=True))
        if "branch" in fields:
            branches.append(int(fields["branch"]))
            attempts = {branches[-1]: int(fields.get("attempt", 1))}
        found.append(
            Happened(
                at=int(cursor.decode().partition("-")[0]),
                type=fields["event"].decode(),
                block=fields["block"].decode() if "block" in fields else None,
                branches=tuple(branches),
                failed=tuple(_positions(fields, "error")),
                lane=fields.get("lane", b"").decode(),
                state=fields.get("state", b"").decode(),
                attempts=attempts,
            )
        )
    return found


def _positions(fields: Mapping[str, bytes], name: str) -> list[int]:
    raw = fields.get(name)
    return unpack_positions(raw) if raw else []

"""Makes the report of a run from what the ledger has of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from egregore_dist import errors
from egregore_dist.client import advice, executed, gantt, naming, parts, stored, svg
from egregore_dist.client.parts import Part
from egregore_dist.client.runreport import (
    BlockReport,
    Durations,
    Executions,
    Link,
    NodeReport,
    Retries,
    RunReport,
    Totals,
    WorkerReport,
)
from egregore_dist.client.timeline import Attempt, Timeline, hangs_on, read_on
from egregore_dist.ledger import Ledger, RunRecord, browse
from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.ledger.keys import ROOT
from egregore_dist.workflow import spec

#: Blocks of a run that are read for its report.
BLOCKS_READ = 10_000

# Seconds: a part in which no node is called, only blocks are opened or ended, is told if it took that long.
_CALLS_NOTHING = 0.05

# Letters of a branch's name: it may be any text.
_LETTERS = 300

Name = Callable[[str, int], str]
Attempts = Mapping[tuple[str, int], Sequence[Attempt]]


def of_run(ledger: Ledger, run: str, *, thread_width: int) -> RunReport:
    """The report of a run as it stands now.

    Args:
        thread_width: how many branches a lane may run at a time on threads.

    Raises:
        errors.RunNotFound: there is no such run.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    timeline = Timeline()
    while True:
        record = ledger.run(run)
        whole = browse.block(ledger, run, ROOT)
        found = browse.blocks(ledger, run, limit=BLOCKS_READ)
        values = browse.with_value(ledger, run, [ROOT, *(block.id for block in found.shown)])
        read_on(ledger, run, timeline)
        timeline.learn(record, found.shown)
        # What was read around an end, or a retry, would not be of one state.
        if ledger.run(run).ended == record.ended:
            break
    root = _root(ledger, run)
    return account(
        record,
        timeline,
        blocks=found.shown,
        opened=sum(found.counts.values()),
        values=values,
        whole=whole,
        root=root,
        names=_namer(ledger, run, root, [whole, *found.shown]),
        now=ledger.now() / 1000,
        advised=() if root is None else advice.of_run(ledger, run, thread_width),
    )


def nodes_of(ledger: Ledger, run: str) -> list[NodeReport]:
    """The nodes of a run alone: what the whole report says of them, sooner.

    Raises:
        errors.RunNotFound: there is no such run.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    timeline = Timeline()
    read_on(ledger, run, timeline)
    return _nodes(timeline, _root(ledger, run))


def account(
    record: RunRecord,
    timeline: Timeline,
    *,
    blocks: Sequence[BlockGlance],
    opened: int,
    values: Mapping[str, int],
    whole: BlockGlance,
    root: spec.StepSpec | None,
    names: Name,
    now: float,
    advised: tuple[str, ...] = (),
) -> RunReport:
    """The report of a run, from what was read of it.

    Args:
        blocks: its blocks, as many as were read.
        opened: how many there are.
        values: by block, how many of its branches have a value.
        whole: the block that is the whole run.
        root: its workflow, or None where that cannot be read.
        names: the name of a branch, by block and position.
        now: the server's time, in seconds.
        advised: what is advised for its nodes.
    """
    end = record.ended or now
    has_blocks = bool(opened)
    counted = _counted(blocks if has_blocks else (whole,), values)
    # The whole run is a branch too, and all the others are in it.
    attempts = {place: _whole(each) for place, each in timeline.attempts.items() if not has_blocks or place[0] != ROOT}
    around = {hangs_on(block) for block in timeline.blocks}
    alone = {place: each for place, each in attempts.items() if place not in around}
    ways = None if root is None else executed.Ways(timeline, root)
    beside = _beside(timeline, around)
    chart = gantt.draw(timeline, record.workflow, now, names)
    return RunReport(
        id=record.id,
        workflow=record.workflow,
        state=record.state,
        at=now,
        created=record.created,
        started=record.started,
        ended=record.ended,
        waited=max(0.0, (record.started or end) - record.created),
        ran=record.ran(now),
        totals=Totals(blocks=opened, **counted),
        success_rate=_rate(counted),
        executions=executions(_all(alone)),
        parts=Durations.of(
            part.seconds(now)
            for place, part in beside
            if part.told and part.end is not None and part.how in ("ok", "error") and _counts(ways, place, [part], now)
        ),
        nodes=tuple(_nodes(timeline, root)),
        blocks=tuple(_blocks(blocks, values, attempts)),
        workers=tuple(_workers(alone, [part for _, part in beside], now)),
        critical_path=tuple(critical_path(timeline, record.workflow, ways, names, now)),
        retries=retries(timeline, now),
        partial=timeline.partial or len(blocks) < opened,
        advice=advised,
        timeline=chart or "",
    )


def executions(attempts: Iterable[Attempt]) -> Executions:
    """Executions, counted by how they ended."""
    known = list(attempts)
    spent = [attempt.spent for attempt in known if attempt.spent is not None]
    how = [_KINDS.get(attempt.how, "stopped") for attempt in known]
    return Executions(
        **{kind: how.count(kind) for kind in ("ok", "failed", "lost", "stopped", "running")},
        together=sum(attempt.together > 1 for attempt in known),
        durations=Durations.of(
            attempt.end - attempt.start
            for attempt in known
            if attempt.end is not None and attempt.how in ("ok", "error")
        ),
        measured=len(spent),
        cpu=sum(each.cpu or 0.0 for each in spent),
        memory=max((each.memory for each in spent if each.memory is not None), default=None),
    )


def critical_path(timeline: Timeline, workflow: str, ways: executed.Ways | None, names: Name, now: float) -> list[Link]:
    """What the run's end waited for, in the order of time."""
    met = {hangs_on(block) for block in timeline.blocks}
    critical = timeline.critical(now)
    last = {place[0]: place[1] for place in critical if isinstance(place, tuple)}
    found: list[tuple[float, int, Link]] = []
    if (ROOT, 0) in met:
        found += _links((ROOT, 0), workflow, timeline.started or now, timeline, ways, names, now) or ()
    for id in (place for place in critical if isinstance(place, str)):
        block, branch = timeline.blocks[id], last.get(id)
        if branch is not None and (id, branch) in met and not block.partial:
            its = _links((id, branch), block.name, block.opened, timeline, ways, names, now)
            if its is not None:
                found += its
                continue
        attempts = () if branch is None else timeline.attempts[id, branch]
        begun = attempts[0].start if attempts else block.ended or now
        over = (attempts[-1].end or now) if attempts else begun
        if block.partial:
            begun, over = block.opened, block.ended or now
        spent = attempts[-1].spent if attempts else None
        link = Link(
            block=id,
            name=block.name,
            branch=None if branch is None else names(id, branch),
            worker=attempts[-1].worker or None if attempts else None,
            waited=max(0.0, begun - block.opened),
            ran=max(0.0, over - begun),
            cpu=spent.cpu if spent else None,
            memory=spent.memory if spent else None,
        )
        found.append((block.opened, id.count("."), link))
    return [link for _, _, link in sorted(found, key=lambda entry: entry[:2])]


def _links(
    place: tuple[str, int],
    name: str,
    opened: float,
    timeline: Timeline,
    ways: executed.Ways | None,
    names: Name,
    now: float,
) -> list[tuple[float, int, Link]] | None:
    """A link for each part of a branch that met blocks, with its place in the order; None where events are missing."""
    each = parts.between_blocks(timeline.attempts.get(place, ()))
    if each is None:
        return None
    found = []
    for number, its in enumerate(each):
        if not _counts(ways, place, its, now):
            continue
        first, last = its[0], its[-1]
        after = timeline.blocks.get(first.after)
        free = (after.ended if after else None) or (first.start if number else opened)
        link = Link(
            block=place[0],
            name=name,
            branch=names(*place),
            worker=last.worker or None if last.told else None,
            waited=max(0.0, first.start - free),
            ran=max(0.0, (last.end or now) - first.start),
            nodes=_nodes_of(ways, place, its) or (),
        )
        depth = place[0].count(".")
        # What was opened in an instant came before what went on in it, and of this the innermost came first.
        found.append((first.start - link.waited, len(timeline.blocks) + 1 - depth if first.after else depth, link))
    return found


def retries(timeline: Timeline, now: float) -> Retries:
    """What retries did: the values from before the last one were kept."""
    if not timeline.retried:
        return Retries()
    last = timeline.retried[-1]
    kept = {
        place: attempts[-1]
        for place, attempts in timeline.attempts.items()
        if place[0] != ROOT and _whole(attempts) and attempts[-1].how == "ok" and (attempts[-1].end or now) <= last
    }
    # What is nested in a branch that was kept is a part of it, and a branch that waits for a block takes no time.
    outermost = sum(not any(outer in kept for outer in _around(place[0])) for place in kept)
    around = {hangs_on(block) for block in timeline.blocks}
    saved = sum((attempt.end or now) - attempt.start for place, attempt in kept.items() if place not in around)
    return Retries(count=len(timeline.retried), kept=outermost, saved=saved)


_KINDS = {"ok": "ok", "error": "failed", "lost": "lost", "running": "running"}


def _root(ledger: Ledger, run: str) -> spec.StepSpec | None:
    try:
        return stored.workflow(ledger, run).root
    except errors.UnreadableWorkflow:
        return None


def _namer(ledger: Ledger, run: str, root: spec.StepSpec | None, blocks: Sequence[BlockGlance]) -> Name:
    by_id = {block.id: block for block in blocks}
    known: dict[str, Sequence[str]] = {}

    def name(id: str, branch: int) -> str:
        block = by_id.get(id)
        keys: Sequence[str] = ()
        if block is not None and root is not None:
            told = naming.told(root, block)
            if told is None and block.input not in known:
                known[block.input] = naming.of_map(ledger, run, block)
            keys = known[block.input] if told is None else told
        return svg.cut(keys[branch], _LETTERS) if branch < len(keys) else f"#{branch}"

    return name


def _counted(blocks: Iterable[BlockGlance], values: Mapping[str, int]) -> dict[str, int]:
    found = dict.fromkeys(("branches", "ok", "failed", "stopped", "open"), 0)
    for block in blocks:
        ok = values.get(block.id, 0)
        found["branches"] += block.n
        found["ok"] += ok
        found["failed"] += block.failed
        # Read one after the other, while the run goes on.
        found["open" if block.state == "open" else "stopped"] += max(0, block.n - ok - block.failed)
    return found


def _rate(counted: Mapping[str, int]) -> float | None:
    ended = counted["ok"] + counted["failed"] + counted["stopped"]
    return counted["ok"] / ended if ended else None


def _whole(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those of which it is known when they began and ended."""
    return [attempt for attempt in attempts if attempt.cut is None]


def _all(attempts: Attempts) -> list[Attempt]:
    return [attempt for each in attempts.values() for attempt in each]


def _nodes(timeline: Timeline, root: spec.StepSpec | None) -> list[NodeReport]:
    calls = {} if root is None else executed.by_node(timeline, root)
    found = []
    for name, each in calls.items():
        told = executions(each.whole)
        ends = {kind: getattr(told, kind) for kind in ("ok", "failed", "lost", "stopped", "running")}
        for how, count in each.others.items():
            ends[_KINDS.get(how, "stopped")] += count
        found.append(NodeReport(name=name, executions=replace(told, **ends), steps=each.others.total()))
    return sorted(found, key=lambda node: (-node.executions.durations.total, node.name))


def _blocks(blocks: Sequence[BlockGlance], values: Mapping[str, int], attempts: Attempts) -> list[BlockReport]:
    by_path: dict[spec.Path, list[BlockGlance]] = {}
    for block in blocks:
        by_path.setdefault(block.path, []).append(block)
    by_block: dict[str, list[Attempt]] = {}
    for (id, _), each in attempts.items():
        by_block.setdefault(id, []).extend(each)
    found = []
    for path, alike in sorted(by_path.items()):
        counted = _counted(alike, values)
        del counted["open"]
        found.append(
            BlockReport(
                name=alike[0].name,
                path=path,
                opened=len(alike),
                took=Durations.of((block.ended - block.opened) / 1000 for block in alike if block.ended is not None),
                executions=executions(attempt for block in alike for attempt in by_block.get(block.id, ())),
                **counted,
            )
        )
    return found


def _beside(timeline: Timeline, around: Collection[tuple[str, int]]) -> list[tuple[tuple[str, int], Part]]:
    """What branches did themselves that met blocks, as far as that is known."""
    return [
        (place, part)
        for place in around
        for attempt in timeline.attempts.get(place, ())
        for part in parts.of(attempt) or ()
    ]


def _nodes_of(ways: executed.Ways | None, place: tuple[str, int], its: Sequence[Part]) -> tuple[str, ...] | None:
    """The nodes that there are in parts behind one block; None where that is not known."""
    return None if ways is None else ways.between(place, its[0].after, its[-1].until)


def _counts(ways: executed.Ways | None, place: tuple[str, int], its: Sequence[Part], now: float) -> bool:
    """Whether parts behind one block are told."""
    least = _CALLS_NOTHING if _nodes_of(ways, place, its) == () else parts.NEGLIGIBLE
    return (now if its[-1].end is None else its[-1].end) - its[0].start >= least


def _workers(attempts: Attempts, beside: Iterable[Part], now: float) -> list[WorkerReport]:
    by_worker: dict[str, tuple[list[Attempt], list[Part]]] = {}
    for attempt in _all(attempts):
        if attempt.worker:
            by_worker.setdefault(attempt.worker, ([], []))[0].append(attempt)
    for part in beside:
        if part.worker and part.told:
            by_worker.setdefault(part.worker, ([], []))[1].append(part)
    return [
        WorkerReport(name=name, executions=executions(each), busy=_busy([*each, *its], now))
        for name, (each, its) in sorted(by_worker.items())
    ]


def _busy(attempts: Iterable[Attempt | Part], now: float) -> float:
    """Seconds in which there was at least one."""
    busy, until = 0.0, 0.0
    for start, end in sorted((attempt.start, attempt.end or now) for attempt in attempts):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


def _around(block: str) -> Iterable[tuple[str, int]]:
    """The branches that a block is nested in."""
    while block not in ("", ROOT):
        place = hangs_on(block)
        yield place
        block = place[0]

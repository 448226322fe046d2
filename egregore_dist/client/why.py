"""Why a run waits: a pure function of what the ledger has of it and of what workers report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from egregore_dist.client import amounts
from egregore_dist.engine.control import DRAINED
from egregore_dist.ledger import fitness
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.limits import Bucket
from egregore_dist.ledger.waits import Again, Look, OpenBlock, Retry, Track
from egregore_dist.resources import needs, router
from egregore_dist.resources.report import Report

#: "paused": somebody has paused the run.
#: "evictions": the server evicts keys, so nothing is started.
#: "workers": no worker is alive.
#: "queue": no live worker serves the queue.
#: "held": no live worker of the queue takes lanes now: it is drained, or its memory is short.
#: "room": the machines that are large enough have no room now for what the branches need.
#: "size": no live worker is large enough.
#: "labels": no live worker of the queue has the labels or the GPUs.
#: "module": no live worker of the queue loads the module.
#: "limit": the block's ``max_concurrent`` is reached.
#: "place": the limit of the node that the branches begin with has no place, over all runs.
#: "slots": every slot of the queue's workers is taken.
#: "lanes": as many lanes as the block was planned with are at work.
#: "message": no lane has come yet; where its message was lost, a janitor asks again.
#: "attempt": the branch lost its process, or was stopped, and waits for its next attempt.
#: "retry": a node of the branch has failed, and is called again some time later; its lane keeps the branch.
#: "block": the branch waits for the block that it met.
#: "deadline": what is left of the block's timeout.
#: "unseen": there are more open blocks than were looked at.
Kind = Literal[
    "paused",
    "evictions",
    "workers",
    "queue",
    "held",
    "room",
    "size",
    "labels",
    "module",
    "limit",
    "place",
    "slots",
    "lanes",
    "message",
    "attempt",
    "retry",
    "block",
    "deadline",
    "unseen",
]

# Names that a text lists.
_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why something of a run waits; ``str`` says it with the block's name.

    Attributes:
        kind: what it waits for, see `Kind`.
        block: the id of the block; None where it is the whole run.
        name: that block's name, or "".
        branch: the branch's number in the block; None where it is every one that waits.
        text: the reason in words.
        numbers: those in the text, by name; times in seconds.
        names: what the text names: queues, labels, modules, runs, or the block that is waited for.
    """

    kind: Kind
    block: str | None = None
    name: str = ""
    branch: int | None = None
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict, hash=False)
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.name else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the branches of one track need of a worker.

    Attributes:
        memory: bytes that the neediest was declared to need, or None.
        cpus: cores, or None.
        modules: the modules of their functions; of those that travel by value none.
    """

    memory: int | None = None
    cpus: float | None = None
    modules: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run and its cluster.

    Attributes:
        look: the run, as the ledger has it.
        reports: of the live workers.
        needs: by block and track; those that are not known are left out.
        branches: names of branches, by block and number; those that are not known are left out.
        others: lanes of other runs, by run; as many as are known.
    """

    look: Look
    reports: tuple[Report, ...] = ()
    needs: Mapping[tuple[str, int], Need] = field(default_factory=dict)
    branches: Mapping[tuple[str, int], str] = field(default_factory=dict)
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def reasons(facts: Facts) -> list[Reason]:
    """Why things of a run wait: first what holds for all of it, then block by block, the outermost first."""
    look = facts.look
    found = []
    if look.paused is not None:
        found.append(_paused(look, look.paused))
    if look.held_until is not None:
        found.append(_evictions(look, look.held_until))
    if not facts.reports:
        found.append(_no_worker(look))
    teller = _Teller(facts)
    for block in look.blocks:
        found += teller.of_block(block)
    found += [teller.of_retry(retry) for retry in look.retries]
    if look.more:
        text = f"{amounts.count(look.more, 'more branch')} wait{'s' if look.more == 1 else ''} to be tried again, later"
        found.append(Reason(kind="retry", text=text, numbers={"more": look.more}))
    found += [teller.of_parked(block) for block in look.blocks if block.parent not in (None, ROOT)]
    if look.open > len(look.blocks):
        found.append(_unseen(look))
    return found


def gathered(found: Iterable[Reason], each: int = 5) -> list[tuple[Reason, int]]:
    """The first few of those that are alike, for people; beside the last of them how many more there are.

    Args:
        each: how many, of one kind about blocks of one name.
    """
    shown: list[tuple[Reason, int]] = []
    alike: dict[tuple[str, ...], list[int]] = {}
    for reason in found:
        what = reason.names if reason.kind in ("queue", "size", "labels", "module") else ()
        places = alike.setdefault((reason.kind, reason.name, *what), [])
        if len(places) < each:
            places.append(len(shown))
            shown.append((reason, 0))
        else:
            last, more = shown[places[-1]]
            shown[places[-1]] = (last, more + 1)
    return shown


class _Teller:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._names = {block.id: block.name for block in facts.look.blocks}
        self._cluster = router.Cluster(facts.reports)
        self._parents = {block.parent for block in facts.look.blocks}
        self._lanes = _lanes(facts)

    def of_block(self, block: OpenBlock) -> Iterator[Reason]:
        """Why branches of a block wait that nobody has leased, and how long any of its branches may."""
        is_full = 0 < block.limit <= block.running
        is_waited_in = block.id in self._parents
        if block.waiting and is_full:
            yield _limit(block, is_waited_in)
        for number, track in enumerate(block.tracks):
            if track.waiting:
                yield from self._of_track(block, number, track, is_full)
            for again in track.again:
                yield self._attempt(block, again)
        if block.deadline is not None and (block.waiting or is_waited_in):
            yield _deadline(block, block.deadline, self._facts.look.now)

    def of_retry(self, retry: Retry) -> Reason:
        """When a branch goes on whose node has failed."""
        seconds = max(0.0, (retry.at - self._facts.look.now) / 1000)
        who = "" if retry.block == ROOT else f"branch {self._branch(retry.block, retry.branch)}: "
        text = f"{who}retry in {_time(seconds)}: call {retry.call} of {retry.most} of node {retry.node!r}"
        return Reason(
            kind="retry",
            block=retry.block,
            name=retry.name,
            branch=retry.branch,
            text=text,
            numbers={"seconds": seconds, "call": retry.call, "calls": retry.most},
            names=(retry.node,),
        )

    def of_parked(self, child: OpenBlock) -> Reason:
        """What a branch waits for that has met a block."""
        assert child.parent is not None
        assert child.branch is not None
        branch = self._branch(child.parent, child.branch)
        return Reason(
            kind="block",
            block=child.parent,
            name=self._names.get(child.parent, ""),
            branch=child.branch,
            text=f"branch {branch} waits for block {child.name!r}, of which {child.done} of {child.n} have ended",
            numbers={"done": child.done, "branches": child.n},
            names=(child.id,),
        )

    def _of_track(self, block: OpenBlock, number: int, track: Track, is_full: bool) -> Iterator[Reason]:
        if not self._facts.reports:
            return
        unserved = self._unserved(block, number, track)
        yield from unserved
        if unserved or is_full or self._facts.look.paused is not None or self._facts.look.held_until is not None:
            return
        if track.limit is not None:
            yield _place(block, track, track.limit)
            return
        yield self._short(block, track) or self._busy(block, track) or _late(block, track, self._facts.look.now)

    def _unserved(self, block: OpenBlock, number: int, track: Track) -> list[Reason]:
        """Why no worker that is alive can serve a track."""
        needed = needs.of(track.queue)
        serving = [said for said in self._facts.reports if needed.queue in said.queues]
        if not serving:
            live = sorted({queue for said in self._facts.reports for queue in said.queues})
            text = f"no live worker serves queue {needed.queue!r}; served: {_listed(live)}"
            text += f": start one with `{router.command_for(track.queue)}`"
            return [_reason("queue", block, text, {"waiting": track.waiting}, (needed.queue, *live))]
        able = [said for said in serving if router.serves(said, track.queue)] or serving
        if all(said.holds for said in able):
            return [_held(block, track, able)]
        found = []
        need = self._facts.needs.get((block.id, number), Need())
        misfit = router.misfit(self._cluster, track.queue, memory=need.memory, cpus=need.cpus)
        if misfit is not None:
            numbers: dict[str, float] = {"waiting": track.waiting}
            memory, cpus = max(need.memory or 0, needed.most_memory), max(need.cpus or 0.0, needed.cpus)
            numbers |= {"memory": memory} if memory else {}
            numbers |= {"cpus": cpus} if cpus else {}
            numbers |= {"gpus": needed.gpus} if needed.gpus else {}
            unlabelled = not any(router.serves(said, needs.without_sizes(track.queue)) for said in serving)
            kind: Kind = "labels" if unlabelled else "size"
            found.append(_reason(kind, block, f"a branch {misfit}", numbers, (needed.queue, *sorted(needed.labels))))
        unknown = sorted(module for module in need.modules if not any(_loads(said, module) for said in serving))
        if unknown:
            text = f"no live worker of queue {needed.queue!r} loads {_listed(unknown)}"
            text += f": start one with `egregore-dist worker -m {unknown[0]}`"
            found.append(_reason("module", block, text, {"waiting": track.waiting}, tuple(unknown)))
        return found

    def _short(self, block: OpenBlock, track: Track) -> Reason | None:
        """Whether no worker's machine has room for a track, by what others have of it."""
        serving = [said for said in self._facts.reports if router.serves(said, track.queue) and not said.holds]
        short = [said for said in serving if track.queue in said.short]
        # Whoever has no slot left has not asked.
        if not short or any(said not in short and self._has_slot(said) for said in serving):
            return None
        needed = needs.of(track.queue)
        amount = [f"{router.size(needed.most_memory)} of memory"] if needed.most_memory else []
        amount += [f"{needed.cpus:g} cores"] if needed.cpus else []
        each = [f"{said.worker} ({said.short[track.queue]})" for said in short[:_LISTED]]
        text = f"{_of(track.waiting, 'wait')} for {' and '.join(amount)} each, which no machine has free: "
        text += ", ".join(each)
        numbers: dict[str, float] = {"waiting": track.waiting}
        numbers |= {"memory": needed.most_memory} if needed.most_memory else {}
        numbers |= {"cpus": needed.cpus} if needed.cpus else {}
        return _reason("room", block, text, numbers, tuple(said.worker for said in short))

    def _has_slot(self, said: Report) -> bool:
        # A report is some seconds old, and of other runs' lanes not all are known.
        return max(len(said.lanes), len(self._lanes.get(said.worker, ()))) < said.slots

    def _busy(self, block: OpenBlock, track: Track) -> Reason | None:
        """Whether every slot of a queue is taken, and by which runs."""
        lanes = self._lanes
        serving = [said for said in self._facts.reports if router.serves(said, track.queue) and not said.holds]
        if any(self._has_slot(said) for said in serving):
            return None
        slots = sum(said.slots for said in serving)
        by = Counter(run for said in serving for run in lanes.get(said.worker, ()))
        mine = self._facts.look.record.id
        parts = [f"{count} by {'this run' if run == mine else f'run {run}'}" for run, count in by.most_common(_LISTED)]
        every = "the only slot" if slots == 1 else f"all {slots} slots"
        text = f"{every} of queue {track.queue!r} {'is' if slots == 1 else 'are'} busy"
        if parts:
            text += f": {', '.join(parts)}"
        numbers = {"slots": slots, "workers": len(serving), "waiting": track.waiting}
        return _reason("slots", block, text, numbers, tuple(run for run, _ in by.most_common()))

    def _attempt(self, block: OpenBlock, again: Again) -> Reason:
        most = f" of {again.most}" if again.most else ""
        node = f" at {again.node!r}" if again.node else ""
        why = again.why or f"it was stopped{node}, which was over its timeout"
        text = f"branch {self._branch(block.id, again.branch)} waits for attempt {again.attempt}{most}: {why}"
        if again.why:
            text += node
        numbers = {"attempt": again.attempt, "attempts": again.most, "stopped": again.calls}
        return _reason("attempt", block, text, numbers, branch=again.branch)

    def _branch(self, block: str, branch: int) -> str:
        name = self._facts.branches.get((block, branch))
        return f"#{branch}" if name is None else repr(name)


def _lanes(facts: Facts) -> dict[str, list[str]]:
    """The runs of the lanes that are known, by worker: one for each lane."""
    mine = tuple({token for block in facts.look.blocks for token in block.holders})
    found: dict[str, list[str]] = {}
    for run, tokens in {**facts.others, facts.look.record.id: mine}.items():
        for token in tokens:
            found.setdefault(token.rsplit("/", 2)[0], []).append(run)
    return found


def _paused(look: Look, since: int) -> Reason:
    seconds = max(0.0, (look.now - since) / 1000)
    waiting = sum(block.waiting for block in look.blocks)
    text = f"the run is paused, for {_time(seconds)}: nothing more of it begins until it is resumed"
    return Reason(kind="paused", text=text, numbers={"seconds": seconds, "waiting": waiting})


def _evictions(look: Look, until: int) -> Reason:
    seconds = (until - look.now) / 1000
    text = (
        "the server evicts keys, and may lose parts of runs: nothing more begins until it has evicted none for a "
        f"while, in {_time(seconds)} at the earliest; {fitness.NO_EVICTION}"
    )
    return Reason(kind="evictions", text=text, numbers={"seconds": seconds})


def _no_worker(look: Look) -> Reason:
    waiting = sum(block.waiting for block in look.blocks)
    text = "no worker is alive: start one with `egregore-dist worker -m MODULE`"
    return Reason(kind="workers", text=text, numbers={"waiting": waiting})


def _unseen(look: Look) -> Reason:
    more = look.open - len(look.blocks)
    text = f"{amounts.count(more, 'more block')} of the run {'is' if more == 1 else 'are'} open, and not looked at here"
    return Reason(kind="unseen", text=text, numbers={"open": look.open, "looked": len(look.blocks)})


def _limit(block: OpenBlock, is_waited_in: bool) -> Reason:
    ahead = block.waiting - 1
    behind = f", the last of them behind {amounts.count(ahead, 'other')}" if ahead else ""
    running = _of(block.running, "run") + (" or stand at blocks inside" if is_waited_in else "")
    text = f"max_concurrent={block.limit} is reached: {running}, {_of(block.waiting, 'wait')}{behind}"
    numbers = {"limit": block.limit, "running": block.running, "waiting": block.waiting, "ahead": ahead}
    return _reason("limit", block, text, numbers)


def _place(block: OpenBlock, track: Track, limit: Bucket) -> Reason:
    rule = limit.rule
    # The value is of an input, which not everybody may see who may see this.
    of = "" if limit.value is None else ", for one value of its key,"
    numbers: dict[str, float] = {"waiting": track.waiting, "ahead": limit.ahead, "held": limit.held}
    said = []
    if rule.concurrent:
        numbers["concurrent"] = rule.concurrent
        said.append(f"{limit.held} of {amounts.count(rule.concurrent, 'place')} taken")
    if rule.per is not None:
        numbers |= {"starts": rule.starts, "seconds": rule.seconds, "starts_in": limit.starts_in}
        said.append(f"{rule.per}, the next start in {_time(limit.starts_in)}" if limit.starts_in else rule.per)
    ahead = f"{amounts.count(limit.ahead, 'block')} ahead"
    text = f"{_of(track.waiting, 'wait')} for limit {limit.limit!r}{of} over all runs ({'; '.join(said)}), {ahead}"
    return _reason("place", block, text, numbers, (limit.limit,))


def _held(block: OpenBlock, track: Track, serving: Sequence[Report]) -> Reason:
    """Why no worker of a queue takes lanes."""
    each = [f"{said.worker} ({_said_of(said)})" for said in serving[:_LISTED]]
    each += [f"{len(serving) - _LISTED} more"] if len(serving) > _LISTED else []
    queue = needs.of(track.queue).queue
    text = f"{_of(track.waiting, 'wait')}: no live worker of queue {queue!r} takes lanes now: {', '.join(each)}"
    drained = [said.worker for said in serving if DRAINED in said.holds]
    if drained:
        text += f": `egregore-dist workers resume {drained[0]}` has it take them again"
    return _reason("held", block, text, {"waiting": track.waiting}, tuple(said.worker for said in serving))


def _said_of(said: Report) -> str:
    return "; ".join(f"{reason}: {why}" if why else reason for reason, why in said.holds.items())


def _late(block: OpenBlock, track: Track, now: int) -> Reason:
    """Why no lane takes what waits although slots are free."""
    wait = _of(track.waiting, "wait")
    numbers: dict[str, float] = {"waiting": track.waiting, "lanes": track.planned, "serving": track.serving}
    if track.serving >= track.planned:
        every = "the only lane" if track.planned == 1 else f"all {track.planned} lanes"
        each = f", {track.width} branches at a time" if track.width > 1 else ""
        text = f"{wait}: {every} planned for it {'is' if track.planned == 1 else 'are'} at work{each}"
        return _reason("lanes", block, text, {**numbers, "width": track.width})
    text = f"{wait} for a lane: its message is on its way, or was lost"
    if block.asks_at is not None:
        seconds = max(0.0, (block.asks_at - now) / 1000)
        numbers |= {"seconds": seconds, "asked": block.asked}
        before = f", after {amounts.count(block.asked, 'time')} before" if block.asked else ""
        text += f"; a janitor asks again {f'in {_time(seconds)}' if seconds else 'now'}{before}"
    return _reason("message", block, text, numbers)


def _deadline(block: OpenBlock, deadline: int, now: int) -> Reason:
    left = max(0.0, (deadline - now) / 1000)
    of = "" if block.timeout is None else f" of {block.timeout:g} s"
    text = f"{_time(left)} are left of its timeout{of}" if left else f"its timeout{of} is over: a janitor ends it now"
    numbers = {"left": left} | ({} if block.timeout is None else {"timeout": block.timeout})
    return _reason("deadline", block, text, numbers)


def _reason(
    kind: Kind,
    block: OpenBlock,
    text: str,
    numbers: Mapping[str, float],
    names: tuple[str, ...] = (),
    branch: int | None = None,
) -> Reason:
    return Reason(
        kind=kind, block=block.id, name=block.name, branch=branch, text=text, numbers=dict(numbers), names=names
    )


def _loads(said: Report, module: str) -> bool:
    return any(module == listed or module.startswith(f"{listed}.") for listed in said.modules)


def _listed(names: Iterable[str]) -> str:
    found: Sequence[str] = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(repr(name) for name in found[:_LISTED]) + more or "none"


def _of(number: int, verb: str) -> str:
    return f"{number} {verb}{'s' if number == 1 else ''}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"

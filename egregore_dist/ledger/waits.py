"""What of a run waits, as the ledger has it: a bounded look, whatever the size of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from typing import Any, cast

import msgspec

from egregore_dist.ledger import limits, replies
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import ATTEMPTS, Ledger
from egregore_dist.ledger.limits import Bucket
from egregore_dist.ledger.records import ENDED, Fields, RunRecord, Work, path_of

#: Open blocks that are looked at, tracks of each, branches at the head of a track's queue, and lanes of a block.
BLOCKS, TRACKS, HEADS, LANES = 50, 8, 10, 200
#: Branches that wait before a node of theirs is called again.
RETRIES = 20
#: Open blocks of other runs that are looked at for who has the slots.
OTHERS = 100

# Names of open blocks that are looked through for those to look at, and in how many steps.
_NAMES, _STEPS = 500, 4

# Block, branch, token, call, calls at most, node. The script packs the numbers as text.
_WAIT = msgspec.msgpack.Decoder(tuple[str, int, str, int, int, str], strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A branch that was leased, and waits to be leased again.

    Attributes:
        branch: which.
        attempt: the one that it waits for, from 1.
        most: attempts at most, where it has lost a process; 0 where it has not.
        why: how it lost those before; "" where it has lost none.
        node: the node that it was at, where that is known.
        calls: how often that node was stopped for its timeout.
    """

    branch: int
    attempt: int
    most: int
    why: str
    node: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One track of an open block.

    Attributes:
        queue: where its lanes go.
        width: branches that a lane runs at a time.
        planned: lanes that it was planned with.
        waiting: branches that nobody has leased.
        serving: lanes that hold branches, as many as were seen.
        again: of those that wait, the first ones that were leased before.
        limit: what they wait for where they begin with a node that has a limit; None where it has a place for the next.
    """

    queue: str
    width: int
    planned: int
    waiting: int
    serving: int
    again: tuple[Again, ...] = ()
    limit: Bucket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBlock:
    """An open block. Times are server milliseconds.

    Attributes:
        id: its id.
        name: its name.
        path: where it is in the workflow.
        n: its branches.
        done: how many have ended.
        running: slots of its limit in use, those of parked branches included.
        limit: branches at a time at most, 0 for no limit.
        parent: the block it is nested in; None of the whole run.
        branch: that block's branch, which waits for this block.
        timeout: in seconds, or None.
        deadline: when that is over.
        tracks: its tracks, as many as were looked at.
        holders: the lanes that hold branches, as many as were looked at.
        asks_at: when a janitor asks for lanes again, if branches wait and none serves them; None where nobody knows.
        asked: how often one has.
    """

    id: str
    name: str
    path: tuple[int, ...]
    n: int
    done: int
    running: int
    limit: int
    parent: str | None
    branch: int | None
    timeout: float | None
    deadline: int | None
    tracks: tuple[Track, ...]
    holders: tuple[str, ...] = ()
    asks_at: int | None = None
    asked: int = 0

    @property
    def waiting(self) -> int:
        """Branches that nobody has leased."""
        return sum(track.waiting for track in self.tracks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A branch that waits before a node of it is called again, and is held by its lane meanwhile.

    Attributes:
        block: the id of its block.
        name: the block's name.
        branch: which.
        call: the call that it waits for, from 1.
        most: calls at most.
        node: which is called.
        at: when, in server milliseconds.
    """

    block: str
    name: str
    branch: int
    call: int
    most: int
    node: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A run that has not ended, and those of its open blocks that were looked at.

    Attributes:
        record: the run.
        now: the server's time, in milliseconds.
        paused: since when it is, or None.
        held_until: until when nothing is leased, since the server evicts keys, or None.
        work: its spec and its functions.
        open: open blocks that there are.
        blocks: those that were looked at, the outermost first.
        retries: branches that wait before their node is called again, the first ones to go on.
        more: how many more there are.
    """

    record: RunRecord
    now: int
    paused: int | None
    held_until: int | None
    work: Work
    open: int
    blocks: tuple[OpenBlock, ...] = field(default=())
    retries: tuple[Retry, ...] = ()
    more: int = 0


def look(ledger: Ledger, run: str) -> Look | None:
    """Look at a run; None where it has ended. Raises `errors.RunNotFound`, `errors.BrokerUnavailable`."""
    keys = ledger.keys
    pipe = ledger.redis.pipeline(transaction=False)
    pipe.hmget(keys.run(run), replies.RUN_FIELDS)
    pipe.hmget(keys.run(run), replies.WORK_FIELDS)
    pipe.scard(keys.part(run, "open"))
    pipe.hget(keys.block(run, "m", ROOT), "at:0")
    pipe.hget(keys.evictions, "until")
    with reachable():
        fields, work, count, at, until = pipe.execute()
        if fields[0] is None:
            raise replies.not_found(run)
        record, paused = replies.run_record(run, fields), fields[replies.RUN_FIELDS.index("paused")]
        if record.state in ENDED:
            return None
        outermost = [ROOT, *([at.decode()] if at is not None else [])]
        blocks, now = _blocks(ledger, run, _chosen(outermost, _names(ledger, run)))
        retries, more = _retries(ledger, run, now)
    return Look(
        record=record,
        now=now,
        paused=int(paused) if paused else None,
        held_until=int(until) if until is not None and int(until) > now else None,
        work=replies.work(run, work),
        open=int(count),
        blocks=tuple(blocks),
        retries=tuple(retries),
        more=more,
    )


def _retries(ledger: Ledger, run: str, now: int) -> tuple[list[Retry], int]:
    """Branches that wait before a node of theirs is called again, as many as are looked at; and how many more."""
    keys = ledger.keys
    pipe = ledger.redis.pipeline(transaction=False)
    # Without infinity, which is no time.
    pipe.zrangebyscore(keys.part(run, "waits"), f"({now}", "(+inf", 0, RETRIES, withscores=True)
    pipe.zcount(keys.part(run, "waits"), f"({now}", "(+inf")
    noted, count = pipe.execute()
    said = [(wait, int(at)) for member, at in noted if (wait := _decoded(member)) is not None]
    for (block, branch, *_), _ in said:
        pipe.hget(keys.block(run, "l", block), branch)
        pipe.hmget(keys.block(run, "b", block), "name", "state")
    answers = pipe.execute()
    found = [
        Retry(block=block, name=name.decode(), branch=branch, call=call, most=most, node=node, at=at)
        for ((block, branch, token, call, most, node), at), holder, (name, state) in zip(
            said, answers[::2], answers[1::2], strict=True
        )
        # Its lane may have been lost, and another have it now.
        if state == b"open" and holder == token.encode()
    ]
    return found, int(count) - len(noted)


def _decoded(member: bytes) -> tuple[str, int, str, int, int, str] | None:
    """A member of ``waits``, as ``backoff.lua`` packs it; None for a member that something else has written."""
    try:
        return _WAIT.decode(member)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def others(ledger: Ledger, run: str) -> dict[str, tuple[str, ...]]:
    """Lanes that other runs have, by run: of the blocks that janitors look at next, where those with lanes are."""
    keys = ledger.keys
    with reachable():
        entries = cast(list[bytes], ledger.redis.zrange(keys.agenda, 0, OTHERS - 1))
        asked = replies.agenda(entries)
        blocks = [(other, block) for other, kind, block in asked if kind == "hint" and other != run]
        pipe = ledger.redis.pipeline(transaction=False)
        for other, block in blocks:
            pipe.hscan(keys.block(other, "l", block), 0, match="@*", count=LANES)
        found: dict[str, tuple[str, ...]] = {}
        for (other, _), (_, lanes) in zip(blocks, pipe.execute(), strict=True):
            if lanes:
                found[other] = (*found.get(other, ()), *(name[1:].decode() for name in lanes))
    return found


def _names(ledger: Ledger, run: str) -> list[str]:
    """Ids of open blocks: all of them, where they are not very many."""
    found: list[str] = []
    cursor = 0
    for _ in range(_STEPS):
        cursor, names = cast(
            tuple[int, list[bytes]], ledger.redis.sscan(ledger.keys.part(run, "open"), cursor, count=_NAMES)
        )
        found += [name.decode() for name in names]
        if cursor == 0 or len(found) >= BLOCKS:
            break
    return found


def _chosen(first: Sequence[str], names: Sequence[str]) -> list[str]:
    """The blocks to look at: from every depth in turn, since the outer ones wait for those deep inside."""
    by_depth: dict[int, list[str]] = {}
    for name in sorted(set(names) - set(first)):
        by_depth.setdefault(name.count("."), []).append(name)
    turns = zip_longest(*(by_depth[depth] for depth in sorted(by_depth)))
    spread = [name for name in chain.from_iterable(turns) if name is not None]
    return sorted([*first, *spread][:BLOCKS], key=lambda name: (name.count("."), name))


def _blocks(ledger: Ledger, run: str, ids: Sequence[str]) -> tuple[list[OpenBlock], int]:
    """Those of these blocks that are open, and the server's time just after they were read."""
    keys = ledger.keys
    pipe = ledger.redis.pipeline(transaction=False)
    for id in ids:
        pipe.hgetall(keys.block(run, "b", id))
        pipe.hscan(keys.block(run, "l", id), 0, match="@*", count=LANES)
        pipe.zscore(keys.agenda, f"{run} hint {id}")
    pipe.time()
    *answers, now = pipe.execute()
    found = [
        (_block(id, record, lanes, hint), record)
        for id, record, (_, lanes), hint in zip(ids, answers[::3], answers[1::3], answers[2::3], strict=True)
        if record.get(b"state") == b"open"
    ]
    return _with_queues(ledger, run, found), replies.milliseconds(now)


def _block(id: str, record: Mapping[bytes, bytes], lanes: Mapping[bytes, bytes], hint: float | None) -> OpenBlock:
    said = Fields(record)
    serving = [value.split(b":")[2].decode() for value in lanes.values()]
    tracks = tuple(
        Track(
            queue=said.text(f"queue:{track}"),
            width=said.number(f"width:{track}") or 1,
            planned=said.number(f"lanes:{track}") or 1,
            waiting=(said.number(f"stop:{track}") or 0) - (said.number(f"next:{track}") or 0),
            serving=serving.count(str(track)),
        )
        for track in range(min(TRACKS, said.number("tracks") or 0))
    )
    return OpenBlock(
        id=id,
        name=said.text("name"),
        path=path_of(said.text("path")),
        n=said.number("n") or 0,
        done=said.number("done") or 0,
        running=said.number("running") or 0,
        limit=said.number("limit") or 0,
        parent=said.text("parent") or None,
        branch=said.number("branch"),
        timeout=said.seconds("timeout"),
        deadline=said.number("deadline"),
        tracks=tracks,
        holders=tuple(name[1:].decode() for name in lanes),
        asks_at=None if hint is None else max(int(hint), said.number("ask_after") or 0),
        asked=said.number("hinted") or 0,
    )


def _with_queues(ledger: Ledger, run: str, found: Sequence[tuple[OpenBlock, Mapping[bytes, bytes]]]) -> list[OpenBlock]:
    """The blocks with what their queues hold: branches that were given back come before the untouched ones."""
    keys = ledger.keys
    places = [(block, number) for block, _ in found for number in range(len(block.tracks))]
    pipe = ledger.redis.pipeline(transaction=False)
    for block, number in places:
        key = f"{keys.block(run, 'q', block.id)}:{number}"
        pipe.llen(key)
        pipe.lrange(key, 0, HEADS - 1)
    answers = pipe.execute()
    heads = [[int(branch) for branch in branches] for branches in answers[1::2]]
    marks = ledger.redis.pipeline(transaction=False)
    for (block, _), branches in zip(places, heads, strict=True):
        for branch in branches:
            names = [f"{mark}:{branch}" for mark in ("lost", "why", "died", "tried")]
            marks.hmget(keys.block(run, "m", block.id), names)
    said = iter(marks.execute())
    records = {block.id: record for block, record in found}
    asked = {
        place: (named.decode(), f"{run} {place[0].id} {place[1]}")
        for place in places
        if (named := records[place[0].id].get(f"limit:{place[1]}".encode())) is not None
    }
    stand = dict(zip(asked, limits.awaited(ledger, list(asked.values())), strict=True)) if asked else {}
    tracks: dict[str, list[Track]] = {}
    for (block, number), queued, branches in zip(places, answers[::2], heads, strict=True):
        track = block.tracks[number]
        again = tuple(_again(branches, said))
        waiting = track.waiting + int(queued)
        limit = stand.get((block, number))
        is_full = limit is not None and waiting > 0 and limit.is_full
        tracks.setdefault(block.id, []).append(
            replace(track, waiting=waiting, again=again, limit=limit if is_full else None)
        )
    return [replace(block, tracks=tuple(tracks.get(block.id, ()))) for block, _ in found]


def _again(branches: Sequence[int], said: Iterator[Any]) -> Iterator[Again]:
    for branch in branches:
        lost, why, died, tried = (None if raw is None else raw.decode() for raw in next(said))
        calls, _, node = (tried or "0").partition(" ")
        if int(lost or 0) or int(calls):
            yield Again(
                branch=branch,
                attempt=int(lost or 0) + int(calls) + 1,
                most=ATTEMPTS if lost else 0,
                why=why or "",
                node=died or node,
                calls=int(calls),
            )

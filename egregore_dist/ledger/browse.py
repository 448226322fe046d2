"""What people look at: pages of runs, of blocks and of branches, without the values, whatever there is of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from egregore_dist import errors
from egregore_dist.ledger import counts, openblocks, replies
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.ledger.records import ENDED, RunRecord, path_of
from egregore_dist.ledger.replies import EVENTS_READ

# Runs looked at in one round trip where not every one is wanted, and entries of the agenda that are read.
_CHUNK = 1000
_ENTRIES_READ = 50_000


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the list of runs, which is ordered by when they were submitted (server ms) and by id."""

    at: int
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs.

    Attributes:
        states: in one of these; any where empty.
        workflow: of this workflow; any where "".
        text: this is part of the id or of the workflow's name, in whatever case.
        since: submitted not before, in server milliseconds.
        until: submitted not after.
        before: only those after this place in the list.
    """

    states: frozenset[str] = frozenset()
    workflow: str = ""
    text: str = ""
    since: int | None = None
    until: int | None = None
    before: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """A run in a list.

    Attributes:
        record: the run.
        block: the name of the outermost block that it is at, or was at last; "" before the first.
        n: that block's branches.
        done: how many of them have ended.
        failed: how many of them have failed.
    """

    record: RunRecord
    block: str = ""
    n: int = 0
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the list of runs, newest first.

    Attributes:
        runs: on it.
        next: where the next page goes on, None where there is nothing more.
        looked: how many runs were looked at for it.
    """

    runs: tuple[Glance, ...]
    next: Place | None
    looked: int


def find(ledger: Ledger, wanted: Wanted, *, limit: int, look_at_most: int = 20_000, seconds: float = 0.2) -> Page:
    """The newest runs that are wanted.

    Runs that go on are found by the agenda. For the others the list has no index by state or name, so it is searched; a
    search that would take longer ends with a page that has fewer runs than ``limit``, and says where to go on. A text
    that is the whole id of a run finds that run alone.

    Args:
        limit: runs on a page.
        look_at_most: runs to look at.
        seconds: to look at most, once something was looked at.
    """
    everything = not (wanted.states or wanted.workflow or wanted.text)
    chunk = limit if everything else _CHUNK
    found: list[str] = []
    looked, last, more = 0, wanted.before, True
    stop = time.monotonic() + seconds
    with reachable():
        named = _named(ledger, wanted)
        if named is not None:
            return Page(runs=tuple(_glances(ledger, _records(ledger, [named.run]))), next=None, looked=1)
        going_on = _going_on(ledger) if wanted.states and not wanted.states & ENDED else None
        while more and len(found) < limit:
            if looked and (looked >= look_at_most or time.monotonic() > stop):
                break
            places = _next(ledger, wanted, last, chunk, going_on)
            more = bool(places)
            for place, fits in zip(places, _fit(ledger, wanted, places), strict=True):
                last, looked = place, looked + 1
                if fits:
                    found.append(place.run)
                    if len(found) == limit:
                        break
        if more and last is not None:
            more = bool(_next(ledger, wanted, last, 1, going_on))
        glances = _glances(ledger, _records(ledger, found))
    return Page(runs=tuple(glances), next=last if more else None, looked=looked)


def glance(ledger: Ledger, run: str) -> Glance:
    """One run as in a list. Raises `errors.RunNotFound`."""
    record = ledger.run(run)
    with reachable():
        return _glances(ledger, [record])[0]


def known(ledger: Ledger) -> int:
    """How many runs the list has."""
    with reachable():
        return int(ledger.redis.zcard(ledger.keys.runs))


def _named(ledger: Ledger, wanted: Wanted) -> Place | None:
    """The run whose whole id the text is, if it is wanted: that one was meant."""
    at = ledger.redis.zscore(ledger.keys.runs, wanted.text) if wanted.text and wanted.before is None else None
    if at is None:
        return None
    place = Place(int(at), wanted.text)
    is_too_old = wanted.since is not None and place.at < wanted.since
    is_too_new = wanted.until is not None and place.at > wanted.until
    return place if not (is_too_old or is_too_new) and next(_fit(ledger, wanted, [place])) else None


def _next(
    ledger: Ledger, wanted: Wanted, last: Place | None, count: int, going_on: Sequence[Place] | None
) -> list[Place]:
    """The next places of the list, of the runs that go on alone where these are given."""
    if going_on is None:
        return _places(ledger, wanted, last, count)
    since, until = wanted.since or 0, wanted.until
    fit = (
        place
        for place in going_on
        if place.at >= since and (until is None or place.at <= until) and (last is None or place < last)
    )
    return list(islice(fit, count))


def _places(ledger: Ledger, wanted: Wanted, last: Place | None, count: int) -> list[Place]:
    """The next places of the whole list. Runs of one millisecond are ordered by their ids, backwards."""
    bounds = [bound for bound in (wanted.until, last.at if last else None) if bound is not None]
    top: float | str = min(bounds) if bounds else "+inf"
    bottom: float | str = "-inf" if wanted.since is None else wanted.since
    skip = 0
    while True:
        raw = cast(
            list[tuple[bytes, float]],
            ledger.redis.zrevrangebyscore(ledger.keys.runs, top, bottom, start=skip, num=count + 1, withscores=True),
        )
        found = [Place(int(at), name.decode(errors="replace")) for name, at in raw]
        kept = [place for place in found if last is None or place < last]
        if kept or not found:
            return kept[:count]
        skip += len(found)


def _going_on(ledger: Ledger) -> list[Place] | None:
    """The places of the runs that have not ended, newest first; None where they are very many.

    Each of their open blocks has an entry in the agenda, so they are found without the others.
    """
    entries = cast(list[bytes], ledger.redis.zrange(ledger.keys.agenda, 0, _ENTRIES_READ))
    if len(entries) > _ENTRIES_READ:
        return None
    runs = sorted({entry.decode().partition(" ")[0] for entry in entries})
    scores = ledger.redis.zmscore(ledger.keys.runs, runs) if runs else []
    pairs = zip(runs, scores, strict=True)
    return sorted((Place(int(at), run) for run, at in pairs if at is not None), reverse=True)


def _fit(ledger: Ledger, wanted: Wanted, places: Sequence[Place]) -> Iterator[bool]:
    """Whether the runs at these places are wanted, and still there."""
    pipe = ledger.redis.pipeline(transaction=False)
    for place in places:
        pipe.hmget(ledger.keys.run(place.run), "state", "paused", "workflow")
    text = wanted.text.lower()
    workflow = wanted.workflow.encode()
    for place, (state, paused, name) in zip(places, pipe.execute(), strict=True):
        yield (
            state is not None
            and (not wanted.states or ("paused" if paused else state.decode()) in wanted.states)
            and (not workflow or name == workflow)
            and (not text or text in place.run.lower() or text in (name or b"").decode(errors="replace").lower())
        )


def _records(ledger: Ledger, runs: Sequence[str]) -> list[RunRecord]:
    pipe = ledger.redis.pipeline(transaction=False)
    for run in runs:
        pipe.hmget(ledger.keys.run(run), replies.RUN_FIELDS)
    pairs = zip(runs, pipe.execute(), strict=True)
    return [replies.run_record(run, fields) for run, fields in pairs if fields[0] is not None]


def _glances(ledger: Ledger, records: Sequence[RunRecord]) -> list[Glance]:
    keys = ledger.keys
    pipe = ledger.redis.pipeline(transaction=False)
    for record in records:
        pipe.hget(keys.block(record.id, "m", ROOT), "at:0")
    at = [None if raw is None else raw.decode() for raw in pipe.execute()]
    pipe = ledger.redis.pipeline(transaction=False)
    for record, block in zip(records, at, strict=True):
        pipe.hmget(keys.block(record.id, "b", block or ROOT), "name", "n", "done")
        pipe.hlen(keys.block(record.id, "e", block or ROOT))
    answers = pipe.execute()
    found = []
    for record, block, fields, failed in zip(records, at, answers[::2], answers[1::2], strict=True):
        name, n, done = fields
        if block is None and record.state not in ENDED:
            found.append(Glance(record=record))
            continue
        shown = "" if block is None or name is None else name.decode()
        found.append(Glance(record=record, block=shown, n=int(n or 0), done=int(done or 0), failed=int(failed)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGlance:
    """A block of a run, without what grows with its branches. Times are server milliseconds.

    Attributes:
        id: its id.
        path: where it is in the workflow.
        name: its name.
        state: "open", or how it ended: "ok", "error", "timeout", "cancelled".
        n: its branches.
        done: how many have ended.
        failed: how many have failed.
        running: slots of its limit in use.
        limit: branches at a time at most, 0 for no limit.
        timeout: in seconds, or None.
        deadline: when that is over.
        parent: the block it is nested in; None of the whole run.
        branch: that block's branch.
        input: the block that keeps its input.
        opened: when.
        ended: when, or None.
    """

    id: str
    path: tuple[int, ...]
    name: str
    state: str
    n: int
    done: int
    failed: int
    running: int
    limit: int
    timeout: float | None
    deadline: int | None
    parent: str | None
    branch: int | None
    input: str
    opened: int
    ended: int | None


_BLOCK_FIELDS = ["state", "name", "path", "n", "done", "running", "limit", "timeout", "deadline", "parent"]
_BLOCK_FIELDS += ["branch", "input", "opened", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A run's blocks.

    Attributes:
        shown: those that were read: the open ones first, then the outer ones, by their ids.
        counts: by path: how many there are, read or not.
        open: by path: how many of them are open.
    """

    shown: tuple[BlockGlance, ...]
    counts: dict[tuple[int, ...], int]
    open: dict[tuple[int, ...], int]


def blocks(ledger: Ledger, run: str, *, limit: int, offset: int = 0, path: tuple[int, ...] | None = None) -> Blocks:
    """The blocks of a run, at most ``limit`` of them read; of one path only, where one is given."""
    with reachable():
        pipe = ledger.redis.pipeline(transaction=False)
        pipe.smembers(ledger.keys.part(run, "blocks"))
        pipe.smembers(ledger.keys.part(run, "open"))
        everyone, living = ({raw.decode() for raw in found} for found in pipe.execute())
        everyone.discard(ROOT)
        counts: dict[tuple[int, ...], int] = {}
        live: dict[tuple[int, ...], int] = {}
        for block in everyone:
            at = path_in(block)
            counts[at] = counts.get(at, 0) + 1
            live[at] = live.get(at, 0) + (block in living)
        chosen = sorted(
            (block for block in everyone if path is None or path_in(block) == path),
            key=lambda block: (block not in living, block.count("."), _order(block)),
        )
        return Blocks(shown=tuple(_read(ledger, run, chosen[offset : offset + limit])), counts=counts, open=live)


def block(ledger: Ledger, run: str, id: str) -> BlockGlance:
    """One block. Raises `errors.RunNotFound`."""
    with reachable():
        found = _read(ledger, run, [id])
    if not found:
        raise errors.RunNotFound(f"run {run!r} has no block {id!r}, or not any more")
    return found[0]


def with_value(ledger: Ledger, run: str, blocks: Sequence[str]) -> dict[str, int]:
    """How many branches of each of these blocks have a value."""
    pipe = ledger.redis.pipeline(transaction=False)
    for id in blocks:
        pipe.hlen(ledger.keys.block(run, "r", id))
    with reachable():
        return dict(zip(blocks, pipe.execute(), strict=True))


def path_in(block: str) -> tuple[int, ...]:
    """The path that a block's id tells: its place in the workflow."""
    return path_of(block.rpartition("-")[2]) if "-" in block else ()


def _order(block: str) -> list[tuple[int, tuple[int, ...]]]:
    """Branch and path of each block on the way to this one: numbers, so that 10 comes after 9."""
    steps = []
    for part in block.split(".")[1:]:
        branch, _, path = part.partition("-")
        steps.append((int(branch), path_of(path)))
    return steps


def _read(ledger: Ledger, run: str, ids: Sequence[str]) -> list[BlockGlance]:
    pipe = ledger.redis.pipeline(transaction=False)
    for id in ids:
        pipe.hmget(ledger.keys.block(run, "b", id), _BLOCK_FIELDS)
        pipe.hlen(ledger.keys.block(run, "e", id))
    answers = pipe.execute()
    pairs = zip(ids, answers[::2], answers[1::2], strict=True)
    return [_block_glance(id, fields, failed) for id, fields, failed in pairs if fields[0] is not None]


def _block_glance(id: str, fields: Sequence[bytes | None], failed: int) -> BlockGlance:
    has: dict[str, Any] = {
        name: raw.decode() for name, raw in zip(_BLOCK_FIELDS, fields, strict=True) if raw is not None
    }

    def number(name: str) -> int | None:
        return int(has[name]) if name in has else None

    timeout = number("timeout")
    return BlockGlance(
        id=id,
        path=path_of(has.get("path", "")),
        name=has.get("name", ""),
        state=has.get("state", ""),
        n=number("n") or 0,
        done=number("done") or 0,
        failed=failed,
        running=number("running") or 0,
        limit=number("limit") or 0,
        timeout=None if timeout is None else timeout / 1000,
        deadline=number("deadline"),
        parent=has.get("parent") or None,
        branch=number("branch"),
        input=has.get("input", ""),
        opened=number("opened") or 0,
        ended=number("ended"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A branch of a block.

    Attributes:
        position: its number in the block.
        state: "waiting", "running", "parked" (it waits for the block that it met), "ok", "error", or "stopped": the
            block ended before it did.
        holder: the lane that has it, as ``<worker>/<pid>/<lane>``, or "".
        attempt: counts the leases that it has lost, from 1.
        result: bytes of its encoded value, 0 for none.
        failure: bytes of its encoded failure, 0 for none.
        at: the nested block that it stands at, or stood at last; "" for none.
    """

    position: int
    state: str
    holder: str
    attempt: int
    result: int
    failure: int
    at: str

    @property
    def worker(self) -> str:
        """The worker that has it, or ""."""
        return self.holder.rsplit("/", 2)[0] if "/" in self.holder else ""


def branches(ledger: Ledger, run: str, of: BlockGlance, positions: Sequence[int]) -> list[Branch]:
    """Branches of one block."""
    keys = ledger.keys
    pipe = ledger.redis.pipeline(transaction=False)
    for position in positions:
        pipe.hstrlen(keys.block(run, "r", of.id), str(position))
        pipe.hstrlen(keys.block(run, "e", of.id), str(position))
        pipe.hget(keys.block(run, "l", of.id), str(position))
        pipe.hmget(keys.block(run, "m", of.id), f"lost:{position}", f"at:{position}")
    with reachable():
        answers = pipe.execute()
    found = []
    for index, position in enumerate(positions):
        result, failure, holder, (lost, at) = answers[4 * index : 4 * index + 4]
        lane = (holder or b"").decode()
        found.append(
            Branch(
                position=position,
                state=_branch_state(of.state, result, failure, lane),
                holder="" if lane == "*" else lane,
                attempt=int(lost or 0) + 1,
                result=int(result),
                failure=int(failure),
                at=(at or b"").decode(),
            )
        )
    return found


def _branch_state(block: str, result: int, failure: int, lane: str) -> str:
    if result:
        return "ok"
    if failure:
        return "error"
    if block != "open":
        return "stopped"
    return "waiting" if not lane else "parked" if lane == "*" else "running"


def failed(ledger: Ledger, run: str, block: str) -> list[int]:
    """The branches of a block that have failed."""
    with reachable():
        names = cast(list[bytes], ledger.redis.hkeys(ledger.keys.block(run, "e", block)))
    return sorted(map(int, names))


def events(ledger: Ledger, run: str, after: str) -> list[tuple[str, dict[str, bytes]]]:
    """Events of a run after a cursor, as many as are read at a time, without waiting for any."""
    streams: dict[Any, Any] = {ledger.keys.part(run, "events"): after}
    with reachable():
        return replies.stream(ledger.redis.xread(streams, count=EVENTS_READ))


def input_start(ledger: Ledger, run: str, block: str) -> tuple[int, bytes]:
    """How many bytes the input kept under a block has, and the first of them."""
    key = ledger.keys.block(run, "i", block)
    with reachable():
        pipe = ledger.redis.pipeline(transaction=False)
        pipe.strlen(key)
        pipe.getrange(key, 0, 15)
        size, start = pipe.execute()
    return int(size), cast(bytes, start)


def stored(ledger: Ledger, run: str, kind: str, block: str, branch: int) -> bytes | None:
    """The encoded value ("r") or failure ("e") of a branch."""
    with reachable():
        return cast(bytes | None, ledger.redis.hget(ledger.keys.block(run, kind, block), str(branch)))


def count(ledger: Ledger) -> Counter[tuple[str, str]]:
    """How many runs there are by state and series (see `counts`). It looks at every one."""
    found: Counter[tuple[str, str]] = Counter()
    last: Place | None = None
    with reachable():
        while places := _places(ledger, Wanted(), last, _CHUNK):
            last = places[-1]
            found.update(_states(ledger, [place.run for place in places]))
    return found


def count_going_on(ledger: Ledger) -> Counter[tuple[str, str]] | None:
    """How many runs there are by state and series that have not ended; None where they are very many."""
    with reachable():
        places = _going_on(ledger)
        return None if places is None else Counter(_states(ledger, [place.run for place in places]))


def _states(ledger: Ledger, runs: Sequence[str]) -> Iterator[tuple[str, str]]:
    pipe = ledger.redis.pipeline(transaction=False)
    for run in runs:
        pipe.hmget(ledger.keys.run(run), "state", "paused", "series")
    for state, paused, series in pipe.execute():
        if state is not None:
            yield "paused" if paused else state.decode(), counts.named(series)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is to be done.

    Attributes:
        blocks: that have not ended.
        waiting: branches of them that nobody executes yet.
        running: branches that are executed, or wait for a block that they met.
        late: seconds that the agenda's first entry is late.
    """

    blocks: int
    waiting: int
    running: int
    late: float


def backlog(ledger: Ledger) -> Backlog:
    """What is to be done, in as many open blocks as `openblocks.look` looks at."""
    blocks, late = openblocks.look(ledger)
    return Backlog(
        blocks=len(blocks),
        waiting=sum(block.waiting for block in blocks),
        running=sum(block.running for block in blocks),
        late=late,
    )


def aside(ledger: Ledger) -> int:
    """How many messages have been set aside, as many as are kept."""
    with reachable():
        return int(ledger.redis.llen(ledger.keys.aside))

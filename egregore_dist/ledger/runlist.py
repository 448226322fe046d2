"""The list of all runs, as people look through it: pages of it, what goes on, and how many runs there are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

from egregore_dist.ledger import counts, replies
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.ledger.records import ENDED, RunRecord

# Runs looked at in one round trip where not every one is wanted, and entries of the agenda that are read.
_CHUNK = 1000
_ENTRIES_READ = 50_000


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """A run as the list of runs has it, which is ordered by when they were submitted (server ms) and by id."""

    at: int
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs.

    Attributes:
        states: in one of these; any where empty.
        workflow: of this workflow; any where "".
        text: this is part of the id or of the workflow's name, in whatever case.
        since: submitted not before, in server milliseconds.
        until: submitted not after.
        before: only those that the list has after this one.
    """

    states: frozenset[str] = frozenset()
    workflow: str = ""
    text: str = ""
    since: int | None = None
    until: int | None = None
    before: Listed | None = None


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
        next: the last run that was looked at, after which the next page goes on; None where there is nothing more.
        looked: how many runs were looked at for it.
    """

    runs: tuple[Glance, ...]
    next: Listed | None
    looked: int


def find(ledger: Ledger, wanted: Wanted, *, limit: int, look_at_most: int = 20_000, seconds: float = 0.2) -> Page:
    """The newest runs that are wanted.

    Runs that go on are found by the agenda. For the others the list has no index by state or name, so it is searched; a
    search that would take longer ends with a page that has fewer runs than ``limit``, and says where to go on. A run
    whose whole id the text is comes first, wherever the list has it.

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
        if (named := _named(ledger, wanted)) is not None:
            found.append(named.id)
        going_on = _going_on(ledger) if wanted.states and not wanted.states & ENDED else None
        while more and len(found) < limit:
            if looked and (looked >= look_at_most or time.monotonic() > stop):
                break
            listed = _next(ledger, wanted, last, chunk, going_on)
            more = bool(listed)
            for run, fits in zip(listed, _fit(ledger, wanted, listed), strict=True):
                last, looked = run, looked + 1
                if fits and run.id != wanted.text:
                    found.append(run.id)
                    if len(found) == limit:
                        break
        if more and last is not None:
            more = bool(_next(ledger, wanted, last, 1, going_on))
        glances = _glances(ledger, ledger.records(found))
    return Page(runs=tuple(glances), next=last if more else None, looked=looked)


def beginning_with(ledger: Ledger, start: str, *, limit: int, look_at_most: int = 20_000) -> list[str]:
    """The ids of the newest runs whose ids begin so.

    Args:
        limit: no more than these.
        look_at_most: newest runs to look at.
    """
    found: list[str] = []
    with reachable():
        for offset in range(0, look_at_most, _CHUNK):
            last = min(offset + _CHUNK, look_at_most) - 1
            raw = cast(list[bytes], ledger.redis.zrevrange(ledger.keys.runs, offset, last))
            names = [name.decode(errors="replace") for name in raw]
            # The list keeps runs that have expired a while longer.
            found += [run.id for run in ledger.records([name for name in names if name.startswith(start)])]
            if len(names) < last + 1 - offset or len(found) >= limit:
                break
    return found[:limit]


def known(ledger: Ledger) -> int:
    """How many runs the list has."""
    with reachable():
        return int(ledger.redis.zcard(ledger.keys.runs))


def _named(ledger: Ledger, wanted: Wanted) -> Listed | None:
    """The run whose whole id the text is, if it is wanted; None on any page but the first."""
    at = ledger.redis.zscore(ledger.keys.runs, wanted.text) if wanted.text and wanted.before is None else None
    if at is None:
        return None
    run = Listed(int(at), wanted.text)
    is_too_old = wanted.since is not None and run.at < wanted.since
    is_too_new = wanted.until is not None and run.at > wanted.until
    return run if not (is_too_old or is_too_new) and next(_fit(ledger, wanted, [run])) else None


def _next(
    ledger: Ledger, wanted: Wanted, last: Listed | None, count: int, going_on: Sequence[Listed] | None
) -> list[Listed]:
    """The next runs of the list; of those that go on alone where these are given."""
    if going_on is None:
        return _listed(ledger, wanted, last, count)
    since, until = wanted.since or 0, wanted.until
    fit = (
        run
        for run in going_on
        if run.at >= since and (until is None or run.at <= until) and (last is None or run < last)
    )
    return list(islice(fit, count))


def _listed(ledger: Ledger, wanted: Wanted, last: Listed | None, count: int) -> list[Listed]:
    """The next runs of the whole list. Those of one millisecond are ordered by their ids, backwards."""
    bounds = [bound for bound in (wanted.until, last.at if last else None) if bound is not None]
    top: float | str = min(bounds) if bounds else "+inf"
    bottom: float | str = "-inf" if wanted.since is None else wanted.since
    skip = 0
    while True:
        raw = cast(
            list[tuple[bytes, float]],
            ledger.redis.zrevrangebyscore(ledger.keys.runs, top, bottom, start=skip, num=count + 1, withscores=True),
        )
        found = [Listed(int(at), name.decode(errors="replace")) for name, at in raw]
        kept = [run for run in found if last is None or run < last]
        if kept or not found:
            return kept[:count]
        skip += len(found)


def _going_on(ledger: Ledger) -> list[Listed] | None:
    """The runs that have not ended, newest first; None where they are very many.

    Each of their open blocks has an entry in the agenda, so they are found without the others.
    """
    entries = cast(list[bytes], ledger.redis.zrange(ledger.keys.agenda, 0, _ENTRIES_READ))
    if len(entries) > _ENTRIES_READ:
        return None
    runs = sorted({run for run, _, _ in replies.agenda(entries)})
    scores = ledger.redis.zmscore(ledger.keys.runs, runs) if runs else []
    pairs = zip(runs, scores, strict=True)
    return sorted((Listed(int(at), run) for run, at in pairs if at is not None), reverse=True)


def _fit(ledger: Ledger, wanted: Wanted, listed: Sequence[Listed]) -> Iterator[bool]:
    """Whether these runs are wanted, and still there."""
    pipe = ledger.redis.pipeline(transaction=False)
    for run in listed:
        pipe.hmget(ledger.keys.run(run.id), "state", "paused", "workflow")
    text = wanted.text.lower()
    workflow = wanted.workflow.encode()
    for run, (state, paused, name) in zip(listed, pipe.execute(), strict=True):
        yield (
            state is not None
            and (not wanted.states or ("paused" if paused else state.decode()) in wanted.states)
            and (not workflow or name == workflow)
            and (not text or text in run.id.lower() or text in (name or b"").decode(errors="replace").lower())
        )


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


def count(ledger: Ledger) -> Counter[tuple[str, str]]:
    """How many runs there are by state and series (see `counts`). It looks at every one."""
    found: Counter[tuple[str, str]] = Counter()
    last: Listed | None = None
    with reachable():
        while listed := _listed(ledger, Wanted(), last, _CHUNK):
            last = listed[-1]
            found.update(_states(ledger, [run.id for run in listed]))
    return found


def count_going_on(ledger: Ledger) -> Counter[tuple[str, str]] | None:
    """How many runs there are by state and series that have not ended; None where they are very many."""
    with reachable():
        listed = _going_on(ledger)
        return None if listed is None else Counter(_states(ledger, [run.id for run in listed]))


def _states(ledger: Ledger, runs: Sequence[str]) -> Iterator[tuple[str, str]]:
    pipe = ledger.redis.pipeline(transaction=False)
    for run in runs:
        pipe.hmget(ledger.keys.run(run), "state", "paused", "series")
    for state, paused, series in pipe.execute():
        if state is not None:
            yield "paused" if paused else state.decode(), counts.named(series)

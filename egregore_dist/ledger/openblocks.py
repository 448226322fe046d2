"""The blocks that have not ended: each has an entry in the agenda."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from egregore_dist.ledger import counts, replies
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.ledger.records import path_of

# Entries of the agenda that are read at most.
_LOOKED_AT = 20_000
# About so many open blocks of a run are looked at at a time.
_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBlock:
    """One block that has not ended.

    Attributes:
        run: its run.
        created: when that was submitted, in server milliseconds.
        series: the series that its run is counted in.
        id: the block.
        path: where it stands in the workflow.
        waiting: its branches that nobody executes yet.
        running: those that are executed, or wait for a block that they met.
    """

    run: str
    created: int
    series: str
    id: str
    path: tuple[int, ...]
    waiting: int
    running: int

    @property
    def is_run(self) -> bool:
        """Whether it is the whole run as one branch."""
        return self.id == ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen of the open blocks.

    Attributes:
        blocks: as many as are looked at.
        late: seconds that the agenda's first entry is late.
        share: the part of all that they are, from 0 to 1.
    """

    blocks: list[OpenBlock]
    late: float
    share: float

    def of_all(self, number: float) -> int:
        """How many there are of what these blocks have so many of, if the others are like them."""
        return round(number / self.share)


def look(ledger: Ledger) -> Look:
    """Look at the open blocks. Raises `errors.BrokerUnavailable`."""
    with reachable():
        now = replies.milliseconds(ledger.redis.time())
        known = int(ledger.redis.zcard(ledger.keys.agenda))
        entries = cast(
            list[tuple[bytes, float]], ledger.redis.zrange(ledger.keys.agenda, 0, _LOOKED_AT - 1, withscores=True)
        )
        asked = replies.agenda(entry for entry, _ in entries)
        places = sorted({(run, block) for run, kind, block in asked if kind != "tidy"})
        runs = sorted({run for run, _ in places})
        pipe = ledger.redis.pipeline(transaction=False)
        for run, block in places:
            pipe.hmget(ledger.keys.block(run, "b", block), "n", "done", "running", "path")
        for run in runs:
            pipe.hmget(ledger.keys.run(run), "series", "created")
        answers = pipe.execute()
    of_run = {
        run: (counts.named(series), int(created or 0))
        for run, (series, created) in zip(runs, answers[len(places) :], strict=True)
    }
    late = max(0.0, (now - entries[0][1]) / 1000) if entries else 0.0
    found = []
    for (run, block), (n, done, running, path) in zip(places, answers, strict=False):
        # It may have expired or been deleted since.
        if n is not None:
            series, created = of_run[run]
            found.append(_open(run, created, series, block, int(n), int(done or 0), int(running or 0), path or b""))
    return Look(blocks=found, late=late, share=min(1.0, len(entries) / known) if entries and known else 1.0)


def _open(run: str, created: int, series: str, block: str, n: int, done: int, running: int, path: bytes) -> OpenBlock:
    return OpenBlock(
        run=run,
        created=created,
        series=series,
        id=block,
        path=path_of(path.decode()),
        waiting=max(0, n - done - running),
        running=running,
    )


def deadlines(ledger: Ledger, run: str, cursor: int = 0) -> tuple[dict[str, float], int]:
    """When open blocks of a run are to end, of a bounded number at a time.

    Args:
        cursor: where to go on; 0 for the first ones.

    Returns:
        The seconds that each block has left, below 0 where its deadline is over: those whose own is the first of theirs
        and of the blocks around them. And the cursor to go on with, 0 where these were the last.
    """
    with reachable():
        after, names = cast(
            tuple[int, list[bytes]], ledger.redis.sscan(ledger.keys.part(run, "open"), cursor, count=_AT_A_TIME)
        )
        pipe = ledger.redis.pipeline(transaction=False)
        pipe.time()
        for name in names:
            pipe.hmget(ledger.keys.block(run, "b", name.decode()), "ends_by", "ends_with")
        time, *found = pipe.execute()
    now = replies.milliseconds(time)
    return {block.decode(): (int(at) - now) / 1000 for at, block in found if at is not None}, int(after)


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
    """What is to be done: where there are very many open blocks, as those that were looked at have it."""
    found = look(ledger)
    return Backlog(
        blocks=found.of_all(len(found.blocks)),
        waiting=found.of_all(sum(block.waiting for block in found.blocks)),
        running=found.of_all(sum(block.running for block in found.blocks)),
        late=found.late,
    )

"""What people look at of one run: its blocks and their branches, without the values, whatever there is of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

from egregore_dist import errors
from egregore_dist.ledger import replies
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.ledger.records import Fields, path_of
from egregore_dist.ledger.replies import EVENTS_READ
from egregore_dist.wire import codec

# Bytes of inputs that are read in one round trip.
_READ_AT_ONCE = 8_000_000


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
        reopened: when a retry did so last, or None.
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
    reopened: int | None = None


_BLOCK_FIELDS = ["state", "name", "path", "n", "done", "running", "limit", "timeout", "deadline", "parent"]
_BLOCK_FIELDS += ["branch", "input", "opened", "ended", "reopened"]


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
    pairs = zip(_BLOCK_FIELDS, fields, strict=True)
    said = Fields({name.encode(): raw for name, raw in pairs if raw is not None})
    return BlockGlance(
        id=id,
        path=path_of(said.text("path")),
        name=said.text("name"),
        state=said.text("state"),
        n=said.number("n") or 0,
        done=said.number("done") or 0,
        failed=failed,
        running=said.number("running") or 0,
        limit=said.number("limit") or 0,
        timeout=said.seconds("timeout"),
        deadline=said.number("deadline"),
        parent=said.text("parent") or None,
        branch=said.number("branch"),
        input=said.text("input"),
        opened=said.number("opened") or 0,
        ended=said.number("ended"),
        reopened=said.number("reopened"),
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


def events(ledger: Ledger, run: str, after: str) -> tuple[list[tuple[str, dict[str, bytes]]], bool]:
    """Events of a run after a cursor, as many as are read at a time, without waiting for any.

    The second value is False where events between the cursor and these are missing, or may be: the stream is bounded.
    """
    key = ledger.keys.part(run, "events")
    with reachable():
        # With the one that was read last: while that is kept, so is all that came after it.
        found = replies.entries(cast(list[Any], ledger.redis.xrange(key, after, "+", count=EVENTS_READ + 1)))
    if after == "0" or not found:
        return found[:EVENTS_READ], True
    return (found[1:], True) if found[0][0] == after else (found[:EVENTS_READ], False)


def input_start(ledger: Ledger, run: str, block: str) -> tuple[int, bytes]:
    """How many bytes the input kept under a block has, and the first of them."""
    return _input_starts(ledger, run, [block])[0]


def mappings(ledger: Ledger, run: str, blocks: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Of the inputs kept under these blocks those that are mappings, some megabytes at a time."""
    starts = _input_starts(ledger, run, blocks)
    wanted = [(block, size) for block, (size, start) in zip(blocks, starts, strict=True) if codec.is_mapping(start)]
    while wanted:
        sizes = accumulate(size for _, size in wanted)
        count = max(1, sum(size <= _READ_AT_ONCE for size in sizes))
        chosen, wanted = [block for block, _ in wanted[:count]], wanted[count:]
        with reachable():
            raws = cast(list[bytes | None], ledger.redis.mget([ledger.keys.block(run, "i", block) for block in chosen]))
        yield from ((block, raw) for block, raw in zip(chosen, raws, strict=True) if raw is not None)


def _input_starts(ledger: Ledger, run: str, blocks: Sequence[str]) -> list[tuple[int, bytes]]:
    pipe = ledger.redis.pipeline(transaction=False)
    for block in blocks:
        pipe.strlen(ledger.keys.block(run, "i", block))
        pipe.getrange(ledger.keys.block(run, "i", block), 0, 15)
    with reachable():
        found = pipe.execute()
    return [(int(size), cast(bytes, start)) for size, start in zip(found[::2], found[1::2], strict=True)]


def stored(ledger: Ledger, run: str, kind: str, block: str, branch: int) -> bytes | None:
    """The encoded value ("r") or failure ("e") of a branch."""
    with reachable():
        return cast(bytes | None, ledger.redis.hget(ledger.keys.block(run, kind, block), str(branch)))

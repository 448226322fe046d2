"""What happens in a run, as a client reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from egregore_dist import errors
from egregore_dist.ledger import FailedCall as Call
from egregore_dist.ledger import Ledger, browse
from egregore_dist.ledger.replies import EVENTS_READ, unpack_failed, unpack_positions

#: The type of the event that stands for those that are not kept any more.
MISSED = "events.missed"

_CURSOR = re.compile(r"[0-9]{1,16}(-[0-9]{1,10})?")

Entries = list[tuple[str, dict[str, bytes]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What an execution took; None where that was not measured.

    Attributes:
        cpu: seconds of CPU time.
        memory: by how many bytes the memory of its process grew at most.
    """

    cpu: float | None
    memory: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """A call of a node that failed, and was made again in the same execution. Times are seconds.

    Attributes:
        node: its name.
        ago: from its end to the event.
        took: how long it took.
        waited: until it was made again.
    """

    node: str
    ago: float
    took: float
    waited: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One transition of a run.

    Attributes:
        cursor: its place in the run's stream.
        time: seconds since the epoch on the server's clock.
        type: ``run.submitted``, ``run.started``, ``run.ended``, ``run.retried``, ``run.paused``, ``run.resumed``,
            ``block.opened``, ``block.ended``, ``branches.started``, ``branches.ended``, ``branches.late``,
            ``branch.lost``, ``branch.stopped``, ``branch.again`` (it failed, and is tried again),
            ``branches.waiting`` (a node of each has failed, and is called again later; their lanes keep them) or
            ``events.missed`` (some between the one before and the one after are not kept any more: a run keeps its last
            10 000 or so).
        block: the id of the block, or None.
        branches: the positions of the branches that started, or that ended well.
        failed: the positions of the branches that failed.
        worker: the worker that did it, or None.
        attempts: by position, which attempt it was, where it was not the first.
        sizes: by position, the bytes of the encoded values of those that ended well.
        took: by position, the seconds that those were executed which ended; none of one that had met a block.
        spent: by position, what those took that ended and were measured.
        nodes: by position, the node that those failed, were lost or were stopped at, where that is known.
        calls: by position, the calls that failed before the last one in those that ended, the last 20 of each. Of
            ``block.opened`` in the branch that has met the block, by the position of that.
        detail: the rest, as text: ``name``, ``n``, ``state``, ``count``.
    """

    cursor: str
    time: float
    type: str
    block: str | None
    branches: tuple[int, ...]
    failed: tuple[int, ...]
    worker: str | None
    attempts: Mapping[int, int] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)
    took: Mapping[int, float] = field(default_factory=dict)
    spent: Mapping[int, Spent] = field(default_factory=dict)
    nodes: Mapping[int, str] = field(default_factory=dict)
    calls: Mapping[int, tuple[FailedCall, ...]] = field(default_factory=dict)
    detail: Mapping[str, str]

    @classmethod
    def missed(cls, cursor: str, next_cursor: str) -> Event:
        """What tells that events between two cursors are not kept any more."""
        at = int(next_cursor.partition("-")[0]) / 1000
        return cls(cursor=cursor, time=at, type=MISSED, block=None, branches=(), failed=(), worker=None, detail={})

    @classmethod
    def of(cls, cursor: str, fields: dict[str, bytes]) -> Event:
        """Read an event from the fields of its stream entry."""
        rest = dict(fields)
        kind, block, lane = (rest.pop(name, b"").decode() for name in ("event", "block", "lane"))
        branches = [*_positions(rest.pop("branches", None)), *_positions(rest.pop("ok", None))]
        sizes = dict(zip(branches, _positions(rest.pop("sizes", None)), strict=False))
        failed = _positions(rest.pop("error", None))
        took = zip([*branches, *failed], _positions(rest.pop("took", None)), strict=False)
        attempts = dict(zip(*[iter(_positions(rest.pop("attempts", None)))] * 2, strict=True))
        measured = _positions(rest.pop("spent", None))
        nodes = dict(zip(failed, _names(rest.pop("nodes", None)), strict=False))
        calls = unpack_failed(rest.pop("failures")) if "failures" in rest else {}
        if "branch" in rest:
            branches.append(int(rest.pop("branch")))
            attempt = int(rest.pop("attempt", 1))
            attempts = {branches[-1]: attempt} if attempt > 1 else {}
            nodes = {branches[-1]: rest.pop("node", b"").decode()}
        return cls(
            cursor=cursor,
            time=int(cursor.partition("-")[0]) / 1000,
            type=kind,
            block=block or None,
            branches=tuple(branches),
            failed=tuple(failed),
            worker=lane.rsplit("/", 2)[0] or None,
            attempts=attempts,
            sizes=sizes,
            took={branch: microseconds / 1e6 for branch, microseconds in took if microseconds >= 0},
            spent={
                branch: Spent(cpu=None if cpu < 0 else cpu / 1e6, memory=None if memory < 0 else memory)
                for branch, cpu, memory in zip(*[iter(measured)] * 3, strict=True)
            },
            nodes={branch: node for branch, node in nodes.items() if node},
            calls={branch: tuple(map(_failed, each)) for branch, each in calls.items()},
            detail={name: value.decode() for name, value in rest.items()},
        )


def check(after: str) -> None:
    """Raises `errors.ConfigurationError` for what is no cursor of an event."""
    if not _CURSOR.fullmatch(after):
        raise errors.ConfigurationError(f"after={after!r} is not the cursor of an event, such as '1700000000000-0'")


def read(ledger: Ledger, run: str, after: str, found: Entries) -> list[Event]:
    """The events of a run that were read after a cursor ("0" for all).

    Raises `errors.BrokerUnavailable`.
    """
    is_whole = True
    # Where there are fewer, all that came after the cursor is there: the stream keeps more than are read at once.
    if len(found) == EVENTS_READ:
        if after == "0":
            is_whole = found[0][1].get("event") == b"run.submitted"
        else:
            found, is_whole = browse.events(ledger, run, after)
    told = [Event.of(cursor, fields) for cursor, fields in found]
    return told if is_whole or not told else [Event.missed(after, told[0].cursor), *told]


def _failed(call: Call) -> FailedCall:
    return FailedCall(node=call.node, ago=call.ago / 1e6, took=call.took / 1e6, waited=call.waited / 1e6)


def _positions(raw: bytes | None) -> list[int]:
    return unpack_positions(raw) if raw else []


def _names(raw: bytes | None) -> list[str]:
    return msgspec.msgpack.decode(raw, type=list[str]) if raw else []

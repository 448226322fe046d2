"""Commands' arguments and replies, as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import wraps
from typing import Any, TypeVar

import msgspec

from egregore_dist import errors
from egregore_dist.ledger.connection import CONNECTION
from egregore_dist.ledger.keys import Keys
from egregore_dist.ledger.records import (
    Alarm,
    Commit,
    FailedCall,
    Lease,
    Message,
    NewBlock,
    Resumed,
    RunRecord,
    Served,
    Tended,
    Work,
)

RUN_FIELDS = ["state", "workflow", "created", "started", "ended", "epoch", "paused", "rested"]
# Seconds; a longer timeout is as good as this one, and its milliseconds stay whole numbers in the scripts.
_LONGEST_TIMEOUT = 100 * 365 * 86400

WORK_FIELDS = ["workflow", "spec", "functions", "queue", "trace", "created"]

_Reply = TypeVar("_Reply", bound=Sequence[Any])
_Value = TypeVar("_Value")

# Events of a run that one call reads at most.
EVENTS_READ = 1000

# Seconds that one call waits at most: a connection that says nothing for its socket's timeout is taken for dead.
LONGEST_WAIT = CONNECTION["socket_timeout"] / 2
# The most that is waited between two looks for an end, on a server that takes no wait.
_LONGEST_PAUSE = 0.25


def wait_command(keys: Keys, run: str, seconds: float) -> tuple[str | float, ...]:
    """Wait for a run's end. Moving the one entry onto its own list leaves it there, so any number can wait."""
    end = keys.part(run, "end")
    # Redis 6.2 takes a millisecond for less than one, and that for no limit.
    return ("BLMOVE", end, end, "LEFT", "LEFT", max(0.01, min(seconds, LONGEST_WAIT)))


def pause_for(seconds: float) -> float:
    """How long to pause in place of a wait of so many seconds that the server refuses."""
    return max(0.01, min(seconds, _LONGEST_PAUSE))


def block_for(seconds: float) -> int:
    """The milliseconds that XREAD waits."""
    return max(1, int(min(seconds, LONGEST_WAIT) * 1000))


def work(run: str, fields: Sequence[bytes | None]) -> Work:
    """A run's work, from `WORK_FIELDS`."""
    workflow, spec, functions, queue, trace, created = fields
    if workflow is None or spec is None or functions is None:
        raise not_found(run)
    return Work(
        workflow=workflow.decode(),
        spec=spec,
        functions=functions,
        queue=(queue or b"").decode(),
        trace=(trace or b"").decode(),
        created=int(created or 0),
    )


def serve_args(
    block: str,
    track: int,
    token: str,
    want: int,
    held: int,
    commits: Sequence[Commit],
    releases: Sequence[int],
    created: int | None,
) -> list[Any]:
    """The arguments of ``serve.lua``."""
    times: list[int | str | list[str | int]] = [time for commit in commits for time in commit.times]
    told = [(number, commit.spent) for number, commit in enumerate(commits, 1) if commit.spent is not None]
    for number, spent in told:
        times += (number, spent.attempt, spent.cpu, spent.memory, spent.node, _calls(spent.calls))
    args: list[Any] = [block, track, token, "" if created is None else created]
    args += [want, held, len(commits), len(releases)]
    args += [msgspec.msgpack.encode(times) if commits else b""]
    for commit in commits:
        args += (commit.branch, commit.kind, commit.payload)
    args += releases
    return args


def _calls(calls: Iterable[FailedCall]) -> list[str | int]:
    return [part for call in calls for part in astuple(call)]


def unpack_failed(raw: bytes) -> dict[int, tuple[FailedCall, ...]]:
    """Calls in vain by branch, as an event holds them: each branch with how many values follow, and those."""
    found, at = msgspec.msgpack.decode(raw), 0
    calls: dict[int, tuple[FailedCall, ...]] = {}
    while at < len(found):
        branch, count = found[at : at + 2]
        if count < 0:
            raise ValueError(f"an event with {count} values")
        parts, at = found[at + 2 : at + 2 + count], at + 2 + count
        calls[branch] = tuple(FailedCall(*call) for call in zip(*[iter(parts)] * 4, strict=True))
    return calls


def open_args(parent: str, lease: Lease, track: int, token: str, block: NewBlock) -> list[Any]:
    """The arguments of ``open.lua``."""
    inline = isinstance(block.input, bytes)
    args: list[Any] = [parent, lease.branch, token, block.id, track]
    args += [block.n, block.limit, _timeout(block.timeout), block.on_error, block.name]
    args += [",".join(map(str, block.path)), "" if inline else block.input, block.input if inline else b""]
    calls = [lease.branch, 4 * len(block.calls), *_calls(block.calls)]
    args += [int(block.since * 1000), msgspec.msgpack.encode(calls) if block.calls else b"", len(block.tracks)]
    for kind in block.tracks:
        args += [kind.queue, kind.width, kind.lanes, kind.count, kind.limit, *(kind.branches or ())]
    return args


def _timeout(seconds: float) -> int:
    # 0 is no timeout, so one that is shorter than a millisecond is a millisecond.
    return math.ceil(min(seconds, _LONGEST_TIMEOUT) * 1000)


def milliseconds(reply: tuple[int, int]) -> int:
    """The server's ``TIME``."""
    seconds, micros = reply
    return seconds * 1000 + micros // 1000


def _checked(decode: Callable[[_Reply], _Value]) -> Callable[[_Reply], _Value]:
    """Have a decoder raise `errors.EncodingError` for a reply that it cannot read, as where a record is damaged."""

    @wraps(decode)
    def decoder(reply: _Reply) -> _Value:
        try:
            return decode(reply)
        except errors.EncodingError:
            raise
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            raise errors.EncodingError(
                f"the reply of a ledger script cannot be read: {error}. A record in the ledger was damaged, or "
                "written by something else."
            ) from error

    return decoder


@_checked
def served(reply: Sequence[Any]) -> Served:
    """The reply of ``serve.lua``."""
    state, first, count, again, following, late, publish, alarmed, ask_after = reply
    leases = [_lease(*again[i : i + 4]) for i in range(0, len(again), 4)]
    leases += [Lease(branch) for branch in range(first, first + count)]
    return Served(
        state=state.decode(),
        leases=tuple(leases),
        resumed=resumed(following) if following else None,
        late=late,
        messages=messages(publish),
        resync=count < 0,
        alarms=alarms(alarmed) if alarmed else (),
        ask_after=ask_after / 1000,
    )


def run_record(run: str, fields: Sequence[bytes | None]) -> RunRecord:
    """A run's record, from `RUN_FIELDS`."""
    state, workflow, created, started, ended, epoch, paused, rested = fields
    return RunRecord(
        id=run,
        state=(b"paused" if paused else state or b"").decode(),
        workflow=(workflow or b"").decode(),
        created=int(created or 0) / 1000,
        started=int(started) / 1000 if started else None,
        ended=int(ended) / 1000 if ended else None,
        epoch=(epoch or b"").decode(),
        rested=int(rested or 0) / 1000,
    )


def branches(fields: Mapping[bytes, bytes]) -> dict[int, bytes]:
    """What a hash holds for a block's branches, in their order."""
    return {branch: fields[name] for branch, name in sorted((int(name), name) for name in fields)}


def resumed(reply: Sequence[Any]) -> Resumed:
    """The branch of the parent that ``serve.lua`` leased to the lane."""
    parent, track, *lease = reply
    return Resumed(parent.decode(), int(track), _lease(*lease))


def _lease(branch: bytes, attempt: int, after: bytes, tried: bytes) -> Lease:
    calls, _, node = tried.decode().partition(" ")
    return Lease(int(branch), int(attempt), after.decode(), int(calls or 0), node)


@_checked
def messages(reply: Sequence[bytes]) -> tuple[Message, ...]:
    """The messages that a transition wants published."""
    parts = [part.decode() for part in reply]
    return tuple(
        Message(kind, block, int(track), queue, name, run, int(created))
        for kind, block, track, queue, name, run, created in zip(*[iter(parts)] * 7, strict=True)
    )


def alarms(reply: Sequence[Any]) -> tuple[Alarm, ...]:
    """The alarms that a transition wants set."""
    return tuple(Alarm(reply[i].decode(), int(reply[i + 1]) / 1000) for i in range(0, len(reply), 2))


@_checked
def tended(reply: Sequence[Any]) -> Tended:
    """The reply of ``tend.lua`` and ``place.lua``."""
    publish, alarmed = reply
    return Tended(messages(publish), alarms(alarmed))


def agenda(entries: Iterable[bytes]) -> list[tuple[str, str, str]]:
    """Entries of the agenda as run, kind, block. Entries that cannot be read are left out: no script wrote them."""
    found = []
    for entry in entries:
        try:
            run, kind, block = entry.decode().split(" ")
        except ValueError:
            continue
        found.append((run, kind, block))
    return found


def stream(reply: Any) -> list[tuple[str, dict[str, bytes]]]:
    """The entries of one stream, as XREAD answers in either protocol."""
    return [entry for found in streams(reply).values() for entry in found]


def streams(reply: Any) -> dict[str, list[tuple[str, dict[str, bytes]]]]:
    """The entries of streams by their keys, as XREAD answers in either protocol: of those that have any."""
    found = reply.items() if isinstance(reply, dict) else reply or ()
    return {key.decode(): entries(_flat(each)) for key, each in found}


def entries(reply: Iterable[Any]) -> list[tuple[str, dict[str, bytes]]]:
    """Entries of a stream, as XRANGE answers."""
    return [(cursor.decode(), {name.decode(): value for name, value in fields.items()}) for cursor, fields in reply]


def _flat(entries: Any) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    # RESP3 replies nest the entries of a stream once more.
    for entry in entries:
        if entry and isinstance(entry[0], (list, tuple)):
            yield from _flat(entry)
        else:
            yield entry


def not_found(run: str) -> errors.RunNotFound:
    """The error of a run that the ledger does not have."""
    return errors.RunNotFound(f"no run {run!r}: it was never submitted here, or it has expired, or it was deleted")


def unpack_positions(raw: bytes) -> list[int]:
    """Branch numbers as an event holds them."""
    found = msgspec.msgpack.decode(raw)
    return [] if found == {} else [int(position) for position in found]

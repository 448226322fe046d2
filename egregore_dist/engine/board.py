"""What a pool process is executing now, for its worker's main process to see.

Each process of a pool has a small file of its own, mapped into memory, see `boards`. It is written at every branch and
every call of a node, so it has to cost next to nothing, and it can be read when the process has died or holds its GIL:
that is what it is for. Times are those of ``time.monotonic``, which the processes of a machine share.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Literal

import msgspec

# Two copies of the note take turns: while one is written the other holds. The number of the last one says which.
_NUMBER = struct.Struct("@Q")
_ASKED = struct.Struct("@dd")
_NOTE = struct.Struct("@qqqqddddBHH")
_BRANCH = struct.Struct("@q")
_ASKED_AT, _FIRST_AT, _COPY = 8, 64, 4032
# The calls that are watched, as many as there is room for: two copies too, with a number of their own.
_LISTED, _CALL = struct.Struct("@I"), struct.Struct("@qqqqddH")
# The number of the note at which code is loaded, or 0; how often a server was asked again.
_LOADS_AT, _WAITS_AT = 32, 40
_LIST_NUMBER_AT, _LIST_AT, _LIST = 24, _FIRST_AT + 2 * _COPY, 32768
_SIZE = _LIST_AT + 2 * _LIST
_NAME_LIMIT = 512

NEVER = math.inf
NOBODY = -1


class Where(msgspec.Struct, frozen=True, array_like=True):
    """A lane at one block; ``width``: how many branches of it it may run at a time."""

    run: str
    block: str
    track: int
    token: str
    width: int = 1

    @property
    def lane(self) -> str:
        """The id of the lane's task."""
        return self.token.rsplit("/", 1)[-1].rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a node.

    Attributes:
        branch: that calls it.
        attempt: of the branch.
        calls: how often the node has been called with this one.
        retries: how often it may be called again after the first time.
        called: when it was called.
        stop_at: when the node's own timeout is over.
        node: "" before the first.
    """

    branch: int
    attempt: int
    calls: int
    retries: int
    called: float
    stop_at: float
    node: str

    @property
    def timeout(self) -> float:
        """Of the node, in seconds."""
        return self.stop_at - self.called


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a process was executing when it wrote this.

    Attributes:
        number: counts the notes of the process.
        where: the lane, and the block that it serves.
        loop: the lane executes many branches on one event loop, or ends what is left on it.
        since: when the branch at work began.
        stop_at: when the lane has to leave the block: its deadline, or earlier where it is stopping already.
        call: what the branch at work calls; its branch is `NOBODY` between two, and while an event loop waits.
        watched: calls on threads beside an event loop, and those on it that are overdue.
        asked: when the branch was asked to stop; `NEVER` if it was not.
    """

    number: int
    where: Where
    loop: bool
    since: float
    stop_at: float
    call: Call
    watched: tuple[Call, ...]
    asked: float

    @property
    def branch(self) -> int:
        """The branch at work."""
        return self.call.branch

    @property
    def node(self) -> str:
        """What it calls."""
        return self.call.node


@dataclass(frozen=True, slots=True)
class Rest:
    """Where a process calls no node just now; if it goes on, and comes back, that is another rest.

    Attributes:
        where: "away": it is at no block. "block": it is at one, and tells the ledger what it has, or asks for more.
            "code": it loads the code of a node, which may import what it likes.
        number: of its last note.
        waits: how often it has asked a server again that took nothing, or could not be reached.
    """

    where: Literal["away", "block", "code"]
    number: int = 0
    waits: int = 0


class Board:
    """One process's file, as that process writes it. Without a folder nothing is written."""

    def __init__(self, path: Path | None = None) -> None:
        self._map: mmap.mmap | None = None
        if path is not None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                # Not a file with a hole: where the disk is full, that would be found by a signal.
                left = _SIZE
                while left:
                    left -= os.write(descriptor, bytes(left))
                self._map = mmap.mmap(descriptor, _SIZE)
            finally:
                os.close(descriptor)
        self._number = self._list_number = self._waits = 0
        self._at = Where("", "", 0, "")
        self._where = b""
        self._loop = False
        self._stop_at = NEVER
        self._branch = NOBODY
        self._attempt = 0
        self._since = 0.0
        self._asked = 0.0
        self._watched: dict[object, tuple[float, bytes]] = {}
        self._lock = threading.Lock()

    def come(self, run: str, block: str, track: int, token: str) -> None:
        """A lane asks for branches of a block."""
        if self._map is not None:
            self._at = Where(run, block, track, token)
            self._where = msgspec.msgpack.encode(self._at)
            self._forget()
            self._loop, self._stop_at = False, NEVER
            self._rest()

    def serve(self, left: float | None, *, loop: bool, width: int = 1) -> None:
        """It executes them, for so many seconds at most; on an event loop, where it does not come back between two."""
        if self._map is not None:
            if width != 1:
                self._where = msgspec.msgpack.encode(msgspec.structs.replace(self._at, width=width))
            self._loop, self._stop_at = loop, NEVER if left is None else monotonic() + left
            self._rest()

    def leave(self) -> None:
        """A lane has ended."""
        if self._map is not None:
            self._forget()
            self._where, self._loop, self._stop_at = b"", False, NEVER
            self._rest()

    def stop(self) -> None:
        """The lane ends what is left on its event loop, so that it can leave."""
        if self._map is not None:
            self._forget()
            self._loop, self._stop_at = True, min(self._stop_at, monotonic())
            self._rest()

    def begin(self, branch: int, attempt: int) -> float:
        """A branch begins, now: a lane of width 1 executes it until the next one, or `rest`.

        The first one is seen at once, those after it when they call their first node.
        """
        since = monotonic()
        if self._map is not None:
            first = self._branch == NOBODY
            self._branch, self._attempt, self._since = branch, attempt, since
            if first:
                self._write(branch, attempt, since, b"", 0, 0, since, NEVER)
        return since

    def load(self, branch: int, attempt: int, node: str) -> None:
        """The code of a branch's next node is loaded, until `loaded`."""
        if self._map is not None:
            since = self._since if branch == self._branch else monotonic()
            self._write(branch, attempt, since, node.encode()[:_NAME_LIMIT], 0, 0, since, NEVER)
            # The next note ends it too: an interrupt may keep this process from saying so.
            _NUMBER.pack_into(self._map, _LOADS_AT, self._number)

    def loaded(self) -> None:
        """It has been, or cannot be."""
        if self._map is not None:
            _NUMBER.pack_into(self._map, _LOADS_AT, 0)
            if self._branch == NOBODY:
                self.rest()

    def wait(self) -> None:
        """A server that takes nothing now, or cannot be reached, is asked again. Called by any thread."""
        if self._map is not None:
            self._waits += 1
            _NUMBER.pack_into(self._map, _WAITS_AT, self._waits)

    def call(self, node: str, attempt: int, calls: int, retries: int, timeout: float | None) -> None:
        """The branch calls a node."""
        if self._map is not None:
            now = monotonic()
            until = NEVER if timeout is None else now + timeout
            name = node.encode()[:_NAME_LIMIT]
            self._write(self._branch, attempt, self._since, name, calls, retries, now, until)

    def called(self) -> None:
        """The node with a timeout has ended."""
        if self._map is not None:
            self._write(self._branch, self._attempt, self._since, b"", 0, 0, self._since, NEVER)

    def rest(self) -> None:
        """No branch is executed just now."""
        if self._map is not None:
            self._branch = NOBODY
            # One number in the note that stands.
            _BRANCH.pack_into(self._map, _FIRST_AT + (self._number & 1) * _COPY, NOBODY)

    def ask(self, since: float) -> None:
        """The branch that began at ``since`` is asked to stop; the first time counts. Called by one other thread."""
        if self._map is not None and since != self._asked:
            self._asked = since
            _ASKED.pack_into(self._map, _ASKED_AT, since, monotonic())

    def turn(
        self, branch: int, attempt: int, node: bytes, calls: int, retries: int, called: float, node_stop_at: float
    ) -> None:
        """It is a branch's turn on the event loop, in a call that has begun some time ago."""
        if self._map is not None:
            self._write(branch, attempt, monotonic(), node, calls, retries, called, node_stop_at)

    def watch(
        self,
        owner: object,
        branch: int,
        attempt: int,
        node: bytes,
        calls: int,
        retries: int,
        called: float,
        node_stop_at: float,
    ) -> None:
        """Show a call until its owner ends, whosever turn it is: one that its loop may not stop in time."""
        if self._map is not None:
            name = node[:_NAME_LIMIT]
            said = _CALL.pack(branch, attempt, calls, retries, called, node_stop_at, len(name))
            with self._lock:
                self._watched[owner] = node_stop_at, said + name
                self._list()

    def end(self, owner: object) -> None:
        """A call that may have been watched has ended. Called by its own thread too."""
        with self._lock:
            if self._watched.pop(owner, None) is not None:
                self._list()

    @property
    def is_overdue(self) -> bool:
        """Whether some call goes on though its node's timeout is over: the process may have to end for it."""
        now = monotonic()
        with self._lock:
            return any(stop_at <= now for stop_at, _ in self._watched.values())

    def _forget(self) -> None:
        with self._lock:
            if self._watched:
                self._watched = {}
                self._list()

    def _list(self) -> None:
        assert self._map is not None
        number, count, size = self._list_number + 1, 0, _LISTED.size
        at = _LIST_AT + (number & 1) * _LIST
        for _, said in sorted(self._watched.values(), key=itemgetter(0)):
            if size + len(said) > _LIST:
                # The others, whose timeouts are over later, are told of when these have ended.
                break
            self._map[at + size : at + size + len(said)] = said
            count, size = count + 1, size + len(said)
        _LISTED.pack_into(self._map, at, count)
        _NUMBER.pack_into(self._map, _LIST_NUMBER_AT, number)
        self._list_number = number

    def _rest(self) -> None:
        self._branch = NOBODY
        self._write(NOBODY, 0, 0.0, b"", 0, 0, 0.0, NEVER)

    def _write(
        self,
        branch: int,
        attempt: int,
        since: float,
        node: bytes,
        calls: int,
        retries: int,
        called: float,
        node_stop_at: float,
    ) -> None:
        assert self._map is not None
        where, number = self._where, self._number + 1
        at = _FIRST_AT + (number & 1) * _COPY
        size, named = len(where), len(node)
        if _NOTE.size + size + named > _COPY:
            # Ids without end: the janitor's way of finding out is left.
            where, size = b"", 0
        _NOTE.pack_into(
            self._map,
            at,
            branch,
            attempt,
            calls,
            retries,
            since,
            self._stop_at,
            called,
            node_stop_at,
            self._loop,
            size,
            named,
        )
        at += _NOTE.size
        self._map[at : at + size] = where
        self._map[at + size : at + size + named] = node
        _NUMBER.pack_into(self._map, 0, number)
        self._number = number


class Reader:
    """Another process's board. Raises `OSError` where it has none, and `ValueError` where it is only being made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_READ)

    def close(self) -> None:
        self._map.close()

    def rests(self) -> Rest | None:
        """Where it calls no node just now; None where it does, or serves a block on an event loop."""
        (loads,) = _NUMBER.unpack_from(self._map, _LOADS_AT)
        (waits,) = _NUMBER.unpack_from(self._map, _WAITS_AT)
        (number,) = _NUMBER.unpack_from(self._map, 0)
        note = _NOTE.unpack_from(self._map, _FIRST_AT + (number & 1) * _COPY)
        branch, loop, size = note[0], note[8], note[9]
        if number and branch != NOBODY and loads == number:
            return Rest("code", number, waits)
        if number and (branch != NOBODY or loop):
            return None
        # Of a lane whose ids find no room the size is 0, too.
        return Rest("block" if size else "away", number, waits)

    def read(self) -> Note | None:
        """What it was executing at some moment just now; None where that is nothing, or changes too quickly."""
        for _ in range(20):
            (number,) = _NUMBER.unpack_from(self._map, 0)
            (listed,) = _NUMBER.unpack_from(self._map, _LIST_NUMBER_AT)
            at, list_at = _FIRST_AT + (number & 1) * _COPY, _LIST_AT + (listed & 1) * _LIST
            copy = self._map[at : at + _COPY]
            watched = self._map[list_at : list_at + _LIST]
            asked_of, asked = _ASKED.unpack_from(self._map, _ASKED_AT)
            if _NUMBER.unpack_from(self._map, 0)[0] != number:
                continue
            if _NUMBER.unpack_from(self._map, _LIST_NUMBER_AT)[0] != listed:
                continue
            (
                branch,
                attempt,
                calls,
                retries,
                since,
                stop_at,
                called,
                node_stop_at,
                loop,
                size,
                named,
            ) = _NOTE.unpack_from(copy)
            if not size:
                return None
            at = _NOTE.size + size
            return Note(
                number=number,
                where=msgspec.msgpack.decode(copy[_NOTE.size : at], type=Where),
                loop=bool(loop),
                since=since,
                stop_at=stop_at,
                call=Call(
                    branch=branch,
                    attempt=attempt,
                    calls=calls,
                    retries=retries,
                    called=called,
                    stop_at=node_stop_at,
                    node=copy[at : at + named].decode(errors="ignore"),
                ),
                watched=tuple(_listed(watched)),
                asked=asked if asked_of == since else NEVER,
            )
        return None


def _listed(raw: bytes) -> Iterator[Call]:
    (count,) = _LISTED.unpack_from(raw)
    at = _LISTED.size
    for _ in range(count):
        branch, attempt, calls, retries, called, stop_at, named = _CALL.unpack_from(raw, at)
        at += _CALL.size + named
        yield Call(
            branch=branch,
            attempt=attempt,
            calls=calls,
            retries=retries,
            called=called,
            stop_at=stop_at,
            node=raw[at - named : at].decode(errors="ignore"),
        )

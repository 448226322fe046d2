"""One run on a ledger under test, and the moves that lanes and janitors make in it."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from egregore_dist.ledger import (
    BlockRecord,
    Commit,
    Lease,
    Ledger,
    Message,
    NewBlock,
    Presence,
    Served,
    Track,
    Work,
    limits,
)
from egregore_dist.ledger.keys import ROOT, child
from egregore_dist.workflow.limits import Rule

QUEUE = "q"
WORKER = "w1@here"


def track(
    count: int,
    *,
    queue: str = QUEUE,
    width: int = 1,
    lanes: int = 2,
    of: Sequence[int] | None = None,
    limit: str = "",
) -> Track:
    """A track of ``count`` branches: those given, or all."""
    branches = None if of is None else tuple(of)
    return Track(queue=queue, width=width, lanes=lanes, count=count, branches=branches, limit=limit)


def limited(count: int, bucket: str, rule: Rule, **options: Any) -> Track:
    """A track of ``count`` branches that begin with a node which has a limit."""
    return replace(track(count, **options), limit=f"{bucket} {limits.text_of(rule, None)}")


def ok(*branches: int) -> list[Commit]:
    """Commits of branches that ended well; the value of branch 7 is ``b"7"``."""
    return [Commit(branch, "ok", str(branch).encode()) for branch in branches]


def bad(*branches: int) -> list[Commit]:
    """Commits of branches that failed."""
    return [Commit(branch, "error", b"\x81\xa4type\xa4Oops") for branch in branches]


def numbers(served: Served) -> list[int]:
    """The branches that an answer leases."""
    return [lease.branch for lease in served.leases]


class Play:
    """One run.

    Args:
        ledger: where it is.
        run: its id.
    """

    def __init__(self, ledger: Ledger, run: str) -> None:
        self.ledger = ledger
        self.run = run
        self._lanes = itertools.count()

    @classmethod
    def submit(cls, ledger: Ledger, *, queue: str = QUEUE, input: bytes = b"in", spec: bytes = b"spec") -> Play:
        """Submit a run of a new id."""
        play = cls(ledger, uuid.uuid4().hex[:12])
        work = Work("flow", spec, b"functions")
        assert ledger.submit(play.run, work, code={"digest": b"code"}, input=input, queue=queue).new
        return play

    def lane(self, worker: str = WORKER, pid: int = 1) -> str:
        """A token that no lane had before."""
        return f"{worker}/{pid}/{next(self._lanes):012d}"

    # Moves of lanes

    def serve(
        self,
        block: str,
        token: str,
        commits: Sequence[Commit] = (),
        *,
        track: int = 0,
        want: int = 0,
        held: int = 0,
        releases: Sequence[int] = (),
    ) -> Served:
        """One call of a lane."""
        return self.ledger.serve(
            self.run, block, track, token, want=want, held=held, commits=commits, releases=releases
        )

    def open(
        self,
        parent: str,
        branch: int,
        token: str,
        n: int,
        *,
        track_of_branch: int = 0,
        path: tuple[int, ...] = (0,),
        limit: int = 0,
        timeout: float = 0.0,
        on_error: str = "cancel",
        tracks: Sequence[Track] = (),
        input: bytes | str = b"data",
    ) -> int | None:
        """Open the block ``child(parent, branch, path)``; returns its deadline."""
        block = NewBlock(
            id=child(parent, branch, path),
            name="block",
            path=path,
            n=n,
            limit=limit,
            timeout=timeout,
            on_error=on_error,
            input=input,
            tracks=tuple(tracks) or (track(n),),
        )
        return self.ledger.open(self.run, parent, Lease(branch), track_of_branch, token, block)

    def nest(self, parent: str, branch: int, token: str, n: int, **options: object) -> str:
        """Open a block and return its id."""
        assert self.open(parent, branch, token, n, **options) is not None  # type: ignore[arg-type]
        return child(parent, branch, cast(tuple[int, ...], options.get("path", (0,))))

    def block(self, n: int, **options: object) -> str:
        """Lease the run's one branch to a new lane, which opens a block of ``n`` branches; returns its id."""
        token = self.lane()
        assert numbers(self.serve(ROOT, token)) == [0]
        return self.nest(ROOT, 0, token, n, **options)

    def finish(self, block: str = ROOT, track: int = 0) -> Served:
        """Serve a block with a new lane that commits all it gets, until it gets no more."""
        token = self.lane()
        served = self.serve(block, token, track=track)
        while served.leases:
            served = self.serve(block, token, ok(*numbers(served)), track=track)
        return served

    # Moves of janitors

    def make_due(self, kind: str, block: str) -> None:
        """Move an entry of the agenda into the past, and with it what it waits for: as if time had gone by."""
        ledger = self.ledger
        entry = f"{self.run} {kind} {block}"
        assert ledger.redis.zscore(ledger.keys.agenda, entry) is not None, f"no such entry: {entry}"
        ledger.redis.zadd(ledger.keys.agenda, {entry: 1})
        if kind == "deadline":
            self.pass_deadline(block)
        else:
            ledger.redis.hdel(ledger.keys.block(self.run, "b", block), "ask_after")

    def pass_deadline(self, block: str) -> None:
        """Move the deadline of a block into the past: it is that of the blocks inside of it too."""
        ledger = self.ledger
        ledger.redis.hset(ledger.keys.block(self.run, "b", block), "deadline", 1)
        for id in map(bytes.decode, ledger.redis.smembers(ledger.keys.part(self.run, "blocks"))):
            if id == block or id.startswith(f"{block}."):
                ledger.redis.hset(ledger.keys.block(self.run, "b", id), mapping={"ends_by": 1, "ends_with": block})

    def sweep(
        self,
        kind: str,
        block: str,
        *,
        alive: Iterable[str] = (WORKER,),
        dead: Iterable[str] = (),
        lanes: Iterable[str] | None = None,
        backed_up: str = "",
        due: bool = True,
    ) -> list[Message]:
        """Make an entry due, unless told otherwise, and do what it asks for.

        Args:
            alive: the live workers.
            dead: processes that ended, as ``<worker>/<pid>``.
            lanes: tokens; where given, the workers said just now that these are all the lanes there are.
            backed_up: a queue where messages wait.
        """
        if due:
            self.make_due(kind, block)
        ended: dict[str, tuple[int, ...]] = dict.fromkeys(alive, ())
        for process in dead:
            name, _, pid = process.rpartition("/")
            if name in ended:
                ended[name] += (int(pid),)
        at = int(self.now()) + 1
        ids = None if lanes is None else tuple(token.rpartition("/")[2] for token in lanes)
        workers = {name: Presence(at=at, dead=pids, lanes=ids) for name, pids in ended.items()}
        return self.ledger.sweep(self.run, kind, block, workers=workers, backed_up=[backed_up] if backed_up else [])

    # Looks

    def record(self, block: str = ROOT) -> BlockRecord:
        """A block's record."""
        record = self.ledger.block(self.run, block)
        assert record is not None
        return record

    @property
    def state(self) -> str:
        """The run's state."""
        return self.ledger.run(self.run).state

    def agenda(self) -> dict[tuple[str, str], float]:
        """What the agenda has of this run: milliseconds by kind and block."""
        entries = cast(
            list[tuple[bytes, float]], self.ledger.redis.zrange(self.ledger.keys.agenda, 0, -1, withscores=True)
        )
        mine = [(entry.decode().split(" "), score) for entry, score in entries]
        return {(kind, block): score for (run, kind, block), score in mine if run == self.run}

    def now(self) -> float:
        """The server's clock, in milliseconds."""
        seconds, micros = self.ledger.redis.time()
        return seconds * 1000 + micros / 1000

    def written(self) -> set[str]:
        """Every key of the run."""
        pattern = f"{self.ledger.keys.prefix}:{{{self.run}}}*"
        return {key.decode() for key in self.ledger.redis.scan_iter(match=pattern, count=1000)}

    def events(self, kind: str) -> list[dict[str, bytes]]:
        """The run's events of one type."""
        found = self.ledger.events(self.run, "0", 0.001)
        return [fields for _, fields in found if fields["event"] == kind.encode()]

    def ends(self) -> int:
        """How often the run has ended."""
        return int(self.ledger.redis.llen(self.ledger.keys.part(self.run, "end")))

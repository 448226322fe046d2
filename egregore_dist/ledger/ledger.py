"""The one Python face of the ledger: of runs, each method is one transition, or one read."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec
import redis
from redis.retry import Retry

from egregore_dist import errors
from egregore_dist.ledger import connection, fitness, replies, spans
from egregore_dist.ledger.calls import Calls, Pauses
from egregore_dist.ledger.connection import options, reachable
from egregore_dist.ledger.keys import ROOT, Keys
from egregore_dist.ledger.records import (
    ENDED,
    NEARLY_FULL,
    Accepted,
    Aside,
    BlockRecord,
    Commit,
    Due,
    Entered,
    Lease,
    Loss,
    Message,
    NewBlock,
    Presence,
    RunRecord,
    Served,
    StreamOfRun,
    Tended,
    Waiting,
    Work,
)
from egregore_dist.ledger.watch import Watch

log = logging.getLogger(__name__)

# Attempts of a branch whose process dies under it, before it ends as lost.
ATTEMPTS = 3

# Messages that were set aside are kept for looking at: the newest.
ASIDE_KEPT = 1000

# Seconds for which workers consume a derived queue that nobody sends lanes to. Of an open block a janitor asks every
# minute for lanes that do not come, which counts anew.
_QUEUES_LATELY = 86400

# An answer that took longer, in seconds, may tell of what is true no more.
_LATE = 1.0
_ASKED_AGAIN = 3

# Seconds until lanes are asked for again where a broker did not take the messages.
_ASK_AGAIN = 2.0
# Tracks of a block whose queues are told.
_TRACKS_ASKED = 8

# Runs that are looked for in one round trip.
_AT_ONCE = 1000

# How a transition says that it could not do all in one call, and that it has ended a block of a run that is traced.
_TIDY = "tidy"
_ENDED = "ended"
_MORE = 2
# How `submit` says that part of a run is left which had the id.
_REMAINS = "REMAINS"


class Ledger:
    """A ledger on a Redis or Valkey server.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, or ``sentinel://`` with ``master_name``.
        prefix: what every key starts with.
        retention: seconds that a finished run is kept.
        retries: how often a call is tried again, at most a second apart, while the server cannot be reached, answers
            nobody, or refuses to write.
        waits: called before each time that it is.

    Every method raises `errors.BrokerUnavailable` where the server cannot be reached or answers nobody, and
    `errors.BrokerFull` where it refuses to write. It is safe to share between threads, not between processes.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "egd",
        retention: float = 7 * 86400,
        retries: int = 3,
        waits: Callable[[], None] | None = None,
    ) -> None:
        backoff = Pauses(waits)
        try:
            self.redis = connection.client(url, retry=Retry(backoff, retries=retries), **options(url))
        except ValueError as error:
            # The URL may hold a password, and redis-py does not repeat it.
            raise errors.ConfigurationError(f"the ledger's URL cannot be used: {error}") from None
        self._url = url
        self.keys = Keys(prefix)
        self._retention = retention
        self._calls = Calls(self.redis, backoff, retries)

    def close(self) -> None:
        """Close every connection."""
        self.redis.close()

    def ping(self) -> None:
        """See whether the server answers."""
        with reachable():
            self.redis.ping()

    def refuse_unfit_server(self) -> None:
        """Refuse a server that cannot hold a ledger, see `fitness`.

        Raises:
            errors.ConfigurationError: it evicts keys, or is a Redis Cluster; the message names the cure.
        """
        fitness.refuse_unfit(self.redis, self.keys)

    # Transitions

    def submit(
        self,
        run: str,
        work: Work,
        *,
        code: Mapping[str, bytes],
        input: bytes,
        queue: str,
        digest: str = "",
    ) -> Accepted:
        """Accept a run; where the id is taken already, nothing is changed, and the answer is about the run that has it.

        Args:
            digest: of the input, to tell runs of the same id apart; "" where nobody else can choose the id.

        Raises:
            errors.BrokerFull: `NEARLY_FULL` of the server's memory are in use; the rest is for the runs that it has.
        """
        pairs = [part for item in code.items() for part in item]
        args: list[Any] = [NEARLY_FULL, self.keys.epoch, secrets.token_hex(8), work.workflow, work.spec]
        args += [work.functions, work.queue, input, queue, int(self._retention * 1000), work.trace, digest, *pairs]
        try:
            answer = self._transition("submit", run, args)
        except redis.exceptions.ResponseError as error:
            if _REMAINS not in str(error):
                raise
            self.forget({run: 0})
            answer = self._transition("submit", run, args)
        new, epoch, waits, created, workflow, its_digest, state = answer
        return Accepted(
            bool(new), epoch.decode(), bool(waits), created, workflow.decode(), its_digest.decode(), state.decode()
        )

    def enter(
        self,
        run: str,
        block: str,
        track: int,
        token: str,
        *,
        work: bool,
        known: int | None = None,
        created: int | None = None,
    ) -> Entered | None:
        """Come to a block as a new lane: its record, the first leases, the server's time, and the run's work if asked.

        Of the whole run's block its input too. Returns None where there is no such block.

        Args:
            token: the lane, as for `serve`.
            work: whether to read the run's work; it can be megabytes.
            known: when the run was submitted whose work the caller has: if it still has this id, it is not read.
            created: of the lane's run, as in `serve`.
        """
        args = replies.serve_args(block, track, token, 0, 0, (), (), created)
        reads: list[tuple[Any, ...]] = [("TIME",), ("HGETALL", self.keys.block(run, "b", block))]
        if work:
            wanted = replies.WORK_FIELDS if known is None else ["created"]
            reads.append(("HMGET", self.keys.run(run), *wanted))
        reads += [("GET", self.keys.block(run, "i", block))] if block == ROOT else []
        started = time.monotonic()
        (now, fields, *rest), (served,) = self._calls.together(self._keys(run), reads, [("serve", args)])
        if not fields:
            return None
        answer = self._served(run, served)
        found = None
        if work and known is None:
            found = replies.work(run, rest[0])
        elif work and rest[0] != [str(known).encode()]:
            found = self.work(run)
        return Entered(
            record=BlockRecord.of(block, fields),
            served=self._in_time(run, block, track, token, created, started, answer),
            now=replies.milliseconds(now),
            work=found,
            input=rest[-1] if block == ROOT else None,
        )

    def serve(
        self,
        run: str,
        block: str,
        track: int,
        token: str,
        *,
        want: int = 0,
        held: int = 0,
        commits: Sequence[Commit] = (),
        releases: Sequence[int] = (),
        created: int | None = None,
    ) -> Served:
        """Take what a lane has finished, and lease it what comes next.

        Args:
            token: the lane, as ``<worker>/<pid>/<lane>``.
            want: branches to hold at most after this; 0 for one, or as many as the track is wide; `LEAVE` for no more.
            held: branches that the lane believes it holds after these commits and releases; where the ledger knows
                otherwise, it answers with all that the lane holds.
            created: of the lane's run: one that was submitted under its id since is none of this lane's, and answers as
                one that is gone. None for whatever run has the id.
        """
        args = replies.serve_args(block, track, token, want, held, commits, releases, created)
        started = time.monotonic()
        served = self._served(run, self._transition("serve", run, args))
        return self._in_time(run, block, track, token, created, started, served)

    def open(self, run: str, parent: str, lease: Lease, track: int, token: str, block: NewBlock) -> int | None:
        """Open a block that a leased branch has met, and park the branch.

        Returns:
            The block's deadline in server milliseconds, 0 for none; None where the lane lost the branch.
        """
        state, deadline = self._transition("open", run, replies.open_args(parent, lease, track, token, block))
        return int(deadline) if state == b"open" else None

    def begin(
        self,
        run: str,
        parent: str,
        lease: Lease,
        track: int,
        token: str,
        block: NewBlock,
        *,
        want: int = 0,
        created: int | None = None,
    ) -> tuple[bool, Entered | None]:
        """`open` a block and `enter` its first track in one round trip.

        Args:
            want: branches to be leased at most, as in `serve`.
            created: of the lane's run, as in `serve`.

        Returns:
            Whether the lane has parked the branch, or lost it before; and what it learned and was leased of the block.
        """
        opening = replies.open_args(parent, lease, track, token, block)
        serving = replies.serve_args(block.id, 0, token, want, 0, (), (), created)
        reads = [("TIME",), ("HGETALL", self.keys.block(run, "b", block.id))]
        started = time.monotonic()
        (now, fields), ((state, _), served) = self._calls.together(
            self._keys(run), reads, [("open", opening), ("serve", serving)]
        )
        if not fields:
            return state == b"open", None
        entered = Entered(
            record=BlockRecord.of(block.id, fields),
            served=self._in_time(run, block.id, 0, token, created, started, self._served(run, served)),
            now=replies.milliseconds(now),
            work=None,
        )
        return state == b"open", entered

    def give_place(self, run: str, block: str, branch: int, token: str) -> Tended:
        """Give back the place of a limit that a leased branch has, and goes on without."""
        return replies.tended(self._transition("place", run, [block, branch, token]))

    def backoff(self, run: str, waiting: Sequence[Waiting]) -> int:
        """Note branches that wait before a node of theirs is called again. Returns how many their lanes still hold."""
        args: list[Any] = []
        for each in waiting:
            args += [each.block, each.branch, each.token, int(each.seconds * 1000), each.call, each.most, each.node]
        return cast(int, self._transition("backoff", run, args))

    def tend(self, bucket: str, why: str = "alarm", *, workers: Mapping[str, Presence] | None = None) -> Tended:
        """Look after a bucket of a limit.

        Args:
            why: "alarm", "edit", or "janitor": that one also takes back places whose lease is gone.
            workers: for a janitor, as in `sweep`.
        """
        keys = (self.keys.limits_due, self.keys.agenda, self.keys.runs)
        return replies.tended(self._calls.one("tend", keys, [bucket, why, msgspec.msgpack.encode(workers)]))

    def edit_limit(self, name: str, rule: str) -> tuple[bool, list[str]]:
        """Set the rule of a limit by hand, or, with "", forget what was set.

        Returns:
            Whether there was such a limit, and its buckets that are in use: `tend` each, so that it holds at once.
        """
        keys = (self.keys.limits_set, self.keys.agenda, self.keys.runs)
        known, buckets = self._calls.one("limit", keys, [name, rule])
        return bool(known), [bucket.decode() for bucket in buckets]

    def trace(self, run: str, context: str) -> str:
        """Begin the trace of a run that was submitted in none. Returns its trace context, "" where there is no run."""
        return cast(str, self._transition("trace", run, [context]).decode())

    def cancel(self, run: str, created: int | None = None) -> str:
        """Cancel a run that has not ended. Returns its state after it.

        Args:
            created: of the run that is meant; None for the one that has the id now, and not for one that has it when a
                call is made again whose answer was lost.

        Raises:
            errors.RunNotFound: there is no such run.
        """
        meant = self._meant(run, created)
        while True:
            state, publish = self._transition("cancel", run, [meant])
            if not state:
                raise replies.not_found(run)
            self._go_on(run, replies.messages(publish))
            # It may have been decided before that it ends, and how.
            if state.decode() in ENDED or not publish:
                return cast(str, state.decode())

    def retry(self, run: str, created: int | None = None) -> tuple[str, list[Message]]:
        """Run again what did not end well in a run that failed or was cancelled, and keep the rest.

        Args:
            created: as for `cancel`.

        Returns:
            The state before, and the messages that start it; none where it neither failed nor was cancelled.

        Raises:
            errors.RunNotFound: there is no such run.
        """
        meant = self._meant(run, created)
        while True:
            state, more, publish = self._transition("retry", run, [meant])
            if not state:
                raise replies.not_found(run)
            if not more:
                return state.decode(), list(replies.messages(publish))

    def pause(self, run: str, created: int | None = None) -> str:
        """Pause a run that has not ended: nothing of it is leased. Returns its state after it.

        Args:
            created: as for `cancel`.

        Raises:
            errors.RunNotFound: there is no such run.
        """
        state = cast(bytes, self._transition("pause", run, [self._meant(run, created)]))
        if not state:
            raise replies.not_found(run)
        return state.decode()

    def resume(self, run: str, created: int | None = None) -> tuple[str, list[Message]]:
        """Let a paused run go on. Returns its state after it, and the messages that have it served.

        Args:
            created: as for `cancel`.

        Raises:
            errors.RunNotFound: there is no such run.
        """
        meant = self._meant(run, created)
        cursor, wanted = b"", list[Message]()
        while True:
            state, cursor, publish = self._transition("resume", run, [meant, cursor])
            if not state:
                raise replies.not_found(run)
            wanted += replies.messages(publish)
            if not cursor:
                return state.decode(), wanted

    def delete(self, run: str, created: int | None = None) -> bool:
        """Forget a run that has ended. Returns False where it has not, or does not exist.

        What its end has stopped shall have stopped, or the places of limits that it has are free before it has.

        Args:
            created: as for `cancel`.
        """
        meant = self._meant(run, created)
        begun = False
        while (answer := self._transition("delete", run, [meant])) == _MORE:
            begun = True
        # Somebody else may have come to its end.
        return bool(answer) or begun

    def due(self, janitor: str, lease: float, limit: int = 1000) -> Due:
        """What is due, where this janitor leads; deadlines first.

        Args:
            janitor: who asks; it leads if nobody does.
            lease: seconds that it leads after this, unless it asks again.
            limit: entries at most.
        """
        keys = (self.keys.janitor, self.keys.agenda, self.keys.runs)
        leads, server, entries, limits, full, evicted = self._calls.one(
            "due", keys, [janitor, max(1, int(lease * 1000)), limit]
        )
        found = replies.agenda(entries)
        if len(found) < len(entries):
            # No janitor can deal with an unreadable entry, and it would stay due for ever, ahead of others.
            unreadable = [entry for entry in entries if not replies.agenda((entry,))]
            with reachable():
                self.redis.zrem(self.keys.agenda, *unreadable)
            text = "removed %d unreadable entries of the agenda, such as %.100r"
            log.warning(text, len(unreadable), unreadable[0], extra={"action": "agenda_cleared"})
        return Due(
            leads=bool(leads),
            server=server.decode(),
            entries=sorted(found, key=lambda entry: entry[1] != "deadline"),
            limits=[bucket.decode() for bucket in limits],
            full=bool(full),
            evicted=evicted,
        )

    def evicted(self) -> int:
        """Keys that the server has evicted since its start; -1 where it does not say."""
        with reachable():
            try:
                return int(self.redis.info("stats")["evicted_keys"])
            except (redis.exceptions.ResponseError, KeyError):
                return -1

    def put_off(self, run: str, kind: str, block: str, seconds: float) -> None:
        """Have an entry of the agenda come due later."""
        with reachable():
            at = self.now() + int(seconds * 1000)
            pipe = self.redis.pipeline(transaction=True)
            pipe.zadd(self.keys.agenda, {f"{run} {kind} {block}": at}, xx=True)
            pipe.hincrby(self.keys.counts_of_cluster, "failed", 1)
            pipe.execute()

    def ask_again(self, run: str, blocks: Iterable[str]) -> None:
        """Lanes of these were asked for in vain: have them asked for again soon, as for the first time."""
        with reachable():
            at = self.now() + int(_ASK_AGAIN * 1000)
            pipe = self.redis.pipeline(transaction=True)
            for block in blocks:
                pipe.hdel(self.keys.block(run, "b", block), "hinted", "ask_after")
                pipe.zadd(self.keys.agenda, {f"{run} hint {block}": at}, xx=True, lt=True)
            pipe.execute()

    def queues_of(self, blocks: Iterable[tuple[str, str]]) -> set[str]:
        """The queues where the lanes of blocks are, by run and block: those of a block's first few tracks."""
        fields = [f"queue:{track}" for track in range(_TRACKS_ASKED)]
        with reachable():
            pipe = self.redis.pipeline(transaction=False)
            for run, block in blocks:
                pipe.hmget(self.keys.block(run, "b", block), fields)
            # A block that cannot be read must not keep the others waiting.
            found = cast(list[list[bytes | None] | Exception], pipe.execute(raise_on_error=False))
        return {queue.decode() for each in found if not isinstance(each, Exception) for queue in each if queue}

    def is_idle(self) -> bool:
        """Whether no run is going on: each of its open blocks has an entry in the agenda."""
        with reachable():
            return not self.redis.exists(self.keys.agenda)

    def unfinished(self) -> list[RunRecord]:
        """The runs that have not ended, `_AT_ONCE` at most: each of their open blocks has an entry in the agenda."""
        with reachable():
            entries = cast(list[bytes], self.redis.zrange(self.keys.agenda, 0, -1))
        names = list(dict.fromkeys(run for run, _, _ in replies.agenda(entries)))
        return [run for run in self.records(names[:_AT_ONCE]) if run.state not in ENDED]

    def sweep(
        self,
        run: str,
        kind: str,
        block: str,
        *,
        workers: Mapping[str, Presence] | None,
        backed_up: Collection[str] = (),
        instead: Mapping[str, str] | None = None,
    ) -> list[Message]:
        """Do what an entry of the agenda asks for. A message "lost" asks to `forget` the run.

        Args:
            workers: the live workers, by name, and `OTHERS` where who says nothing may be alive too; None where nothing
                is known of any.
            backed_up: queues where messages wait.
            instead: queues that nobody serves any more, each with the one whose workers shall serve its lanes.
        """
        waiting = msgspec.msgpack.encode(sorted(backed_up))
        args = [kind, block, ATTEMPTS, waiting, msgspec.msgpack.encode(workers), msgspec.msgpack.encode(instead)]
        return list(self._go_on(run, replies.messages(self._transition("sweep", run, args))))

    def forget(self, runs: Mapping[str, int]) -> None:
        """Forget all that is left of runs of which the server has lost part; of those that have ended, have it expire.

        It looks through every key of the server, since what the runs have is not known any more.

        Args:
            runs: when each was submitted, server milliseconds; 0 where that is lost too.
        """
        keys: dict[str, list[bytes]] = {run: [] for run in runs}
        entries: dict[str, list[bytes]] = {run: [] for run in runs}
        with reachable():
            for key in self.redis.scan_iter(match=f"{self.keys.prefix}:{{*}}:*", count=_AT_ONCE):
                run = key.decode(errors="replace").removeprefix(f"{self.keys.prefix}:{{").partition("}")[0]
                if run in keys:
                    keys[run].append(key)
            for entry in cast(list[bytes], self.redis.zrange(self.keys.agenda, 0, -1)):
                run = entry.decode(errors="replace").partition(" ")[0]
                if run in entries:
                    entries[run].append(entry)
        for run, created in runs.items():
            for start in range(0, len(keys[run]), _AT_ONCE):
                self._transition("forget", run, [created, "keys", *keys[run][start : start + _AT_ONCE]])
            self._transition("forget", run, [created, "record", *entries[run]])

    def lost(self, run: str, block: str, token: str, loss: Loss) -> list[Message]:
        """Give back what a lane of a dead process held at a block. Returns what has to be published for it."""
        branch = -1 if loss.branch is None else loss.branch
        args: list[str | int | bytes] = [block, token, branch, loss.verdict, ATTEMPTS, loss.why, loss.node]
        short = loss.short
        args += ["", 0, ""] if short is None else [short.queue, short.lanes, short.text]
        args += [int(loss.lacked_memory)]
        for over in loss.overruns:
            args += [over.branch, over.node, over.calls, over.most, over.failure]
        return list(self._go_on(run, replies.messages(self._transition("lost", run, args))))

    # Reads

    def exists(self, run: str) -> bool:
        """Whether there is such a run."""
        with reachable():
            return bool(self.redis.exists(self.keys.run(run)))

    def run(self, run: str) -> RunRecord:
        """One run. Raises `errors.RunNotFound`."""
        with reachable():
            fields = cast(list[bytes | None], self.redis.hmget(self.keys.run(run), replies.RUN_FIELDS))
        if fields[0] is None:
            raise replies.not_found(run)
        return replies.run_record(run, fields)

    def epoch(self) -> str:
        """The epoch of the server's data, see ``submit.lua``; "" where it has accepted no run."""
        with reachable():
            found = cast(bytes | None, self.redis.get(self.keys.epoch))
        return (found or b"").decode()

    def runs(self, limit: int = 50, offset: int = 0) -> list[RunRecord]:
        """The newest runs first; runs that have expired are left out."""
        with reachable():
            names = cast(list[bytes], self.redis.zrevrange(self.keys.runs, offset, offset + limit - 1))
        return self.records([name.decode() for name in names])

    def records(self, runs: Sequence[str]) -> list[RunRecord]:
        """These runs; those that have expired are left out."""
        pipe = self.redis.pipeline(transaction=False)
        for run in runs:
            pipe.hmget(self.keys.run(run), replies.RUN_FIELDS)
        with reachable():
            found = pipe.execute()
        pairs = zip(runs, found, strict=True)
        return [replies.run_record(run, fields) for run, fields in pairs if fields[0] is not None]

    def forget_expired(self) -> None:
        """Drop the runs that have expired from the list of runs."""
        with reachable():
            seconds, _ = self.redis.time()
            oldest = cast(
                list[bytes], self.redis.zrangebyscore(self.keys.runs, "-inf", (seconds - self._retention) * 1000)
            )
            # Some tens of thousands come together in an hour, and a janitor has deadlines to keep.
            for start in range(0, len(oldest), _AT_ONCE):
                names = oldest[start : start + _AT_ONCE]
                pipe = self.redis.pipeline(transaction=False)
                for name in names:
                    pipe.exists(self.keys.run(name.decode()))
                gone = [name for name, there in zip(names, pipe.execute(), strict=True) if not there]
                if gone:
                    self.redis.zrem(self.keys.runs, *gone)

    def work(self, run: str) -> Work:
        """The spec of a run. Raises `errors.RunNotFound`."""
        with reachable():
            fields = cast(list[bytes | None], self.redis.hmget(self.keys.run(run), replies.WORK_FIELDS))
        return replies.work(run, fields)

    def works(self, runs: Sequence[str]) -> dict[str, Work]:
        """The specs of many runs in one round trip; those that have expired are left out."""
        pipe = self.redis.pipeline(transaction=False)
        for run in runs:
            pipe.hmget(self.keys.run(run), replies.WORK_FIELDS)
        with reachable():
            found = pipe.execute()
        return {
            run: replies.work(run, fields) for run, fields in zip(runs, found, strict=True) if None not in fields[:3]
        }

    def code(self, run: str, digest: str) -> bytes | None:
        """The signed code of a function that travels by value."""
        with reachable():
            return cast(bytes | None, self.redis.hget(self.keys.part(run, "code"), digest))

    def block(self, run: str, block: str) -> BlockRecord | None:
        """One block, or None."""
        with reachable():
            fields = cast(dict[bytes, bytes], self.redis.hgetall(self.keys.block(run, "b", block)))
        return BlockRecord.of(block, fields) if fields else None

    def look(self, run: str, block: str, created: int | None = None) -> tuple[BlockRecord, int]:
        """One block, and the server's time in milliseconds.

        Args:
            created: of the run that is meant, as in `serve`.

        Raises:
            errors.RunNotFound: there is no such block, or another run has the id.
        """
        pipe = self.redis.pipeline(transaction=False)
        pipe.hgetall(self.keys.block(run, "b", block))
        pipe.time()
        pipe.hget(self.keys.run(run), "created")
        with reachable():
            fields, now, its = pipe.execute()
        if not fields or (created is not None and its != str(created).encode()):
            raise replies.not_found(run)
        return BlockRecord.of(block, fields), replies.milliseconds(now)

    def blocks(self, run: str) -> list[BlockRecord]:
        """Every block of a run, parents first."""
        with reachable():
            names = sorted(
                name.decode() for name in cast(set[bytes], self.redis.smembers(self.keys.part(run, "blocks")))
            )
            pipe = self.redis.pipeline(transaction=False)
            for name in names:
                pipe.hgetall(self.keys.block(run, "b", name))
            found = pipe.execute()
        return [BlockRecord.of(name, fields) for name, fields in zip(names, found, strict=True) if fields]

    def holds(self, run: str, block: str, branch: int, token: str) -> bool:
        """Whether the lane of this token holds a branch, and its block is open."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.hget(self.keys.block(run, "b", block), "state")
        pipe.hget(self.keys.block(run, "l", block), str(branch))
        with reachable():
            state, holder = pipe.execute()
        return bool(state == b"open" and holder == token.encode())

    def held(self, questions: Sequence[tuple[str, str, int | None, str]]) -> list[bool]:
        """`holds` of many (run, block, branch, token) in one round trip; without a branch: whether it holds any."""
        pipe = self.redis.pipeline(transaction=False)
        for run, block, branch, token in questions:
            pipe.hget(self.keys.block(run, "b", block), "state")
            pipe.hget(self.keys.block(run, "l", block), f"@{token}" if branch is None else str(branch))
        with reachable():
            found = pipe.execute()
        return [
            found[2 * i] == b"open"
            and found[2 * i + 1] is not None
            and (branch is None or found[2 * i + 1] == token.encode())
            for i, (_, _, branch, token) in enumerate(questions)
        ]

    def leased(self, run: str, block: str, token: str) -> list[int]:
        """The branches of a block that a lane holds."""
        with reachable():
            found = cast(dict[bytes, bytes], self.redis.hgetall(self.keys.block(run, "l", block)))
        return [int(branch) for branch, holder in found.items() if holder == token.encode()]

    def stopped(self, run: str, block: str) -> int | None:
        """When the last lane of an ended block and those inside it was gone, in server ms; None while there is one."""
        with reachable():
            names = {name.decode() for name in cast(set[bytes], self.redis.smembers(self.keys.part(run, "blocks")))}
            inside = [name for name in names if name == block or name.startswith(f"{block}.")]
            pipe = self.redis.pipeline(transaction=False)
            for name in inside:
                pipe.hmget(self.keys.block(run, "b", name), "ended", "stopped")
                pipe.hkeys(self.keys.block(run, "l", name))
            found = pipe.execute()
        if any(holder.startswith(b"@") for holders in found[1::2] for holder in holders):
            return None
        return max(int(stopped or ended or 0) for ended, stopped in found[::2])

    def input(self, run: str, block: str) -> bytes:
        """The encoded input kept under a block. Raises `errors.RunNotFound`."""
        with reachable():
            raw = cast(bytes | None, self.redis.get(self.keys.block(run, "i", block)))
        if raw is None:
            raise replies.not_found(run)
        return raw

    def results(self, run: str, block: str) -> dict[int, bytes]:
        """The encoded values of a block's branches so far."""
        return self._branches(run, "r", block)

    def failures(self, run: str, block: str) -> dict[int, bytes]:
        """The encoded failures of a block's branches so far."""
        return self._branches(run, "e", block)

    def collected(self, run: str, block: str) -> tuple[BlockRecord, dict[int, bytes], dict[int, bytes]]:
        """One block with the values and the failures of its branches. Raises `errors.RunNotFound`."""
        pipe = self.redis.pipeline(transaction=False)
        for kind in ("b", "r", "e"):
            pipe.hgetall(self.keys.block(run, kind, block))
        with reachable():
            fields, values, failures = pipe.execute()
        if not fields:
            raise replies.not_found(run)
        return BlockRecord.of(block, fields), replies.branches(values), replies.branches(failures)

    def running(self, run: str, block: str) -> list[int]:
        """The branches that are leased or parked; of a block that has ended, those that were."""
        return self.all_running(run, [block])[block]

    def all_running(self, run: str, blocks: Sequence[str]) -> dict[str, list[int]]:
        """`running` of many blocks in one round trip."""
        pipe = self.redis.pipeline(transaction=False)
        for block in blocks:
            pipe.hkeys(self.keys.block(run, "l", block))
        with reachable():
            found = pipe.execute()
        return {
            block: sorted(int(name) for name in names if not name.startswith(b"@"))
            for block, names in zip(blocks, found, strict=True)
        }

    def outcome(self, run: str) -> tuple[RunRecord, bytes | None]:
        """One run, with its encoded value if it has succeeded. Raises `errors.RunNotFound`."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.hmget(self.keys.run(run), replies.RUN_FIELDS)
        pipe.hget(self.keys.block(run, "r", ROOT), "0")
        with reachable():
            fields, value = pipe.execute()
        if fields[0] is None:
            raise replies.not_found(run)
        return replies.run_record(run, fields), value

    def wait(self, run: str, seconds: float) -> bool:
        """Wait until a run has ended, at most ``seconds`` (10 ms to 3 s). Returns whether it has.

        A server that refuses to write, as this wait does, is asked only whether it has, and again after a pause.
        """
        try:
            with reachable():
                return bool(self.redis.execute_command(*replies.wait_command(self.keys, run, seconds)))  # type: ignore[no-untyped-call]
        except errors.BrokerFull as error:
            with reachable():
                has_ended = bool(self.redis.exists(self.keys.part(run, "end")))
            if not has_ended:
                self._calls.refusals.tell(error)
                time.sleep(replies.pause_for(seconds))
            return has_ended

    def events(
        self, run: str, after: str, seconds: float, part: StreamOfRun = "events"
    ) -> list[tuple[str, dict[str, bytes]]]:
        """Events, or lines, of a run after a cursor ("0" for all), waiting at most ``seconds`` (3 s) for the first."""
        streams: dict[Any, Any] = {self.keys.part(run, part): after}
        with reachable():
            found = self.redis.xread(streams, count=replies.EVENTS_READ, block=replies.block_for(seconds))
        return replies.stream(found)

    def watch(self) -> Watch:
        """The two waits above for an event loop: a connection of its own, so that waiting takes no thread."""
        return Watch(self._url, self.keys)

    # Workers

    def now(self) -> int:
        """The server's time, in milliseconds."""
        with reachable():
            return replies.milliseconds(self.redis.time())

    def report(self, worker: str, report: bytes, ttl: float) -> list[str]:
        """Publish a worker's report; it counts as alive for ``ttl`` seconds.

        Returns:
            The derived queues that lanes were sent to lately.
        """
        with reachable():
            seconds, _ = self.redis.time()
            pipe = self.redis.pipeline(transaction=True)
            pipe.set(self.keys.worker(worker), report, px=int(ttl * 1000))
            pipe.zadd(self.keys.workers, {worker: seconds})
            pipe.zremrangebyscore(self.keys.workers, "-inf", seconds - 86400)
            pipe.zrangebyscore(self.keys.queues, (seconds - _QUEUES_LATELY) * 1000, "+inf")
            found = pipe.execute()
        return [name.decode() for name in found[-1]]

    def queues(self, since: int | None = None) -> list[str]:
        """The derived queues that lanes were sent to since then (server ms), or lately; see ``_common.lua``."""
        with reachable():
            if since is None:
                since = replies.milliseconds(self.redis.time()) - _QUEUES_LATELY * 1000
            found = self.redis.zrangebyscore(self.keys.queues, since, "+inf")
        return [name.decode() for name in cast(list[bytes], found)]

    def retire(self, worker: str) -> None:
        """Withdraw a worker that stops."""
        with reachable():
            pipe = self.redis.pipeline(transaction=True)
            pipe.delete(self.keys.worker(worker))
            pipe.zrem(self.keys.workers, worker)
            pipe.execute()

    def reported(self, worker: str) -> bytes | None:
        """The report of one worker; None where it is not alive."""
        with reachable():
            return cast(bytes | None, self.redis.get(self.keys.worker(worker)))

    def reports(self) -> dict[str, bytes]:
        """The reports of the live workers, by worker."""
        with reachable():
            names = [name.decode() for name in cast(list[bytes], self.redis.zrange(self.keys.workers, 0, -1))]
            if not names:
                return {}
            found = cast(list[bytes | None], self.redis.mget([self.keys.worker(name) for name in names]))
        return {name: report for name, report in zip(names, found, strict=True) if report is not None}

    # Messages that nobody can serve

    def set_aside(self, messages: Sequence[Aside]) -> None:
        """Note messages that were taken off a queue and could not be served."""
        with reachable():
            now = replies.milliseconds(self.redis.time())
            raw = [msgspec.msgpack.encode(dataclasses.replace(message, at=now)) for message in messages]
            pipe = self.redis.pipeline(transaction=True)
            pipe.lpush(self.keys.aside, *raw)
            pipe.ltrim(self.keys.aside, 0, ASIDE_KEPT - 1)
            pipe.hincrby(self.keys.counts_of_cluster, "aside", len(messages))
            pipe.execute()

    def count_aside(self) -> int:
        """How many messages have been set aside, as many as are kept."""
        with reachable():
            return int(self.redis.llen(self.keys.aside))

    def aside(self, limit: int = ASIDE_KEPT) -> list[Aside]:
        """The messages that were set aside, newest first."""
        with reachable():
            found = cast(list[bytes], self.redis.lrange(self.keys.aside, 0, limit - 1))
        return [msgspec.msgpack.decode(raw, type=Aside) for raw in found]

    def _branches(self, run: str, kind: str, block: str) -> dict[int, bytes]:
        with reachable():
            found = cast(dict[bytes, bytes], self.redis.hgetall(self.keys.block(run, kind, block)))
        return replies.branches(found)

    def _meant(self, run: str, created: int | None) -> str:
        if created is not None:
            return str(created)
        with reachable():
            found = cast(bytes | None, self.redis.hget(self.keys.run(run), "created"))
        return (found or b"").decode()

    def _in_time(
        self, run: str, block: str, track: int, token: str, created: int | None, started: float, served: Served
    ) -> Served:
        # Where the answer came late, what it leased may have been taken back: asked again before any of it is begun.
        # Where each answer is late, the server is slow, or far away, and nobody would ever begin.
        for _ in range(_ASKED_AGAIN):
            if not (served.leases or served.resumed) or time.monotonic() - started <= _LATE:
                break
            started = time.monotonic()
            if served.resumed is not None:
                resumed = served.resumed
                if not self.holds(run, resumed.block, resumed.lease.branch, token):
                    served = dataclasses.replace(served, resumed=None)
                continue
            # No lane holds fewer than none, so this is answered with all that it holds.
            args = replies.serve_args(block, track, token, 0, -1, (), (), created)
            now = self._served(run, self._transition("serve", run, args))
            served = dataclasses.replace(
                now, messages=served.messages + now.messages, late=served.late + now.late, resync=True
            )
        return served

    def _served(self, run: str, reply: Sequence[Any]) -> Served:
        served = replies.served(reply)
        return dataclasses.replace(served, messages=self._go_on(run, served.messages))

    def _go_on(self, run: str, wanted: tuple[Message, ...]) -> tuple[Message, ...]:
        # What is too much for one call is asked for in others, so that whoever else asks is served in between.
        while any(message.kind == _TIDY for message in wanted):
            more = replies.messages(self._transition("tidy", run, []))
            wanted = (*(message for message in wanted if message.kind != _TIDY), *more)
        ended = [message.block for message in wanted if message.kind == _ENDED]
        if ended:
            spans.of_ended(self, run, ended)
            wanted = tuple(message for message in wanted if message.kind != _ENDED)
        return wanted

    def _keys(self, run: str) -> tuple[str, ...]:
        return (self.keys.run(run), self.keys.agenda, self.keys.runs)

    def transition(self, name: str, run: str, args: Sequence[Any]) -> Any:
        """A transition of a run that another module gives its face."""
        return self._transition(name, run, args)

    def call(self, name: str, key: str, args: Sequence[Any]) -> Any:
        """A transition of no run that another module gives its face."""
        return self._calls.one(name, (key, self.keys.agenda, self.keys.runs), args)

    def _transition(self, name: str, run: str, args: Sequence[Any]) -> Any:
        return self._calls.one(name, self._keys(run), args)

"""A lane: lease a branch, execute, commit, again, until the block is dry; then go on with what that made possible."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]

from egregore_dist import errors
from egregore_dist.engine import (
    announce,
    databases,
    leaving,
    leftovers,
    observer,
    others,
    publish,
    sentry,
    threads,
    traced,
    widths,
)
from egregore_dist.engine import compile as compiler
from egregore_dist.engine.batch import Batch
from egregore_dist.engine.execute import Again, Job, NodeTimeout, acall, call, raised
from egregore_dist.engine.interpret import Done, Meet, Value
from egregore_dist.engine.interrupt import ATTEND_EVERY, Interrupt
from egregore_dist.engine.loop import Loop
from egregore_dist.engine.outcome import Inputs
from egregore_dist.engine.place import NotLoaded, Place
from egregore_dist.engine.runtime import Runtime, Workload
from egregore_dist.engine.spending import Spending
from egregore_dist.engine.turn import Turn
from egregore_dist.engine.turns import Turns
from egregore_dist.ledger import LEAVE, UNTIMED, BlockRecord, Commit, Entered, Lease, NewBlock, Served, Waiting
from egregore_dist.ledger.keys import ROOT
from egregore_dist.resources import needs, router
from egregore_dist.wire import failure
from egregore_dist.wire.failure import Failure

log = logging.getLogger(__name__)

T = TypeVar("T")

Execution = Generator[Job, Value, Done | Meet]

# A lease that lasts under the first is doubled, so that tiny branches share a round trip; one that lasts over the
# second is cut short, so that others get what is left of it. Seconds.
SHORT, LONG = 0.010, 0.030
MOST_LEASED = 1024

# The values of blocks of few branches are kept at hand, so many bytes of them at most.
_KEPT = 2**20

# A message that comes twice may be served twice at a time in one process: tokens differ all the same.
_numbers = itertools.count()

# The lane that opened a block asks for others after so many seconds.
HELP_AFTER = 0.005

_NO_LIMIT = nullcontext()

# How often a lane of many asks whether its block has ended, in seconds.
_ASK_EVERY = 1.0

# A branch that cannot be begun for so many seconds after its lease (its input comes late) may be another's by then.
_LATE = 1.0

# A server's clock that was set back lets a block go on for longer than a lane had told: the lane waits so many seconds
# for the end, before it begins again what it has stopped.
_EARLY = 1.0


_OWN_ALARM = (
    "SIGALRM came, and nothing was set to handle it: a node that calls signal.alarm or signal.setitimer needs a handler"
    " of its own; its timeout= needs none"
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A branch met a block, and is parked. ``entered``: this lane is one of the block's lanes, and has come to it."""

    block: str
    entered: Entered | None = None


@dataclass(frozen=True, slots=True)
class Next:
    """Where a lane goes on: a block to come to or come to already, or a branch of it that is leased to this lane."""

    block: str
    track: int
    lease: Lease | None = None
    entered: Entered | None = None


class Lane:
    """One lane of a run in this process.

    Args:
        worker: the name of the worker.
        id: the id of the Celery task. With worker and process it makes the token that leases belong to.
        created: when the run was submitted, in server milliseconds: of one that has its id since the lane serves
            nothing. None for whichever run has the id.
    """

    def __init__(self, runtime: Runtime, run: str, *, worker: str, id: str, created: int | None = None) -> None:
        self._runtime = runtime
        self._ledger = runtime.ledger
        runtime.logbook.worker = worker
        self._run = run
        self._worker = worker
        self._id = id
        self._created = created
        self._token = f"{worker}/{os.getpid()}/{id}.{next(_numbers)}"
        self._load: Workload | None = None
        self._trace: traced.Trace | None = None
        self._inputs = Inputs(runtime.ledger, run)
        self._places: dict[tuple[str, int], Place] = {}
        self._dry: set[tuple[str, int]] = set()
        self._loop = Loop()
        self._committer: ThreadPoolExecutor | None = None
        self._turn = Turn(lambda since: others.wait(since, has_room=self._has_room))
        self._has_room = False
        # The block that this lane is at with what it goes through there; and those that it has called others to before.
        self._at: tuple[str, Batch] | None = None
        self._called: set[str] = set()

    def serve(self, block: str, track: int) -> None:
        """Serve a block until it is dry, and then whatever block its end or its branches lead to."""
        following: Next | None = Next(block, track)
        board = self._runtime.board
        try:
            while following is not None:
                following = self._come_to(following)
        finally:
            widths.forget(self._id)
            board.stop()
            self._loop.close()
            if self._committer is not None:
                self._committer.shutdown()
            board.leave()

    def _come_to(self, to: Next) -> Next | None:
        if self._leaves():
            return self._leave(to)
        entered = None
        load = self._load or self._runtime.known_workload(self._run)
        self._runtime.board.come(self._run, to.block, to.track, self._token)
        if to.lease is None:
            entered = to.entered or self._ledger.enter(
                self._run,
                to.block,
                to.track,
                self._token,
                work=self._load is None,
                known=None if load is None else load.created,
                created=self._created,
            )
            if entered is None:
                self._runtime.set_aside(self._run, to.block, self._token)
                return None
            if entered.input is not None:
                self._inputs.put(to.block, entered.input)
            self._publish(entered.served)
            record, now, leases = entered.record, entered.now, list(entered.served.leases)
            if not leases:
                is_open = entered.served.state == "open"
                return self._beside(record, to.track) if is_open else _resumed(entered.served)
        elif (known := self._places.get((to.block, to.track))) is not None:
            return self._serve_place(known, [to.lease])
        else:
            try:
                record, now = self._ledger.look(self._run, to.block, self._created)
            except errors.RunNotFound:
                return None
            leases = [to.lease]
        if self._load is None:
            assert entered is not None
            try:
                self._load = load if entered.work is None else self._runtime.workload(self._run, entered.work)
            except Exception as error:
                assert entered.work is not None
                self._created = entered.work.created
                self._refuse(record, to.track, leases, error)
                return None
            assert self._load is not None
            self._created = self._load.created
            self._trace = traced.of_run(self._ledger, self._load, self._worker)
        self._has_room = needs.of(record.queues[to.track]).takes_room
        place = Place(self._runtime, self._load, self._inputs, record, to.track, now)
        self._places[to.block, to.track] = place
        return self._serve_place(place, leases)

    def _leaves(self) -> bool:
        return leaving.told() or self._turn.is_over()

    def _leave(self, to: Next) -> Next | None:
        # Whatever it was leased there is for others.
        leases = (
            [to.lease] if to.lease is not None else list(to.entered.served.leases) if to.entered is not None else []
        )
        served = self._ledger.serve(
            self._run,
            to.block,
            to.track,
            self._token,
            want=LEAVE,
            releases=[lease.branch for lease in leases],
            created=self._created,
        )
        self._publish(served)
        return _resumed(served)

    def _serve_place(self, place: Place, leases: list[Lease]) -> Next | None:
        widths.tell(self._id, place.width)
        self._runtime.board.serve(place.left(), loop=place.wide, width=place.width)
        try:
            if place.wide:
                self._runtime.interrupter.prepare()
                return self._loop.run(self._serve_wide(place, leases))
            return self._serve_narrow(place, leases)
        finally:
            if len(place.record.queues) == 1:
                # Where this lane was quick, nobody else is needed any more.
                self._runtime.later.drop(self._key(place.record.id))
            if place.record.n > 1:
                # It is not come back to; a block of one branch is, when that goes on.
                self._places.pop((place.record.id, place.track), None)

    def _beside(self, record: BlockRecord, track: int) -> Next | None:
        # Tracks are planned to share the slots: where one is dry, its slot is for the others that may run here.
        self._dry.add((record.id, track))
        for other, queue in enumerate(record.queues):
            # A lane was admitted with what so many branches need.
            fits = record.widths[other] <= record.widths[track] or not needs.of(queue).has_sizes
            if queue == record.queues[track] and fits and (record.id, other) not in self._dry:
                return Next(record.id, other)
        return None

    # One branch at a time

    def _serve_narrow(self, place: Place, leases: list[Lease]) -> Next | None:
        want = self._known_lease(place)
        # What is shared asks for no more than is held, so its answer has nothing that the lane needs.
        batch = Batch(
            lambda commits, releases, calls: self._commit(
                place, want=1, held=1, commits=commits, releases=releases, calls=calls
            )
        )
        values: dict[int, bytes] = {}
        while leases:
            started = now = time.monotonic()
            opened: Opened | None = None
            end: Commit | Opened | None = None
            batch.take(leases)
            self._at = place.record.id, batch
            lease = batch.next()
            if place.record.id in self._called:
                self._called.discard(place.record.id)
                batch.share(calls=False)
            while lease is not None:
                execute = self._show if self._is_watched() else self._execute
                end = execute(place, lease, batch)
                before, now = now, time.monotonic()
                if now - before > leftovers.QUICKEST:
                    leftovers.end()
                databases.branch_ended()
                if isinstance(end, Commit):
                    batch.add(end)
                elif isinstance(end, Opened):
                    opened = end
                fails = isinstance(end, Commit) and end.kind == "error" and place.record.on_error == "cancel"
                if end is None or fails or now - started > LONG or leaving.told() or _ends_soon(place):
                    break
                lease = batch.next()
            self._runtime.board.rest()
            if end is None and place.left() == 0:
                early = self._early(place)
                self._runtime.board.serve(place.left(), loop=False)
                time.sleep(early)
            commits, releases = batch.rest()
            if opened is not None and place.record.n == 1:
                # The only branch is parked, so there is nothing left to serve here.
                return Next(opened.block, 0, entered=opened.entered) if opened.entered is not None else None
            # Only where a long node is attended to may others be leased with it.
            if not place.limited and self._batches(place.shape, place.track):
                lasted = time.monotonic() - started
                want = min(2 * want, MOST_LEASED) if lasted < SHORT else max(1, want // 2) if lasted > LONG else want
                if _ends_soon(place):
                    want = 1
            served = self._commit(
                place, want=LEAVE if self._leaves() else want, held=0, commits=commits, releases=releases
            )
            if place.record.n <= router.FEW:
                values.update((commit.branch, commit.payload) for commit in commits if commit.kind == "ok")
                if served.late or served.resync or sum(map(len, values.values())) > _KEPT:
                    # Some of them may not be what the ledger has, or they are too many bytes to hold.
                    values.clear()
            if served.state != "open":
                if len(values) == place.record.n:
                    # Whoever goes on after the block here need not ask for what this lane has just said.
                    self._inputs.keep(place.record, values)
                return _resumed(served)
            leases = list(served.leases)
        return self._beside(place.record, place.track)

    def _known_lease(self, place: Place) -> int:
        # Where it was learned how long branches take, leases need not grow to their size. Half: the first is doubled.
        # A track that was made since is of branches whose processes have died.
        is_planned = place.track < len(place.shape.parts) and not place.limited
        if place.record.n <= router.FEW or not (is_planned and self._batches(place.shape, place.track)):
            return 1
        return max(1, self._first_lease(place.shape, place.track) // 2)

    def _first_lease(self, shape: compiler.Shape, track: int) -> int:
        assert self._load is not None
        return router.first_lease(self._runtime.learning.of(self._load.functions)(shape.parts[track].chains))

    def _batches(self, shape: compiler.Shape, track: int) -> bool:
        is_limited = track < len(shape.parts) and shape.parts[track].kind.limit is not None
        usable = self._runtime.interrupter.usable
        return usable and router.leases_many(batched=shape.batched, limited=is_limited)

    def _execute(self, place: Place, lease: Lease, batch: Batch) -> Commit | Opened | None:
        board, interrupter = self._runtime.board, self._runtime.interrupter
        since = board.begin(lease.branch, lease.attempt)

        def attend() -> bool:
            # This branch takes long: others shall not wait for it, and it may not be this lane's any more.
            batch.share()
            if place.holds(lease.branch, self._token):
                return False
            board.ask(since)
            return True

        def limit(seconds: float | None) -> AbstractContextManager[None]:
            assert job is not None
            board.call(job.node.name, job.attempts, job.calls, job.timeout_retries, seconds)
            return _NO_LIMIT if seconds is None else interrupter.limit(seconds, board.called)

        node: str | None = None
        job: Job | None = None
        spending: Spending | None = None
        try:
            with interrupter.guard(place.left(), attend):
                execution = place.execute(lease)
                job, end = _first(execution)
                if time.monotonic() - since > _LATE and not place.holds(lease.branch, self._token):
                    raise Interrupt
                self._turn.came()
                while job is not None:
                    node = job.node.name
                    if job.node.retries:
                        job.waits = partial(self._waits, place, lease)
                    try:
                        value = call(job, self._loop, limit)
                    except Again as again:
                        self._waits(place, lease, job, again.seconds, call=job.calls + 1)
                        self._give_place(place, lease)
                        time.sleep(again.seconds)
                        return _again(lease, again)
                    if job.measure is not None or job.attempts > 1:
                        spending = (spending or Spending(lease)).add(job)
                    was, (job, end) = job.node, _then(execution, value)
                    if was.limit is not None and not isinstance(end, Done):
                        self._give_place(place, lease)
            assert end is not None
            if isinstance(end, Meet):
                return self._open(place, lease, end, since, spending)
            told = None if spending is None else spending.told()
            return Commit(lease.branch, "ok", end.value.raw, place.times(lease, since), told)
        except Interrupt:
            if interrupter.is_stray and place.holds(lease.branch, self._token):
                # Leased again, it would do so again, and nobody would hear of it.
                return _gave_up(place, lease, RuntimeError(_OWN_ALARM), node, job, since, spending)
            return None
        except BaseException as error:
            _let_go(error)
            return _gave_up(place, lease, error, node, job, since, spending)

    def _waits(self, place: Place, lease: Lease, job: Job, seconds: float, call: int | None = None) -> None:
        waiting = Waiting(
            block=place.record.id,
            branch=lease.branch,
            token=self._token,
            seconds=seconds,
            call=call or job.calls,
            most=job.node.retries + 1,
            node=job.node.name,
        )
        self._runtime.backoffs.tell(self._run, waiting)

    def _give_place(self, place: Place, lease: Lease) -> None:
        # The node that has the limit has ended, and the branch goes on without.
        tended = self._ledger.give_place(self._run, place.record.id, lease.branch, self._token)
        self._runtime.places.follow(self._run, tended)

    def _is_watched(self) -> bool:
        return self._trace is not None or announce.wanted() or sentry.is_active()

    def _show(self, place: Place, lease: Lease, batch: Batch) -> Commit | Opened | None:
        # The same, where somebody looks at Celery's events, traces, or has Sentry.
        since = self._announce(place, lease)
        with observer.follow(place, lease, self._observers(place, lease)) as told:
            told.end = end = self._execute(place, lease, batch)
        if not isinstance(end, Opened):
            self._announce_end(place, lease, end, since)
        return end

    def _observers(self, place: Place, lease: Lease) -> list[observer.Observer]:
        assert self._load is not None
        observers: list[observer.Observer] = []
        if self._trace is not None:
            observers.append(traced.BranchSpans(self._trace, place, lease))
        if sentry.is_active():
            observers.append(sentry.BranchEvents(self._load, place, lease))
        return observers

    def _announce(self, place: Place, lease: Lease) -> float:
        since = time.monotonic()
        # What goes on after a block has begun already, and the one branch of a whole run is no branch of a block.
        if announce.wanted() and not lease.after and place.record.id != ROOT:
            self._runtime.announcer.begin(self._worker, place.shown(lease, since))
        return since

    def _announce_end(self, place: Place, lease: Lease, end: Commit | None, since: float) -> None:
        if announce.wanted() and place.record.id != ROOT:
            shown = place.shown(lease, since)
            self._runtime.announcer.end(self._worker, shown.id, end, place.took(lease, since))

    def _open(self, place: Place, lease: Lease, meet: Meet, since: float, spending: Spending | None) -> Opened | None:
        assert self._load is not None
        self._runtime.board.rest()
        self._tell(place, [lease.branch])
        shape = self._load.shape(meet.path, place.queue)
        block = compiler.new_block(
            meet,
            shape,
            parent=place.record.id,
            branch=lease.branch,
            n=place.size(meet),
            settings=self._runtime.settings,
            cluster=self._runtime.cluster(),
            knows=self._runtime.learning.of(self._load.functions),
            since=time.monotonic() - since,
            calls=() if spending is None else spending.failed_calls,
        )
        run, parent, token = self._run, place.record.id, self._token
        fits = block.tracks[0].width == 1 or not needs.of(place.queue).has_sizes
        if not (shape.optimize and place.record.n == 1 and block.tracks[0].queue == place.queue and fits):
            if self._ledger.open(run, parent, lease, place.track, token, block) is None:
                return None
            self._publish_block(block, place, False)
            return Opened(block.id)
        want = self._first_of(block, shape)
        parked, entered = self._ledger.begin(
            run, parent, lease, place.track, token, block, want=want, created=self._created
        )
        if not parked:
            # Whoever has the branch now has opened the block: what this lane was leased of it, it serves.
            return Opened(block.id, entered) if entered is not None and entered.served.leases else None
        # This lane begins at once; tiny blocks have ended before others could be there.
        if sum(track.lanes for track in block.tracks) > 1:
            # In the context of this task, so that those who trace messages see where they come from.
            ask = partial(contextvars.copy_context().run, self._call_others, block, place)
            self._runtime.later.put(self._key(block.id), HELP_AFTER, ask)
        return Opened(block.id, entered)

    def _first_of(self, block: NewBlock, shape: compiler.Shape) -> int:
        # Until it calls others this lane is alone with the block: what is known to be quick it takes in one round trip.
        if len(block.tracks) > 1 or block.tracks[0].width > 1 or shape.parts[0].kind.io or not self._batches(shape, 0):
            return 0
        return min(block.n, self._first_lease(shape, 0))

    def _call_others(self, block: NewBlock, place: Place) -> None:
        # They are to find what this lane was leased and has not begun. It looks when it comes, if it has not come yet.
        self._called.add(block.id)
        try:
            if (at := self._at) is not None and at[0] == block.id:
                self._called.discard(block.id)
                at[1].share(calls=False)
        finally:
            self._publish_block(block, place, True)

    def _publish_block(self, block: NewBlock, place: Place, here: bool) -> None:
        publish.block(
            self._runtime.app,
            self._run,
            block,
            parent_queue=place.queue,
            here=here,
            left=place.left(),
            created=place.created,
        )

    def _key(self, block: str) -> str:
        return f"{self._token} {block}"

    # Many branches at a time

    async def _serve_wide(self, place: Place, leases: list[Lease]) -> Next | None:
        tasks: dict[asyncio.Task[Commit | None], Lease] = {}
        ask_after, most = 0.0, 0
        try:
            while True:
                for lease in leases:
                    execute = self._ashow if self._is_watched() else self._aexecute
                    tasks[asyncio.create_task(execute(place, lease, time.monotonic()))] = lease
                if not tasks:
                    return self._beside(place.record, place.track)
                most = max(most, len(tasks))
                left = place.left()
                # Where branches wait for their limit, another run may give back a place, or its rate have one.
                every = ask_after or _ASK_EVERY
                wait = every if left is None else min(every, left)
                done, _ = await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                ends = [_end_of(task, tasks.pop(task)) for task in done]
                commits = [end for end in ends if end is not None]
                if not tasks:
                    await self._aside(leftovers.end)
                    await self._aside(databases.branch_ended)
                if place.left() == 0:
                    early = await self._aside(self._early, place)
                    self._runtime.board.serve(place.left(), loop=True)
                    await asyncio.sleep(early)
                served = await self._aside(self._commit_wide, place, len(tasks), most, commits)
                if served.state != "open":
                    if tasks:
                        await self._end(tasks)
                        # Only now does nothing of the block run here any more.
                        await self._aside(self._commit_wide, place, 0, most, [])
                    return _resumed(served)
                leases, ask_after = list(served.leases), served.ask_after
                if served.resync:
                    leases = _agree(tasks, leases)
        finally:
            await self._end(tasks)
            leftovers.end()

    def _aside(self, act: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        # Never on the loop's own executor: there, nodes may have filled every thread.
        if self._committer is None:
            self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        return asyncio.get_running_loop().run_in_executor(self._committer, act, *args)

    def _commit_wide(self, place: Place, held: int, most: int, commits: list[Commit]) -> Served:
        # What would begin beside a node that does not stop may have to begin again.
        want = LEAVE if self._leaves() or self._runtime.board.is_overdue else 0
        if held:
            self._turn.extend(held, most)
        return self._commit(place, want=want, held=held, commits=commits, releases=())

    async def _end(self, tasks: dict[asyncio.Task[Commit | None], Lease]) -> None:
        if not tasks:
            return
        self._runtime.board.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()

    async def _ashow(self, place: Place, lease: Lease, leased: float) -> Commit | None:
        # The same, where somebody looks at Celery's events, traces, or has Sentry.
        since = self._announce(place, lease)
        try:
            with observer.follow(place, lease, self._observers(place, lease)) as told:
                told.end = end = await self._aexecute(place, lease, leased)
        except asyncio.CancelledError:
            self._announce_end(place, lease, None, since)
            raise
        self._announce_end(place, lease, end, since)
        return end

    async def _aexecute(self, place: Place, lease: Lease, leased: float) -> Commit | None:
        node: str | None = None
        job: Job | None = None
        spending: Spending | None = None

        def is_lost() -> bool:
            return place.left() == 0 or not place.holds(lease.branch, self._token)

        context = contextvars.copy_context()
        since = time.monotonic()

        def on_thread(body: Callable[[], Any], name: str) -> Awaitable[threads.Ended[Any]]:
            return threads.call(
                body, self._runtime.raiser, name=name, context=context, left=place.left(), is_lost=is_lost
            )

        def turns(job: Job) -> Turns:
            return Turns(
                self._runtime.board,
                self._runtime.interrupter,
                is_lost,
                branch=lease.branch,
                attempt=job.attempts,
                node=job.node.name,
                calls=job.calls,
                retries=job.timeout_retries,
                timeout=job.node.timeout,
                on_loop=job.node.is_async,
            )

        try:
            execution = place.execute(lease)
            job, end = _first(execution)
            if time.monotonic() - leased > _LATE and is_lost():
                raise Interrupt
            self._turn.came()
            while job is not None:
                node = job.node.name
                if job.node.retries:
                    job.waits = partial(self._waits, place, lease)
                try:
                    value = await acall(job, turns, on_thread)
                except Again as again:
                    self._waits(place, lease, job, again.seconds, call=job.calls + 1)
                    await self._aside(self._give_place, place, lease)
                    await asyncio.sleep(again.seconds)
                    return _again(lease, again)
                if job.measure is not None or job.attempts > 1:
                    spending = (spending or Spending(lease)).add(job)
                was, (job, end) = job.node, _then(execution, value)
                if was.limit is not None and job is not None:
                    await self._aside(self._give_place, place, lease)
            assert isinstance(end, Done)
            told = None if spending is None else spending.told()
            return Commit(lease.branch, "ok", end.value.raw, place.times(lease, since), told)
        except Interrupt:
            # It is not this lane's any more, or its block's time is over.
            return None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _gave_up(place, lease, error, node, job, since, spending)
        except BaseException as error:
            _let_go(error)
            return _gave_up(place, lease, raised(error), node, job, since, spending)

    # What both do

    def _early(self, place: Place) -> float:
        # The block's time is over here, but the server's clock decides: seconds to wait until it may say so too.
        try:
            place.time(*self._ledger.look(self._run, place.record.id, self._created))
        except errors.RunNotFound:
            return 0.0
        return min(place.left() or 0.0, _EARLY)

    def _commit(
        self,
        place: Place,
        *,
        want: int,
        held: int,
        commits: list[Commit],
        releases: list[int] | tuple[int, ...],
        calls: bool = True,
    ) -> Served:
        self._tell(place, [commit.branch for commit in commits])
        served = self._ledger.serve(
            self._run,
            place.record.id,
            place.track,
            self._token,
            want=want,
            held=held,
            commits=commits,
            releases=releases,
            created=self._created,
        )
        self._publish(served, but_for=None if calls else place.record.id)
        if served.late:
            log.warning(
                "run %s, block %s: %d results came too late and are dropped",
                self._run,
                place.record.name,
                served.late,
                extra={"action": "late_commit", "run_id": self._run},
            )
        return served

    def _tell(self, place: Place, branches: list[int]) -> None:
        # Whoever learns that they have ended, or met a block, finds all that they said.
        if self._runtime.logbook.waits:
            self._runtime.logbook.write([(self._run, place.created, place.record.id, branch) for branch in branches])

    def _publish(self, served: Served, *, but_for: str | None = None) -> None:
        if served.alarms:
            self._runtime.places.set(served.alarms)
        messages = [each for each in served.messages if each.kind != "lane" or each.run or each.block != but_for]
        if messages:
            publish.messages(self._runtime.app, self._run, messages)

    def _refuse(self, record: BlockRecord, track: int, leases: list[Lease], error: Exception) -> None:
        # All that this lane could lease fails in the same way.
        while leases:
            commits = [_failed(lease, error, None, None) for lease in leases]
            served = self._ledger.serve(
                self._run, record.id, track, self._token, commits=commits, created=self._created
            )
            self._publish(served)
            if served.resumed is not None:
                parent, _ = self._ledger.look(self._run, served.resumed.block, self._created)
                self._refuse(parent, served.resumed.track, [served.resumed.lease], error)
            leases = list(served.leases)


def _ends_soon(place: Place) -> bool:
    # A long branch is attended to too late then for those before and behind it to be told from it at the end.
    left = place.left()
    return left is not None and left < 2 * ATTEND_EVERY


def _first(execution: Execution) -> tuple[Job | None, Done | Meet | None]:
    return _step(lambda: next(execution))


def _then(execution: Execution, value: Value) -> tuple[Job | None, Done | Meet | None]:
    return _step(lambda: execution.send(value))


def _step(advance: Callable[[], Job]) -> tuple[Job | None, Done | Meet | None]:
    # Kept apart from the node's call, so that a StopIteration of the node's own is a failure and not an end.
    try:
        return advance(), None
    except StopIteration as stop:
        return None, stop.value


def _let_go(error: BaseException) -> None:
    # A process that is told to end raises this in whatever it runs: its branches are not to blame, and run elsewhere.
    if isinstance(error, SystemExit) and terminate_handler_fired():
        raise error


def _failed(
    lease: Lease,
    error: BaseException,
    node: str | None,
    job: Job | None,
    times: tuple[int, int] = UNTIMED,
    spending: Spending | None = None,
) -> Commit:
    found = Failure.of(error, node=node, attempt=job.attempts if job is not None else lease.attempt)
    if isinstance(error, NodeTimeout):
        found = msgspec.structs.replace(found, kind="timeout", type=TimeoutError.__name__)
    spending = spending or Spending(lease)
    told = (spending if job is None else spending.add(job)).told(node or "")
    return Commit(lease.branch, "error", failure.encode(found), times, told)


def _gave_up(
    place: Place,
    lease: Lease,
    error: BaseException,
    node: str | None,
    job: Job | None,
    since: float,
    spending: Spending | None,
) -> Commit:
    if isinstance(error, NotLoaded):
        # The one that was called last is another one.
        node, job, error = error.node, None, error.reason
    for each in place.observers.get(lease.branch, ()):
        each.gave_up(error, node)
    return _failed(lease, error, node, job, place.times(lease, since), spending)


def _again(lease: Lease, again: Again) -> Commit:
    payload = f"{again.job.calls} {again.job.node.name}".encode()
    return Commit(lease.branch, "again", payload, spent=Spending(lease).add(again.job).told())


def _resumed(served: Served) -> Next | None:
    resumed = served.resumed
    return None if resumed is None else Next(resumed.block, resumed.track, resumed.lease)


def _end_of(task: asyncio.Task[Commit | None], lease: Lease) -> Commit | None:
    # Nobody here cancels a task and waits for it, so one that was cancelled did that to itself.
    if task.cancelled():
        return _failed(lease, asyncio.CancelledError("the node cancelled its own task"), None, None)
    return task.result()


def _agree(tasks: dict[asyncio.Task[Commit | None], Lease], held: list[Lease]) -> list[Lease]:
    # Stop what the ledger took away, and start what it gave while its answer was lost.
    branches = {lease.branch for lease in held}
    for task in [task for task, lease in tasks.items() if lease.branch not in branches]:
        task.cancel()
        del tasks[task]
    mine = {lease.branch for lease in tasks.values()}
    return [lease for lease in held if lease.branch not in mine]

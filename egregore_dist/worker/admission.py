"""Admits lanes that need much of this worker's machine, and no more than it has room for.

It is asked on the thread that consumes, before a lane gets a slot. What finds no room goes back to its queue, which
this worker consumes no more until there is some: so a worker of another machine may take it, and nobody turns in
circles.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.engine.queues import Queues
from egregore_dist.ledger.rooms import Answer, Bounds, Grant, Rooms
from egregore_dist.resources import needs, report, router
from egregore_dist.resources.report import Report
from egregore_dist.worker import pool
from egregore_dist.worker.intake import Intake
from egregore_dist.worker.periodic import Periodic

log = logging.getLogger(__name__)

# Seconds between two looks while lanes wait for room, or have some.
_LOOK_EVERY = 0.2
# For so long the thread that consumes does not ask a ledger that has not answered.
_LEFT_ALONE = 5.0

# More memory, and more cores, than any machine has.
_UNBOUNDED = 2**50


# Run, block and track.
Of = tuple[str, str | None, int]


class Admission(Periodic):
    """Reserves what lanes need while they run, in the ledger; nothing is asked for those that need little."""

    name = "egregore-admission"
    requires = ("egregore_dist.worker.steps:Heartbeat",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        parent.egregore_admission = self
        self._worker = parent
        self._intake: Intake = parent.egregore_intake
        # Held over calls: else a lane that is just admitted could be taken for one that the worker does not have.
        self._lock = threading.Lock()
        self._admitted: dict[str, Grant] = {}
        self._coming: set[str] = set()
        # By queue whose lane was refused: what it is to do. And queues that are open for one that has its turn.
        self._refused: dict[str, Of | None] = {}
        self._turns: set[str] = set()
        self._rooms: Rooms | None = None
        self._told = 0.0
        self._away_until = 0.0
        self._somebody_waits = False

    def interval(self) -> float:
        return _LOOK_EVERY if self._admitted or self._turns or self._intake.closed() else self.settings.report_interval

    def begin(self, parent: Any) -> None:
        self._queues = Queues(parent.app)
        self._rooms = Rooms(self.ledger, report.host(), parent.hostname, ttl=self.settings.report_ttl)
        # What an earlier worker of this name had is given back in the first round that reaches the ledger.
        self._told = 0.0

    def serve(self, message: Any, handle: Callable[[], None], drop: Callable[[], None]) -> None:
        """Have a lane's message handled, if there is room for the lane; else it goes back to its queue.

        Called on the thread that consumes.

        Args:
            drop: acknowledges the message of a lane that has nothing to do any more.
        """
        info = message.delivery_info if isinstance(message.delivery_info, Mapping) else {}
        queue = str(info.get("routing_key") or "")
        needed = needs.of(queue)
        if not needed.takes_room:
            handle()
            return
        lane = str(message.headers["id"])
        answer = self._admit(queue, lane, message)
        if answer is None or not (answer.has_room or answer.is_stale):
            message.requeue()
            # Not before: where nothing waits on the queue, it is opened again.
            self.hurry()
        elif answer.is_stale:
            drop()
        else:
            try:
                self._watch(message)
                handle()
            finally:
                self._coming.discard(lane)

    def is_short(self) -> bool:
        """Whether lanes of this worker have what others wait for."""
        return bool(self._admitted) and (self._somebody_waits or bool(self._intake.closed()))

    def stop(self, _parent: Any) -> None:
        """Go on: the pool is stopped after this step, and until then its lanes end one by one."""

    def tick(self, _parent: Any) -> None:
        self._sync()
        for queue in {*self._intake.closed(), *self._turns}:
            self._look(queue)
        if not self._intake.closed():
            self._queues.close()

    def _admit(self, queue: str, lane: str, message: Any) -> Answer | None:
        said = self._said()
        if queue in self._intake.closed():
            return None
        if said is None or self._rooms is None:
            self._close(queue, "this worker has not reported yet")
            return None
        if time.monotonic() < self._away_until:
            self._close(queue, "the ledger cannot be reached")
            return None
        arguments = message.payload[0]
        is_lane = message.headers["task"] == apps.LANE
        of = (arguments[0], arguments[1], arguments[2]) if is_lane else (arguments[0], None, 0)
        try:
            with self._lock:
                answer = self._ask(queue, lane, said, of)
                if answer.has_room:
                    self._admitted[lane] = answer.grant
                    self._coming.add(lane)
                    self._turns.discard(queue)
        except errors.BrokerUnavailable:
            self._away_until = time.monotonic() + _LEFT_ALONE
            self._close(queue, "the ledger cannot be reached")
            return None
        self._refused[queue] = None
        if not (answer.has_room or answer.is_stale):
            self._refused[queue] = of
            self._close(queue, _why(queue, said, answer))
        return answer

    def _watch(self, message: Any) -> None:
        # When the lane ends, others may be waiting for what it has.
        for name in ("ack_log_error", "reject_log_error"):
            setattr(message, name, self._then_look(getattr(message, name)))

    def _then_look(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*args: Any, **kwargs: Any) -> Any:
            self.hurry()
            return act(*args, **kwargs)

        return acted

    def _sync(self) -> None:
        if self._rooms is None:
            return
        with self._lock:
            ended = self._admitted.keys() - {*pool.lanes(), *self._coming}
            due = time.monotonic() >= self._told + self.settings.report_interval
            if not (ended or (due and (self._admitted or not self._told))):
                return
            has = {lane: grant for lane, grant in self._admitted.items() if lane not in ended}
            self._somebody_waits = self._rooms.sync(has)
            self._admitted = has
            self._told = time.monotonic()

    def _look(self, queue: str) -> None:
        said = self._said()
        if said is None or self._rooms is None:
            return
        if not router.serves(said, queue):
            # Its machine has become too small; whoever waits is not to wait for this one.
            self._rooms.leave(queue)
            self._turns.discard(queue)
            self._close(queue, "this machine is too small now")
        elif self._intake.reasons() or self._queues.waiting([queue]) == 0:
            self._rooms.leave(queue)
            self._turns.discard(queue)
            self._intake.open(queue)
        else:
            answer = self._ask(queue, "", said, self._refused.get(queue))
            if answer.has_room or answer.is_stale:
                # It has its turn until a lane has come; one that has nothing to do is found to be so when it does.
                self._turns.add(queue)
                self._intake.open(queue)
            else:
                self._close(queue, _why(queue, said, answer))

    def _ask(self, queue: str, lane: str, said: Report, of: Of | None) -> Answer:
        assert self._rooms is not None
        needed = needs.of(queue)
        return self._rooms.admit(queue, lane, memory=needed.most_memory, cores=needed.cpus, bounds=_bounds(said), of=of)

    def _said(self) -> Report | None:
        found: Report | None = self._worker.egregore_heartbeat.said
        return found

    def _close(self, queue: str, why: str) -> None:
        if self._intake.close(queue, why):
            log.info("no room for a lane of queue %s: %s", queue, why, extra={"action": "no_room"})


def _bounds(said: Report) -> Bounds:
    # Who does not see its machine is bounded by its own groups alone.
    total = said.machine_total or (_UNBOUNDED if said.group else said.memory_total)
    return Bounds(
        group=said.group,
        memory=router.budget(said),
        machine=int(router.MEMORY_SHARE * total),
        cpu_group=said.cpu_group,
        cores=said.cores,
        machine_cores=said.machine_cores or (_UNBOUNDED if said.cpu_group else said.cores),
    )


def _why(queue: str, said: Report, answer: Answer) -> str:
    needed, bounds = needs.of(queue), _bounds(said)
    if answer.others_first:
        return "others wait there for longer"
    parts = []
    if needed.most_memory:
        parts.append(f"{router.size(answer.memory)} of {router.size(min(bounds.memory, bounds.machine))}")
    if needed.cpus:
        own = bounds.cores - answer.cores <= bounds.machine_cores - answer.machine_cores
        taken, most = (answer.cores, bounds.cores) if own else (answer.machine_cores, bounds.machine_cores)
        parts.append(f"{taken:g} of {most:g} cores")
    return f"{' and '.join(parts)} are reserved for {answer.lanes} lane{'' if answer.lanes == 1 else 's'} there"


def register(app: Celery) -> None:
    """Add the step to the workers of an app."""
    app.steps["worker"].add(Admission)

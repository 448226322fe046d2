"""The tuner of a worker: how many lanes it runs at a time, and whether it takes any, as its machine allows."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from celery import Celery

from egregore_dist.engine.control import PRESSED
from egregore_dist.engine.queues import Queues
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources import capacity, report, router
from egregore_dist.resources.report import Report
from egregore_dist.resources.router import MEMORY_PER_NODE
from egregore_dist.resources.steady import Number, Pressure
from egregore_dist.wire import registry
from egregore_dist.worker import pool
from egregore_dist.worker.livepool import LivePool
from egregore_dist.worker.periodic import Periodic
from egregore_dist.worker.steps import Heartbeat

log = logging.getLogger(__name__)

# Rounds for which the largest process of the pool is remembered, and seconds between two looks at what was learned.
_REMEMBERED, _LEARN_EVERY = 60, 30.0

# Derived queues are asked how many lanes wait there if one was sent there within so many milliseconds.
_USED_LATELY = 120_000

# A process that is at nothing is ended under pressure where it holds so much more than a new one would. Bytes.
_HOARD = 64 * 2**20

_ACKS_LATE = "as many as it runs at a time: a lane is acknowledged when it ends, and none waits here for a slot"


class Tuner(Periodic):
    """Applies what its machine's workers report to its own pool and consumer.

    A number that was given by hand stays; the memory is watched all the same. In an app of the user's own nothing is
    changed: its pool and its settings are theirs.
    """

    name = "egregore-tuner"
    requires = (Heartbeat,)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        parent.egregore_tuner = self
        app = parent.app
        self._worker = parent
        self._owns = bool(app.egregore_owns)
        self._tunes = self._owns and app.egregore_settings.tune
        self._started_by_hand = bool(app.egregore_by_hand)
        # The number by hand, where there is one, and the number that was decided last.
        self._hand: int | None = None
        self._size: int | None = None
        self._why = "the cores that it may use: what else runs on its machine is not known yet"
        self._lane = MEMORY_PER_NODE
        self._number = Number()
        self._pressure = Pressure()
        self._largest: deque[int] = deque(maxlen=_REMEMBERED)
        self._learned, self._learned_at = 0, -_LEARN_EVERY

    def interval(self) -> float:
        return self.settings.report_interval

    def begin(self, parent: Any) -> None:
        self._live = LivePool(parent)
        self._queues = Queues(parent.app)
        self._profiles = Profiles(self.ledger)

    def told(self) -> dict[str, Any]:
        """What the worker's report says of its size, by the report's fields."""
        by, why = self._by()
        return {
            "slots": self.slots(),
            "concurrency_by": by,
            "concurrency_why": why,
            "prefetch_why": _ACKS_LATE if self._owns else "as the settings of its own app say",
            "lane_memory": self._lane,
        }

    def slots(self) -> int:
        """How many lanes shall be at work at a time: of a pool that shrinks more are, until they have left."""
        slots = pool.slots(self._worker.pool)
        return slots if self._size is None else min(slots, self._size)

    def set(self, size: int | None) -> None:
        """Set the number by hand from now on, or, with None, leave it to the tuner. Called on the loop's thread.

        Raises:
            ValueError: this worker's pool cannot be changed; it says why.
        """
        if not self._owns:
            raise ValueError("its pool is that of its own app: use Celery's own pool_grow and pool_shrink")
        if not self._live.can_change:
            raise ValueError("its broker's transport has no event loop, so its pool keeps its size")
        if size is None and not self._tunes:
            raise ValueError("EGREGORE_TUNE is off here: give a number")
        self._hand, self._started_by_hand = size, False
        self._number = Number()
        if size is not None:
            self._size = size
            self._live.resize(size)
        self._worker.egregore_heartbeat.hurry()
        self.hurry()

    def tick(self, parent: Any) -> None:
        now = self.ledger.now()
        reports = report.read(self.ledger.reports().values(), now=now, ttl=self.settings.report_ttl)
        mine = next((said for said in reports if said.worker == parent.hostname), None)
        if mine is None:
            return
        self._weigh(mine, now)
        if self._tunes:
            self._watch_memory(parent, mine)
        if self._hand is None and not self._started_by_hand and self._tunes and self._live.can_change:
            self._decide(mine, reports, now)
        if self._size is not None:
            parent.consumer.call_soon(self._apply)

    def stop(self, _parent: Any) -> None:
        """A round that waits for a server is not waited for."""
        self._stopped.set()
        self.hurry()

    # The number

    def _by(self) -> tuple[capacity.By, str]:
        if self._hand is not None:
            return "hand", f"{self._hand}, set by hand while it runs"
        slots = pool.slots(self._worker.pool)
        if not self._owns:
            return "hand", f"{slots}, as its own app was started"
        if self._started_by_hand:
            return "hand", f"{slots}, given by hand when it was started (--concurrency)"
        if not self._tunes:
            return "hand", f"{slots}, as it was started: EGREGORE_TUNE is off"
        return "tuner", self._why

    def _decide(self, mine: Report, reports: Sequence[Report], now: int) -> None:
        needs = {said.worker: said.lane_memory for said in reports if said.lane_memory}
        found = capacity.tune(reports, self._waiting(mine, reports, now), needs, host=mine.host)[mine.worker]
        first = self._size is None
        size = mine.slots if self._size is None else self._size
        # Nobody has more before others have fewer.
        least, most = min(found.least, size + found.free), found.concurrency
        changed = max(min(size, most), least) if first else self._number.next(size, least, most, is_over=found.is_over)
        if first or changed != size or size == most:
            self._why = found.why
        self._size = changed
        if changed != size:
            log.info(
                "%d lanes at a time, after %d: %s", changed, size, found.why, extra={"action": "concurrency_changed"}
            )
            self._worker.egregore_heartbeat.hurry()

    def _waiting(self, mine: Report, reports: Sequence[Report], now: int) -> dict[str, int]:
        here = [said for said in reports if said.host == mine.host]
        queues = {queue for said in here for queue in said.queues}
        # Of one where lanes wait for longer, a janitor names it again.
        used = self.ledger.queues(since=now - _USED_LATELY)
        queues |= {queue for queue in used if any(router.serves(said, queue) for said in here)}
        return {queue: self._queues.waiting([queue]) or 0 for queue in sorted(queues)}

    def _apply(self) -> None:
        # It may be another one than when this was asked for.
        if self._size is not None:
            self._live.resize(self._size)

    # The memory

    def _weigh(self, mine: Report, now: int) -> None:
        is_prefork = mine.pool == "prefork"
        self._largest.append(max(mine.children.values(), default=0) if is_prefork else 0)
        if time.monotonic() >= self._learned_at + _LEARN_EVERY:
            self._learned_at = time.monotonic()
            functions = pool.functions(registry.of(self.settings.modules), mine, self.settings.queue)
            known = self._profiles.read(functions) if functions else {}
            self._learned = capacity.memory_of_lane(known.values(), now)
        own = _own_memory() if is_prefork else 0
        self._lane = max(MEMORY_PER_NODE, *self._largest, own + self._learned)

    def _watch_memory(self, parent: Any, mine: Report) -> None:
        was_on = self._pressure.is_on
        why = self._pressure.look(mine)
        if not why:
            parent.egregore_intake.release(PRESSED)
        else:
            parent.egregore_intake.hold(PRESSED, why)
            hoards = {pid for pid, memory in mine.children.items() if memory > _own_memory() + _HOARD}
            if mine.pool == "prefork" and self._live.can_change and hoards:
                # What a process has once had it keeps; where nothing runs, nobody else would give memory back.
                parent.consumer.call_soon(self._live.renew, hoards)
        if self._pressure.is_on != was_on:
            log.warning(
                "memory pressure: %s" if why else "memory pressure is over%s",
                why,
                extra={"action": "memory_pressure" if why else "memory_pressure_over"},
            )


def _own_memory() -> int:
    return sum(report.memory_of([os.getpid()]).values())


def register(app: Celery, *, by_hand: bool) -> None:
    """Add the step to the workers of an app.

    Args:
        by_hand: whether the number of lanes was given.
    """
    app.egregore_by_hand = by_hand  # type: ignore[attr-defined]
    app.steps["worker"].add(Tuner)

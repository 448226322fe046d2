"""Celery bootsteps: what a worker's main process does beside its pool.

Each has a thread of its own, so that neither a busy pool nor a ledger that does not answer holds up the other.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from importlib import metadata
from typing import Any

import msgspec
from celery import Celery
from celery.platforms import EX_FAILURE
from celery.worker import state

from egregore_dist import errors
from egregore_dist.engine import announce, boards, leaving, widths
from egregore_dist.engine import app as apps
from egregore_dist.engine.control import STOPPING
from egregore_dist.engine.queues import Queues
from egregore_dist.resources import gpus, report
from egregore_dist.settings import Settings
from egregore_dist.wire import registry
from egregore_dist.worker import atwork, consuming, envelope, naming, pool, warden
from egregore_dist.worker.intake import Intake
from egregore_dist.worker.lookout import OFTEN, Lookout
from egregore_dist.worker.periodic import Periodic
from egregore_dist.worker.sweeper import Sweeper

log = logging.getLogger(__name__)

_WATCH_EVERY = 0.2


class Watch(Periodic):
    """Ends the processes of the pool that do not stop, and gives back at once what dead ones held.

    It also tells the lanes whether somebody looks at Celery's events.
    """

    name = "egregore-watch"

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        parent.egregore_warden = None
        parent.egregore_intake = self._intake = Intake(parent)
        leaving.tell(False)
        # Before the pool has processes: they inherit the registry, and look for the folder when they begin.
        registry.of(parent.app.egregore_settings.modules)
        self._folder = self._make_folder() if pool.kind_of(parent.pool_cls) == "prefork" else None

    def interval(self) -> float:
        return _WATCH_EVERY

    def begin(self, parent: Any) -> None:
        if self._folder is None:
            log.warning(
                "nodes run on %s here: one that goes on when it is asked to stop cannot be stopped, "
                "and holds its slot; prefork workers have no such nodes",
                pool.kind(parent.pool),
                extra={"action": "no_hard_stop"},
            )
            return
        parent.egregore_warden = warden.Warden(
            self.ledger,
            apps.make_app(self.settings),
            grace=self.settings.stop_grace,
            folder=self._folder.path,
            busy=lambda: pool.busy(parent.pool),
            report_ttl=self.settings.report_ttl,
        )
        pool.on_start(parent.pool, parent.egregore_warden.started)

    def tick(self, parent: Any) -> None:
        announce.want(pool.sends_events(parent))
        if parent.egregore_warden is not None:
            parent.egregore_warden.round()

    def stop(self, _parent: Any) -> None:
        """Tell the lanes to leave, and go on: the pool is stopped after this step, and waits for what runs."""
        self._intake.hold(STOPPING, "it was told to stop")

    @staticmethod
    def _make_folder() -> boards.Folder:
        boards.remove_left()
        folder, owner = boards.Folder(), os.getpid()

        def remove() -> None:
            if os.getpid() == owner:
                folder.remove()

        atexit.register(remove)
        return folder


class Fairness(Periodic):
    """Tells lanes that have had their turn whether somebody waits for their slots."""

    name = "egregore-fairness"
    requires = (Watch,)
    _pause = OFTEN

    def interval(self) -> float:
        return self._pause

    def begin(self, parent: Any) -> None:
        def taken() -> list[str]:
            closed = parent.egregore_intake.closed()
            return [name for name in tuple(parent.app.amqp.queues.consume_from) if name not in closed]

        self._lookout = Lookout(Queues(parent.app), taken)

    def tick(self, parent: Any) -> None:
        received, at_work = pool.requests()
        self._pause = self._lookout.look(
            lanes=sum(envelope.is_ours(request.type) for request in at_work),
            at_work=len(at_work),
            received=len(received),
            slots=parent.egregore_tuner.slots(),
            is_short=parent.egregore_admission.is_short(),
        )

    def stop(self, _parent: Any) -> None:
        """Lanes leave anyway, from now on; a broker that does not answer is not waited for."""
        self._stopped.set()


class Heartbeat(Periodic):
    """Publishes the worker's report; while it is fresh the worker counts as alive."""

    name = "egregore-heartbeat"
    requires = (Watch,)
    _leaving = False
    _at = 0
    _read = 0.0
    _replaced = False
    #: The last report, once there is one.
    said: report.Report | None = None

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        parent.egregore_heartbeat = self

    def interval(self) -> float:
        return self.settings.report_interval

    def begin(self, parent: Any) -> None:
        self._worker = parent.hostname
        if not self._leaving:
            self._leaving = True
            atexit.register(self._leave, os.getpid())
        self._children = pool.Children(parent.pool)
        registered = registry.of(self.settings.modules)
        self._nodes = pool.nodes(registered)
        self._asked = pool.queues(registered, self.settings.queue)
        self._gpus = gpus.said(self.settings.gpus)
        self._meter = report.Meter()
        self._life = naming.Life.begin()
        self._version = metadata.version("egregore-dist")
        try:
            naming.claim(self.ledger, self._worker, self._life, ttl=self.settings.report_ttl)
        except errors.BrokerUnavailable:
            # It is waited for; another worker of this name is found out by the reports.
            pass

    def tick(self, parent: Any) -> None:
        if self._replaced or self._is_replaced():
            return
        # The server's time comes first: a lane that leased before it, and is not known after it, has ended.
        asked = time.time()
        at = self.ledger.now()
        read = time.monotonic()
        told = time.time()
        lanes = pool.lanes()
        said = report.Report(
            **msgspec.structs.asdict(self._meter.measure()),
            worker=parent.hostname,
            pid=os.getpid(),
            life=self._life.word,
            pool=pool.kind(parent.pool),
            queues=consuming.own(parent),
            labels=self.settings.labels,
            gpus=self._gpus,
            modules=self.settings.modules,
            nodes=tuple(self._nodes),
            code=tuple(self._nodes.values()),
            children=pool.memory(parent.pool),
            prefetch=pool.prefetch(parent),
            time=told,
            skew=(asked + told) / 2 - at / 1000,
            version=self._version,
            at=at,
            ttl=self.settings.report_ttl,
            lanes=lanes,
            short=parent.egregore_intake.closed(),
            widths=parent.egregore_warden.widths() if parent.egregore_warden is not None else widths.running(),
            dead=self._children.dead(),
            living=self._children.living(),
            holds=parent.egregore_intake.reasons(),
            work=self._work(parent, at),
            **parent.egregore_tuner.told(),
        )
        if parent.egregore_warden is not None:
            # It knows of whom to blame, so it comes before any janitor that reads this.
            parent.egregore_warden.bury()
        wanted = self.ledger.report(parent.hostname, msgspec.msgpack.encode(said), self.settings.report_ttl)
        consuming.consume(parent, said, [*consuming.likely(said), *self._asked, *wanted])
        self.said, self._at, self._read = said, at, read

    def now(self) -> int | None:
        """The server's time in milliseconds, by the last report and the time since; None before there is one."""
        return self._at + int(1000 * (time.monotonic() - self._read)) if self._at else None

    @staticmethod
    def _work(parent: Any, at: int) -> tuple[report.AtWork, ...]:
        if parent.egregore_warden is not None:
            return atwork.of_notes(parent.egregore_warden.notes(), at)
        _, requests = pool.requests()
        return atwork.of_requests(requests, at)

    def _is_replaced(self) -> bool:
        found = naming.other(self.ledger, self._worker, self._life) if self._at else None
        self._replaced = found is not None and found.at > self._at
        if self._replaced:
            assert found is not None
            log.critical(
                "process %d reports as worker %s too, so this one ends: give each worker its own name",
                found.pid,
                self._worker,
                extra={"action": "worker_replaced"},
            )
            state.should_stop = EX_FAILURE  # type: ignore[assignment]
        return self._replaced

    def stop(self, _parent: Any) -> None:
        """Go on: the pool is stopped after this step, and until it has, its lanes are alive."""

    def _leave(self, pid: int) -> None:
        if os.getpid() != pid:
            return
        self._stopped.set()
        if self._replaced:
            return
        try:
            self.ledger.retire(self._worker)
        except errors.BrokerUnavailable as error:
            log.warning("heartbeat: not withdrawn: %s", error, extra={"action": "ledger_unreachable"})


class Janitor(Periodic):
    """Enforces deadlines and repairs, where it leads."""

    name = "egregore-janitor"
    requires = (Heartbeat,)

    def interval(self) -> float:
        return self.settings.sweep_interval

    def begin(self, parent: Any) -> None:
        self._sweeper = Sweeper(self.ledger, apps.make_app(self.settings), self.settings, parent.hostname)

    def tick(self, _parent: Any) -> None:
        self._sweeper.round()


def register(app: Celery, settings: Settings) -> None:
    """Add the steps to the workers of an app."""
    # Not in its configuration, which may be loaded only after this.
    app.egregore_settings = settings  # type: ignore[attr-defined]
    app.steps["worker"].update((Watch, Fairness, Heartbeat, consuming.Finder, Janitor))

"""The three Celery tasks. Messages hold no data; each task asks the ledger first, and there may be nothing to do."""

from __future__ import annotations

import os
import threading
import uuid
from typing import Any

from celery import Celery, Task

from egregore_dist.engine import app as apps
from egregore_dist.engine import capture, inside, leftovers, sentry
from egregore_dist.engine.lane import Lane
from egregore_dist.engine.runtime import Runtime
from egregore_dist.ledger.keys import ROOT
from egregore_dist.settings import Settings

# Set on the tasks, so that they hold in an app of the user's own too; what that app sets for all of its tasks, by its
# configuration, by annotations of "*" or by a base class, does not.
_OPTIONS: dict[str, Any] = {
    "acks_late": True,
    "reject_on_worker_lost": True,
    "ignore_result": True,
    "store_errors_even_if_ignored": False,
    "serializer": "json",
    "max_retries": None,
    "rate_limit": None,
    "track_started": False,
    "acks_on_failure": True,
    "acks_on_timeout": True,
    "retry_on_worker_lost": False,
    "autoretry_for": (),
    "from_config": (),
    "annotate": classmethod(lambda cls: None),
    # Not in the other apps of the process.
    "shared": False,
}

# Seconds. Without a limit of its own, a task has that of the pool: `celery worker --time-limit`.
_NO_LIMIT = 10**9


class Runtimes:
    """The runtime of the process that asks: made on first use, and anew after a fork."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None

    def get(self) -> Runtime:
        """The runtime of this process."""
        runtime = self._runtime
        if runtime is None or runtime.pid != os.getpid():
            with self._lock:
                runtime = self._runtime
                if runtime is None or runtime.pid != os.getpid():
                    runtime = self._runtime = Runtime(self._app, self._settings)
                    capture.into(runtime.logbook)
        return runtime


def register(app: Celery, settings: Settings, *, owns: bool = False) -> Runtimes:
    """Define the tasks on an app, be it the user's: what they publish, and count their chords with, is our own.

    Args:
        owns: whether it is an app of `make_app`, whose pools have no time limits.
    """
    own = apps.make_app(settings)
    runtimes = Runtimes(own, settings)
    options = {**_OPTIONS, "backend": own.backend}
    if not owns:
        # Limits of the app's own tasks would end a lane in the middle of whatever branch it is at.
        options |= {"time_limit": _NO_LIMIT, "soft_time_limit": _NO_LIMIT}

    @app.task(name=apps.ADVANCE, bind=True, **options)
    def advance(self: Task[..., None], run: str, created: int = 0) -> None:
        _serve(self, runtimes.get(), run, ROOT, 0, created)

    @app.task(name=apps.LANE, bind=True, **options)
    def lane(self: Task[..., None], run: str, block: str, track: int, created: int = 0) -> None:
        _serve(self, runtimes.get(), run, block, track, created)

    @app.task(name=apps.COLLECT, bind=True, **options)
    def collect(self: Task[..., None], run: str, block: str, created: int = 0) -> None:
        sentry.leave_out(self.name)
        runtime = runtimes.get()
        record = runtime.ledger.block(run, block)
        # Where the last lane collected in place, the parent's branch is leased or has ended, and this finds nothing.
        if record is None:
            runtime.set_aside(run, block, self.request.hostname or "eager")
        elif record.state == "ok" and record.parent is not None:
            _serve(self, runtime, run, record.parent, record.track, created)

    return runtimes


def _serve(task: Task[..., None], runtime: Runtime, run: str, block: str, track: int, created: int) -> None:
    request = task.request
    worker, id = request.hostname or "eager", request.id or uuid.uuid4().hex
    sentry.leave_out(task.name)
    lane = Lane(runtime, run, worker=worker, id=id, created=created or None)
    with inside.lane(), leftovers.allowed():
        lane.serve(block, track)

"""A Celery app of a user's own, started with and without this package: what its tasks do is counted in a server.

``SHOP`` in the environment is JSON: broker, backend, conf (of the app), install (whether to).
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import redis
from celery import Celery

from egregore_dist.worker import install

#: The name of the variable, and of the queue.
VARIABLE, QUEUE = "SHOP", "shop"


def make(options: dict[str, Any]) -> Celery:
    """The app with its tasks, as a worker or whoever sends tasks to it makes it."""
    app = Celery("shop", broker=options["broker"], backend=options["backend"], set_as_current=False)
    app.conf.update(
        task_default_queue=options.get("queue", QUEUE),
        result_expires=600,
        # Of Celery's own, which may take minutes.
        broker_transport_options=options.get("transport", {}),
        **options.get("conf", {}),
    )
    counts = redis.Redis.from_url(options["backend"])

    def work(task: Any, key: str, action: str = "", seconds: float = 0.0) -> int:
        runs = int(counts.incr(f"runs:{key}"))
        time.sleep(seconds)
        if action == "fail":
            raise ValueError(key)
        if action == "retry" and runs == 1:
            raise task.retry(countdown=0.2)
        if action == "die" and runs == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    @app.task(name="early", bind=True, shared=False)
    def early(self: Any, *args: Any) -> int:
        return work(self, *args)

    @app.task(name="late", bind=True, shared=False, acks_late=True)
    def late(self: Any, *args: Any) -> int:
        return work(self, *args)

    @app.task(name="safe", bind=True, shared=False, acks_late=True, reject_on_worker_lost=True)
    def safe(self: Any, *args: Any) -> int:
        return work(self, *args)

    @app.task(name="total", shared=False)
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="more", shared=False)
    def more(value: int, key: str) -> int:
        counts.incr(f"runs:{key}")
        return value + 1

    if options.get("install"):
        install(app)
    return app


if VARIABLE in os.environ:
    app = make(json.loads(os.environ[VARIABLE]))

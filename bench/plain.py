"""The other side: a plain Celery worker, and a chord waited for in the cheapest way there is."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import redis
from celery import chord, group

from bench import quiet, workloads
from egregore_dist.client.processes import Process
from egregore_dist.engine import urls

_ROOT = Path(__file__).parents[1]
_POLL = 0.0005
_START_TIMEOUT = 60.0


class PlainCelery:
    """A running worker of the plain app.

    Args:
        url: the server that is its broker and its result backend.
    """

    def __init__(self, url: str) -> None:
        self._results = redis.Redis.from_url(url)
        workloads.plain.conf.update(broker_url=urls.for_kombu(url), result_backend=quiet.backend(url))
        self._backend = cast(quiet.QuietBackend, workloads.plain.backend)

    def chord(self, count: int, *, timeout: float = 300.0) -> None:
        """Run a chord of ``count`` trivial tasks, and wait for its callback's result."""
        header = [workloads.plain_trivial.s(1) for _ in range(count)]
        callback = chord(group(header, app=workloads.plain), app=workloads.plain)(workloads.plain_total.s())
        found = self._wait(callback.id, f"the chord of {count} tasks", timeout)
        if found != count:
            raise RuntimeError(f"the chord of {count} tasks ended with {found!r}")

    def task(self, *, timeout: float = 60.0) -> None:
        """Run one trivial task, and wait for its result."""
        self._wait(workloads.plain_trivial.delay(1).id, "the task", timeout)

    def _wait(self, task: str, name: str, timeout: float) -> object:
        key = self._backend.get_key_for_task(task)
        limit = time.monotonic() + timeout
        while (raw := self._results.get(key)) is None:
            if time.monotonic() > limit:
                raise TimeoutError(f"{name} did not end within {timeout} s")
            time.sleep(_POLL)
        found: object = self._backend.decode_result(cast(bytes, raw))["result"]
        return found

    def close(self) -> None:
        """Close the connections."""
        self._results.close()
        workloads.plain.close()


@contextmanager
def running(url: str, *, processes: int) -> Iterator[PlainCelery]:
    """A plain worker with a pool of ``processes``, ready, until the body ends."""
    with tempfile.TemporaryDirectory(prefix="egregore-bench-") as folder:
        command = [sys.executable, "-m", "celery", "-A", "bench.workloads:plain", "worker", "--loglevel=WARNING"]
        command += [f"--concurrency={processes}", f"--queues={workloads.PLAIN_QUEUE}", "--hostname=plain@localhost"]
        command += ["--without-gossip", "--without-mingle"]
        # The addresses hold the password, so they are not on the command line.
        address = urls.for_kombu(url)
        environment = {**os.environ, "CELERY_BROKER_URL": address, "CELERY_RESULT_BACKEND": address}
        worker = Process.spawn(command, env=environment, log=Path(folder, "worker.log"), cwd=_ROOT)
        try:
            celery = PlainCelery(url)
            try:
                celery.chord(2 * processes, timeout=_START_TIMEOUT)
                yield celery
            finally:
                celery.close()
        finally:
            worker.stop(10.0)

"""Control runs: one every so often on a queue and a worker of their own, which no fault of a test is aimed at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from egregore_dist import Run, RunFailed
from tests.support.history import Control
from tests.support.trial import Trial
from tests.support.waiting import until
from tests.support.work import far_only

# So many runs say how fast they are without faults.
QUIET = 15


class Controls:
    """A run every so often, on a thread."""

    def __init__(self, every: float) -> None:
        self.runs: list[Run] = []
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self._every = every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go)

    def __enter__(self) -> Controls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _go(self) -> None:
        while not self._stopped.wait(self._every):
            began = time.monotonic()
            run = far_only.submit(len(self.runs))
            self.runs.append(run)
            try:
                run.result(timeout=30, progress=False)
            except (RunFailed, TimeoutError) as error:
                self.failures.append(str(error))
            self.latencies.append(time.monotonic() - began)


@contextmanager
def beside(trial: Trial, *, at_least: float = 3.0) -> Iterator[None]:
    """Have the checker see that such runs go on while the body runs, about as fast as before.

    Args:
        at_least: seconds below which no latency counts as bad, since the machine is shared.
    """
    trial.add(queues=["far"])
    with Controls(0.1) as quiet:
        until(lambda: len(quiet.latencies) >= QUIET, what="the runs without faults")
    try:
        with Controls(0.5) as during:
            yield
    finally:
        keep(trial, quiet, during, at_least=at_least)


def keep(trial: Trial, quiet: Controls, during: Controls, *, at_least: float) -> None:
    """Give a trial's checker what control runs told, without faults and with them."""
    for run in (*quiet.runs, *during.runs):
        trial.accepted(run.id)
    trial.control(
        Control(
            quiet=quiet.latencies,
            during=during.latencies,
            failures=[*quiet.failures, *during.failures],
            at_least=at_least,
        )
    )

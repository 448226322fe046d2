"""Keep the slots of a prefork pool: a child that died is replaced at once, by one that nothing holds up."""

from __future__ import annotations

from typing import Any

from celery import Celery, bootsteps

from egregore_dist.engine import forking
from egregore_dist.worker import pool, results

# Celery hears of most deaths at once, and of the others when it looks, every 5 seconds.
_LOOK_EVERY = 0.2


class Slots(bootsteps.StartStopStep):
    """Has the pool look after its processes often."""

    name = "egregore-slots"
    requires: tuple[Any, ...] = ("celery.worker.components:Pool", "celery.worker.components:Timer")
    _timer: Any = None

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        if pool.kind_of(parent.pool_cls) == "prefork":
            forking.install()

    def start(self, parent: Any) -> None:
        """Begin to look."""
        if pool.kind(parent.pool) == "prefork" and parent.use_eventloop:
            results.guard(parent.pool)
            self._timer = parent.timer.call_repeatedly(_LOOK_EVERY, self._look, (parent.pool,))

    def stop(self, _parent: Any) -> None:
        """Look no more: the pool is about to be stopped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _look(prefork: Any) -> None:
        prefork.maintain_pool()
        pool.turned(prefork)


def register(app: Celery) -> None:
    """Add the step to the workers of an app."""
    app.steps["worker"].add(Slots)

"""Whom a transition calls for places of limits that are free, and the alarms for what a rate has left later."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from celery import Celery

from egregore_dist.engine import publish
from egregore_dist.engine.later import Later
from egregore_dist.ledger import Alarm, Ledger, Tended


class Places:
    """Looks after limits in one process. An alarm that is lost with it is only late: a janitor looks too.

    Args:
        later: has the alarms.
    """

    def __init__(self, ledger: Ledger, app: Celery, later: Later) -> None:
        self._ledger = ledger
        self._app = app
        self._later = later

    def follow(self, run: str, tended: Tended) -> None:
        """Do what a transition of a run wants done."""
        publish.messages(self._app, run, tended.messages)
        self.set(tended.alarms)

    def set(self, alarms: Iterable[Alarm]) -> None:
        """Set alarms."""
        for alarm in alarms:
            self._later.put(f"limit {alarm.bucket}", alarm.seconds, partial(self.tend, alarm.bucket))

    def tend(self, bucket: str, why: str = "alarm") -> None:
        """Look after a bucket."""
        # Each message has its run.
        self.follow("", self._ledger.tend(bucket, why))

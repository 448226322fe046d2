"""Janitors that a test runs itself, and the reports of the workers that they look after."""

from __future__ import annotations

import math
import time

import msgspec

from egregore_dist.ledger import Ledger
from egregore_dist.resources.report import Report
from egregore_dist.worker.sweeper import Sweeper


def settle(sweeper: Sweeper, ledger: Ledger, now: float) -> Sweeper:
    """The same janitor, as if it had been up for long, on a ledger that no janitor leads. ``now``: of its clock."""
    sweeper._heard, sweeper._heard_at, sweeper._silent_until = now, time.time(), -math.inf
    ledger.redis.delete(ledger.keys.janitor)
    sweeper._server = ledger.due("nobody", 0.001).server
    ledger.redis.delete(ledger.keys.janitor)
    return sweeper


def report(worker: str, *, at: int = 10**15, ttl: float = 0.0, lanes: tuple[str, ...] | None = ()) -> bytes:
    """A worker's report. Its lanes are all that it has; with None they are not known."""
    return msgspec.msgpack.encode(
        Report(
            worker=worker,
            host="h",
            pid=1,
            cores=1.0,
            memory_available=1,
            memory_total=1,
            slots=1,
            queues=("q",),
            at=at,
            ttl=ttl,
            lanes=lanes,
        )
    )

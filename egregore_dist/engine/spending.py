"""What one execution of a branch takes, call by call, as its end tells it."""

from __future__ import annotations

import time

from egregore_dist.engine.execute import FAILURES_KEPT, Failed, Job
from egregore_dist.ledger import FailedCall, Lease, Spent


class Spending:
    """What an execution has taken up to now.

    Args:
        lease: whose. Of a branch that has met a block, others may have done a part: its time and memory are not told.
    """

    __slots__ = ("_attempt", "_cpu", "_failures", "_is_whole", "_memory")

    def __init__(self, lease: Lease) -> None:
        self._attempt = lease.attempt
        self._cpu = self._memory = -1
        self._is_whole = not lease.after
        self._failures: tuple[Failed, ...] = ()

    def add(self, job: Job) -> Spending:
        """Take a node in: once, since what goes wrong after it is not the node's."""
        self._attempt, measure, job.measure = max(self._attempt, job.attempts), job.measure, None
        if measure is not None and self._is_whole:
            self._cpu = self._cpu if measure.cpu is None else max(0, self._cpu) + int(measure.cpu * 1e6)
            self._memory = self._memory if measure.memory is None else max(self._memory, measure.memory)
        if job.failures:
            self._failures, job.failures = (*self._failures, *job.failures)[-FAILURES_KEPT:], ()
        return self

    @property
    def failed_calls(self) -> tuple[FailedCall, ...]:
        """The calls in vain, where it ends now."""
        now = time.monotonic()
        return tuple(
            FailedCall(failed.node, *(int(seconds * 1e6) for seconds in (now - failed.at, failed.took, failed.waits)))
            for failed in self._failures
        )

    def told(self, node: str = "") -> Spent | None:
        """What is told where it ends now: at a node, if it failed. None where that is nothing."""
        told = Spent(self._attempt, self._cpu, self._memory, node, self.failed_calls)
        return None if told == _NOTHING else told


_NOTHING = Spent()

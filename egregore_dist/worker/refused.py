"""What a worker does where its broker refuses it for good: it says so once, with the cure, and asks again slowly."""

from __future__ import annotations

import logging
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.state import maybe_shutdown

from egregore_dist.engine import broker

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 30.0
# Seconds without a refusal after which the next one is told again, and asked about sooner.
_FORGOTTEN = 120.0
_LOOK_EVERY = 0.2


class Refused(ConnectionError):
    """The broker refuses what its cause says. To each of Celery's transports, it is a lost connection."""


class Anew(RecoverableConnectionError):
    """The connection is to be made anew, in another way: it was not lost."""


class Refusals:
    """Those that a consumer meets.

    Args:
        consumer: Celery's consumer.
    """

    def __init__(self, consumer: Any) -> None:
        self._count = 0
        self._at = -_FORGOTTEN
        self._until = 0.0
        self._told = ""
        for name in ("on_connection_error_before_connected", "on_connection_error_after_connected"):
            setattr(consumer, name, self._noting(getattr(consumer, name)))

    def wait(self) -> None:
        """Wait until the broker may be asked again.

        Raises:
            SystemExit: the worker is told to stop.
        """
        while time.monotonic() < self._until:
            maybe_shutdown()
            time.sleep(_LOOK_EVERY)

    def _noting(self, handle: Any) -> Any:
        def on_error(error: Exception) -> None:
            of = error.__cause__ if isinstance(error, Refused) and error.__cause__ else error
            reason = broker.lasting(of)
            if reason is None and not isinstance(error, Anew):
                handle(error)
                return
            if reason is not None:
                self._note(reason)
            with _silent():
                handle(error)

        return on_error

    def _note(self, reason: str) -> None:
        now = time.monotonic()
        if now > self._at + _FORGOTTEN:
            self._count, self._told = 0, ""
        self._at = now
        if reason != self._told:
            self._told = reason
            log.error(
                "the broker refuses this worker: %s. It is asked again", reason, extra={"action": "broker_refuses"}
            )
        pause = min(_LONGEST_PAUSE, 2.0**self._count) * random.uniform(0.7, 1.0)  # noqa: S311 (no secret)
        self._count += 1
        self._until = now + pause


@contextmanager
def _silent() -> Iterator[None]:
    # Celery has a line of its own for each attempt.
    stock = logging.getLogger("celery.worker.consumer.consumer")
    stock.addFilter(_none)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            yield
    finally:
        stock.removeFilter(_none)


def _none(_record: logging.LogRecord) -> bool:
    return False

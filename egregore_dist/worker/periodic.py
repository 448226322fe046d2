"""A bootstep that does something every so often, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from celery import bootsteps

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.ledger import Ledger
from egregore_dist.settings import Settings

log = logging.getLogger(__name__)

# Seconds between two lines of log about a ledger that does not answer.
_SAY_EVERY = 30.0


class Periodic(bootsteps.StartStopStep):
    """Calls ``tick`` every ``interval`` seconds, first of all before the worker takes its first message."""

    requires: tuple[Any, ...] = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._stopped = threading.Event()
        self._hurried = threading.Event()
        self._thread: threading.Thread | None = None
        self._silent_until = 0.0

    def start(self, parent: Any) -> None:
        self.settings: Settings = parent.app.egregore_settings
        self.ledger = Ledger(
            apps.ledger_url(self.settings), prefix=self.settings.prefix, retention=self.settings.retention, retries=1
        )
        self.begin(parent)
        self._stopped.clear()
        self._round(parent)
        self._thread = threading.Thread(target=self._run, args=(parent,), name=type(self).__name__, daemon=True)
        self._thread.start()

    def stop(self, _parent: Any) -> None:
        self._stopped.set()
        self.hurry()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
            self.ledger.close()

    def hurry(self) -> None:
        """Have the next round now. Called from any thread."""
        self._hurried.set()

    def terminate(self, parent: Any) -> None:
        self.stop(parent)

    def interval(self) -> float:
        raise NotImplementedError

    def begin(self, parent: Any) -> None:
        """Called once, before the first round."""

    def tick(self, parent: Any) -> None:
        raise NotImplementedError

    def _run(self, parent: Any) -> None:
        while True:
            self._hurried.wait(self.interval())
            self._hurried.clear()
            if self._stopped.is_set():
                return
            self._round(parent)

    def _round(self, parent: Any) -> None:
        try:
            self.tick(parent)
            self._silent_until = 0.0
        except errors.BrokerUnavailable as error:
            if time.monotonic() >= self._silent_until:
                self._silent_until = time.monotonic() + _SAY_EVERY
                log.warning("%s: %s", type(self).__name__.lower(), error, extra={"action": "ledger_unreachable"})
        except Exception:
            # A round that fails must not end the rounds after it.
            log.exception("%s: a round failed", type(self).__name__.lower(), extra={"action": "round_failed"})

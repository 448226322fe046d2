"""The cluster that this process submits to: of `connect`, of ``EGREGORE_*``, of its Celery app, or an embedded one."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

import kombu.pools
from celery import Celery

from egregore_dist import errors
from egregore_dist.client import unfinished
from egregore_dist.client.limits import Limits
from egregore_dist.client.workers import Workers
from egregore_dist.engine import access, forking, installed
from egregore_dist.engine import app as apps
from egregore_dist.engine.later import Later
from egregore_dist.engine.places import Places
from egregore_dist.engine.runtime import signer
from egregore_dist.ledger import ENDED, Ledger, lanes
from egregore_dist.settings import Settings, load

# Seconds beyond the grace, in which a process that did not stop is killed, and its worker says so.
_STOP_MARGIN = 3.0
_LOOK_EVERY = 0.02


class Session:
    """A connection to one cluster.

    Args:
        settings: the cluster's.
        embedded: whether the cluster ends with this program.
        pages: gives the link of a page of the web monitor that this program runs for the cluster, or None.
    """

    def __init__(
        self, settings: Settings, *, embedded: bool = False, pages: Callable[[str], str | None] | None = None
    ) -> None:
        forking.install()
        self.settings = settings
        self.embedded = embedded
        self._pages = pages
        self.app: Celery = apps.make_app(settings)
        self.ledger = Ledger(apps.ledger_url(settings), prefix=settings.prefix, retention=settings.retention)
        self.signer = signer(settings)
        self.later = Later()
        #: The limits of the cluster by name.
        self.limits = Limits(self.ledger, Places(self.ledger, self.app, self.later))
        #: The workers of the cluster, and what can be asked of each.
        self.workers = Workers(self.ledger, self.app, self.signer, ttl=settings.report_ttl)
        self.pid = os.getpid()
        self._left: set[str] = set()
        # The embedded server is configured by this package.
        self._is_server_fit = embedded
        # A program may end right after it has submitted.
        atexit.register(self._at_exit)

    def refuse_unfit_server(self) -> None:
        """Refuse a server that cannot hold a ledger, or whose user lacks rights of a client. It is asked once.

        Raises:
            errors.ConfigurationError: it evicts keys, is a Redis Cluster, or the user lacks a command, or a pattern of
                keys or channels; the message names the cure.
            errors.BrokerUnavailable: it cannot be reached.
        """
        if not self._is_server_fit:
            self.ledger.refuse_unfit_server()
            access.refuse_missing(self.ledger.redis, self.settings, access.CLIENT)
            self._is_server_fit = True

    def page_of(self, run: str) -> str | None:
        """The link of a run's page in the web monitor, which may have a token in it; None where there is no monitor."""
        path = f"/runs/{run}"
        if self._pages is not None:
            return self._pages(path)
        base = self.settings.monitor_url
        return None if base is None else base + path

    def tells_pages(self) -> bool:
        """Whether who waits for a run is told where its page is."""
        wanted = self.settings.monitor
        return sys.stderr.isatty() if wanted is None else wanted

    def leave(self, run: str) -> None:
        """Note a run that nobody waits for any more: where the cluster is embedded, it ends with this program."""
        self._left.add(run)

    def end(self, run: str) -> None:
        """Cancel a run and wait until nothing of it runs, no longer than a node may take to stop.

        Raises:
            errors.RunNotFound: there is no such run.
            errors.BrokerUnavailable: the ledger cannot be reached.
        """
        self.ledger.cancel(run)
        self.let_stop(run)

    def let_stop(self, run: str) -> bool:
        """Wait until nothing of a run that has ended runs any more, no longer than a node may take to stop.

        What a dead worker had is not waited for, once its report has expired. Returns False where the run goes on,
        since it has been retried.

        Raises:
            errors.RunNotFound: there is no such run.
            errors.BrokerUnavailable: the ledger cannot be reached.
        """
        until = time.monotonic() + self.settings.stop_grace + _STOP_MARGIN
        blocks: list[str] | None = None
        while self.ledger.run(run).state in ENDED:
            blocks = lanes.stopping(self.ledger, run, blocks)
            if not blocks or time.monotonic() >= until:
                return True
            time.sleep(_LOOK_EVERY)
        return False

    def _at_exit(self) -> None:
        if os.getpid() != self.pid:
            return
        self.later.flush()
        # An interrupt is one of what is waited for here; the cluster is stopped after that.
        with contextlib.suppress(errors.EgregoreError, KeyboardInterrupt):
            if self.embedded:
                self._left.update(unfinished.wait(self, self._left))
        self._end_left()

    def _end_left(self) -> None:
        if self.embedded:
            for run in self._left:
                with contextlib.suppress(errors.EgregoreError):
                    self.end(run)

    def close(self) -> None:
        """Publish what waits, and close the connections."""
        if os.getpid() == self.pid:
            self.later.flush()
            self._end_left()
        atexit.unregister(self._at_exit)
        self.app.close()
        self.ledger.close()


_lock = threading.RLock()
_current: Session | None = None


def _unlock() -> None:
    global _lock
    _lock = threading.RLock()


# A forked copy of the program has none of its other threads: not the one that held this, starting an embedded cluster.
os.register_at_fork(after_in_child=_unlock)


def connect(broker_url: str | None = None, *, ledger_url: str | None = None, secret: str | None = None) -> Session:
    """Submit this process's runs to a cluster.

    Args:
        broker_url: Celery's broker, such as ``redis://host:6379/0``; absent, ``EGREGORE_BROKER_URL``.
        ledger_url: the ledger's Redis or Valkey server; absent, ``EGREGORE_LEDGER_URL``, else the broker.
        secret: signs functions that travel by value; absent, ``EGREGORE_SECRET``.

    Raises:
        errors.ConfigurationError: settings that cannot work, or a server that cannot hold a ledger.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    session = Session(load(broker_url=broker_url, ledger_url=ledger_url, secret=secret))
    try:
        session.refuse_unfit_server()
    except BaseException:
        session.close()
        raise
    use(session)
    return session


def use(session: Session | None) -> Session | None:
    """Make a session the current one; returns the one before."""
    global _current
    with _lock:
        before, _current = _current, session
    return before


def current() -> Session:
    """The current session; the first call without one connects, or starts an embedded cluster.

    It connects to what ``EGREGORE_BROKER_URL`` names, else to what the workers of this program's Celery app serve, if
    `worker.install` was called for one.

    Raises:
        errors.ConfigurationError: settings that cannot work.
    """
    global _current
    with _lock:
        # A connection does not survive a fork.
        if _current is not None and _current.pid != os.getpid():
            kombu.pools.reset()
            _current = Session(_current.settings, embedded=_current.embedded, pages=_current._pages)
        if _current is None:
            settings = load()
            found = settings if settings.broker_url is not None else installed.settings()
            _current = _embedded(settings) if found is None else Session(found)
        return _current


def _embedded(settings: Settings) -> Session:
    from egregore_dist.client.cluster import LocalCluster
    from egregore_dist.resources.report import measure

    if settings.ledger_url is not None:
        raise errors.ConfigurationError(
            "EGREGORE_LEDGER_URL is set and EGREGORE_BROKER_URL is not: set both for a cluster that exists, or neither "
            "for one that is started for this program"
        )
    cores = max(1, int(measure().cores))
    workers = min(2, cores)
    cluster = LocalCluster(workers=workers, concurrency=-(-cores // workers))
    cluster.start()
    atexit.register(cluster.stop)
    return Session(cluster.settings, embedded=True, pages=cluster.page)

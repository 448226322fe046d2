"""The cluster that this process submits to: given by `connect`, by ``EGREGORE_*``, or an embedded one."""

from __future__ import annotations

import atexit
import os
import threading

import kombu.pools
from celery import Celery

from egregore_dist.engine import app as apps
from egregore_dist.engine.later import Later
from egregore_dist.engine.runtime import signer
from egregore_dist.ledger import Ledger
from egregore_dist.settings import Settings, load


class Session:
    """A connection to one cluster."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app: Celery = apps.make_app(settings)
        self.ledger = Ledger(apps.ledger_url(settings), prefix=settings.prefix, retention=settings.retention)
        self.signer = signer(settings)
        self.later = Later()
        self.pid = os.getpid()
        # A program may end right after it has submitted.
        atexit.register(self._flush)

    def _flush(self) -> None:
        if os.getpid() == self.pid:
            self.later.flush()

    def close(self) -> None:
        """Publish what waits, and close the connections."""
        self._flush()
        atexit.unregister(self._flush)
        self.app.close()
        self.ledger.close()


_lock = threading.RLock()
_current: Session | None = None


def connect(broker_url: str | None = None, *, ledger_url: str | None = None, secret: str | None = None) -> Session:
    """Submit this process's runs to a cluster.

    Args:
        broker_url: Celery's broker, such as ``redis://host:6379/0``; absent, ``EGREGORE_BROKER_URL``.
        ledger_url: the ledger's Redis or Valkey server; absent, ``EGREGORE_LEDGER_URL``, else the broker.
        secret: signs functions that travel by value; absent, ``EGREGORE_SECRET``.

    Raises:
        errors.ConfigurationError: settings that cannot work.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    session = Session(load(broker_url=broker_url, ledger_url=ledger_url, secret=secret))
    session.ledger.ping()
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

    Raises:
        errors.ConfigurationError: settings that cannot work.
    """
    global _current
    with _lock:
        # A connection does not survive a fork.
        if _current is not None and _current.pid != os.getpid():
            kombu.pools.reset()
            _current = Session(_current.settings)
        if _current is None:
            settings = load()
            if settings.broker_url is None:
                settings = _embedded(settings)
            _current = Session(settings)
        return _current


def _embedded(settings: Settings) -> Settings:
    from egregore_dist.client.cluster import LocalCluster
    from egregore_dist.resources.report import measure

    cores = max(1, int(measure().cores))
    workers = min(2, cores)
    cluster = LocalCluster(workers=workers, concurrency=-(-cores // workers))
    cluster.start()
    atexit.register(cluster.stop)
    return cluster.settings

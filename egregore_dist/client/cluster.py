"""A cluster on this machine: a private server and worker processes, the same code as any other cluster."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from egregore_dist import errors
from egregore_dist.client import monitor as web
from egregore_dist.client import session, unfinished
from egregore_dist.client.monitor import LocalMonitor
from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from egregore_dist.client.session import Session
from egregore_dist.client.supervisor import Supervisor
from egregore_dist.engine import app as apps
from egregore_dist.ledger import Ledger
from egregore_dist.settings import load
from egregore_dist.wire import strength

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0
_POLL = 0.02
_numbers = itertools.count(1)


class LocalWorker:
    """One worker of a `LocalCluster`.

    Attributes:
        name: the name that it reports under.
        pid: its main process, or None before it was started.
        has_served: whether it has reported since it was started last.
        restarts: how often it was started again since then, because it had failed.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        name: str,
        folder: Path,
        *,
        labels: Mapping[str, str] | None = None,
        gpus: int | None = None,
    ) -> None:
        self.name = name
        self._options = [f"--label={key}={value}" for key, value in (labels or {}).items()]
        self._options += [] if gpus is None else [f"--gpus={gpus}"]
        self.log = folder / f"{name.partition('@')[0]}.log"
        self.has_served = False
        self.restarts = 0
        self._cluster = cluster
        self._process: Process | None = None
        # Whether it was asked to end; and, of those who start it, one at a time.
        self._asked = False
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"<LocalWorker {self.name} {'alive' if self.alive else 'stopped'}>"

    @property
    def pid(self) -> int | None:
        """The pid of the worker's main process."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    def start(self) -> None:
        """Start it, without waiting until it is ready; one that was killed starts anew."""
        with self._starting:
            self._asked, self.has_served, self.restarts = False, False, 0
            self._spawn()

    @property
    def has_failed(self) -> bool:
        """Whether it has ended, with another exit code than 0, though nobody asked it to here."""
        return not (self._process is None or self._asked or self._process.alive or self._process.returncode == 0)

    def revive(self) -> None:
        """Start it again, if it has failed."""
        with self._starting:
            if self._process is None or not self.has_failed:
                return
            # Where the keeper was killed the worker may live on.
            self._process.kill()
            self._spawn()
            self.restarts += 1
        if self._asked:
            # Meanwhile, which the new process has not heard.
            self.kill()

    def _spawn(self) -> None:
        arguments = [
            sys.executable,
            "-m",
            "egregore_dist",
            "worker",
            "--name",
            self.name,
            "--concurrency",
            str(self._cluster.concurrency),
            "--pool",
            self._cluster.pool,
            "--loglevel",
            self._cluster.loglevel,
            *self._options,
        ]
        # A worker that is killed cannot remove its pool's temporary directory: it goes with the cluster's own.
        folder = self.log.parent
        environment = {**self._cluster.worker_environment(), "TMPDIR": str(folder)}
        self._process = Process.spawn(arguments, env=environment, log=self.log, remove=[folder])

    def kill(self) -> None:
        """Kill it and its pool at once (SIGKILL)."""
        self._asked = True
        if self._process is not None:
            self._process.kill()

    def terminate(self) -> None:
        """Ask it to stop once what runs has ended, without waiting."""
        self._asked = True
        if self._process is not None:
            self._process.terminate()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop it: what runs may end within ``timeout`` seconds, then it is killed."""
        self._asked = True
        if self._process is not None:
            self._process.stop(timeout)

    def restart(self, timeout: float = 10.0) -> None:
        """Stop it as `stop` does, start it anew, and wait until it serves."""
        self.stop(timeout)
        self._cluster.forget(self)
        self.start()
        self._cluster.wait_ready()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        return "" if self._process is None else self._process.log_tail(lines)


class LocalCluster:
    """A server and workers on this machine; as a context manager it is also what this process submits to.

    Where its ``with`` block ends before runs do, it names them on standard error. With a ``data_dir`` they go on when
    it is started again.

    A worker that fails is started again: after a second, and after twice as long, a minute at most, each time that it
    fails within a minute. One that ends with the exit code 0, or was ended by its handle, is not.

    Args:
        workers: how many workers.
        concurrency: lanes that each serves at a time.
        data_dir: where the server keeps its data, across starts; a temporary directory where absent.
        tcp: whether the server also listens on a port of 127.0.0.1, for programs that use no Unix socket. Every user of
            the machine can reach that port; ``server.tcp_url`` has the password.
        broker_url: an existing broker to use in place of a server of its own; with ``ledger_url`` where it is no Redis.
        ledger_url: an existing Redis or Valkey server for the ledger.
        queue: the Celery queue of its lanes.
        prefix: what its ledger keys start with.
        pool: the workers' pool, ``prefork`` or ``threads``.
        loglevel: of the workers.
        monitor: whether a run that is waited for says first where its page of the web monitor is; absent,
            ``EGREGORE_MONITOR``, else on a terminal.

    Attributes:
        workers: its workers, as `LocalWorker`.
        server: its own server, on a Unix socket that only this user can reach; None with a ``broker_url``.
        settings: what a client connects with.
    """

    def __init__(
        self,
        workers: int = 2,
        concurrency: int = 1,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        tcp: bool = False,
        broker_url: str | None = None,
        ledger_url: str | None = None,
        queue: str | None = None,
        prefix: str | None = None,
        pool: str = "prefork",
        loglevel: str = "WARNING",
        monitor: bool | None = None,
    ) -> None:
        _check("workers", workers, least=0)
        _check("concurrency", concurrency, least=1)
        if pool not in apps.POOLS:
            raise errors.ConfigurationError(f"LocalCluster: pool must be one of {apps.POOLS}, not {pool!r}")
        if tcp and broker_url is not None:
            raise errors.ConfigurationError("LocalCluster: tcp is for a server of its own, and broker_url is another's")
        self.concurrency = concurrency
        self.pool = pool
        self.loglevel = loglevel
        self.server: Server | None = None
        self.settings = load()
        self.workers: list[LocalWorker] = []
        self._wanted = workers
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._tcp = tcp
        servers = {"broker_url": broker_url, "ledger_url": ledger_url}
        given = {**servers, "queue": queue, "prefix": prefix, "monitor": monitor}
        self._given: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._monitor: LocalMonitor | None = None
        self._monitor_lock = threading.Lock()
        self._supervisor: Supervisor | None = None
        self._owner = os.getpid()
        # Several clusters of one program may share a broker, where no two workers may have one name.
        self._host = f"local-{os.getpid()}-{next(_numbers)}"
        self._before: Session | None = None
        self._session: Session | None = None

    def __repr__(self) -> str:
        return f"<LocalCluster of {len(self.workers)} workers>"

    def __enter__(self) -> Self:
        self.start()
        self._session = Session(self.settings, pages=self.page)
        self._before = session.use(self._session)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session.use(self._before)
        if self._session is not None:
            if os.getpid() == self._owner:
                self._tell_unfinished(self._session)
            self._session.close()
        self.stop()

    def _tell_unfinished(self, of: Session) -> None:
        # Runs on a server that is not the cluster's own do not end with it.
        if self.server is None:
            return
        with contextlib.suppress(errors.BrokerUnavailable):
            runs = of.ledger.unfinished()
            if self._data_dir is None:
                unfinished.tell_lost(runs, {})
            else:
                unfinished.tell_kept(runs, self._data_dir)

    @property
    def url(self) -> str:
        """The broker's URL, with its password: for ``connect(cluster.url)`` in another process, never for a log."""
        return apps.public_url(self.settings)

    @property
    def monitor_url(self) -> str:
        """The link to the web monitor, for a browser; it starts when it is opened, and ends with the cluster.

        Who has the link may see everything and act as an operator, from this machine: it is not for a log.

        Raises:
            errors.ConfigurationError: the cluster is not started, or the extra ``monitor`` is not installed.
        """
        return self._opened_monitor().link()

    def page(self, path: str) -> str | None:
        """The link to a page of the web monitor; None where there is none, since it is not wanted or cannot be."""
        if self.settings.monitor is False:
            return None
        if self._monitor is None and (web.missing() or os.getpid() != self._owner):
            return None
        try:
            monitor = self._opened_monitor()
        except OSError:
            return None
        return monitor.link(path) if monitor.is_listening else None

    def _opened_monitor(self) -> LocalMonitor:
        folder = self._started_folder()
        with self._monitor_lock:
            if self._monitor is None:
                if os.getpid() != self._owner:
                    raise errors.ConfigurationError("the cluster belongs to the process that this one was forked from")
                environment = {
                    name: value
                    for name, value in self.worker_environment().items()
                    # What this user's own monitor is configured with is not for this one.
                    if not name.startswith("EGREGORE_MONITOR_")
                }
                self._monitor = LocalMonitor(environment, folder)
            return self._monitor

    def start(self) -> None:
        """Start the server and the workers, and wait until they serve.

        Raises:
            errors.ConfigurationError: it is started already, no server is installed, or a worker did not start; it says
                why.
        """
        if self._folder is not None:
            raise errors.ConfigurationError("the cluster is started already: stop it first")
        if load(monitor=self._given.get("monitor")).monitor:
            web.check_installed()
        self._folder = tempfile.TemporaryDirectory(prefix="egregore-", ignore_cleanup_errors=True)
        # Those of a start before this one have ended with it.
        self.workers = []
        try:
            self._configure()
            for _ in range(self._wanted):
                self.add_worker(wait=False)
            self.wait_ready()
            self._supervisor = Supervisor(self.workers)
            self._supervisor.start()
        except BaseException:
            self.stop()
            raise

    def _configure(self) -> None:
        """Start the server, where there is none, and settle what clients and workers connect with."""
        given = dict(self._given)
        if "broker_url" not in given:
            self.server = Server.start(self._data_dir, tcp=self._tcp)
            given["broker_url"] = self.server.url
        base = load(**given)
        self.settings = base.model_copy(
            update={
                "secret": base.secret or SecretStr(self.server.secret() if self.server else strength.new_secret()),
                # The ledger of a cluster that exists is not for a server of its own.
                "ledger_url": base.ledger_url if {"broker_url", "ledger_url"} & self._given.keys() else None,
            }
        )

    def stop(self) -> None:
        """Stop the workers and the server. What runs may end within some seconds. Stopping twice does nothing."""
        if os.getpid() != self._owner:
            return
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
        self._stop_workers()
        if self.server is not None:
            self.server.stop()
            self.server = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _stop_workers(self) -> None:
        living = [worker for worker in self.workers if worker.alive]
        if not living:
            return
        ledger = Ledger(apps.ledger_url(self.settings), prefix=self.settings.prefix)
        try:
            # Celery takes seconds to stop in good order; where nothing runs there is nothing to keep in order.
            if ledger.is_idle():
                for worker in living:
                    worker.kill()
                    ledger.retire(worker.name)
        except errors.BrokerUnavailable:
            pass
        finally:
            ledger.close()
        for worker in living:
            worker.terminate()
        deadline = time.monotonic() + _STOP_TIMEOUT
        for worker in living:
            worker.stop(max(0.0, deadline - time.monotonic()))

    def add_worker(
        self, *, wait: bool = True, labels: Mapping[str, str] | None = None, gpus: int | None = None
    ) -> LocalWorker:
        """Start one more worker, and wait until it serves.

        Args:
            wait: False to return at once.
            labels: what it says of itself, see ``labels=`` of nodes.
            gpus: how many GPUs it has; absent, those that it finds.
        """
        folder = self._started_folder()
        name = f"worker{len(self.workers) + 1}@{self._host}"
        worker = LocalWorker(self, name, folder, labels=labels, gpus=gpus)
        worker.start()
        self.workers.append(worker)
        if wait:
            self.wait_ready()
        return worker

    def _started_folder(self) -> Path:
        if self._folder is None:
            raise errors.ConfigurationError(
                "the cluster is not started: use it as `with LocalCluster() as cluster:`, or call .start()"
            )
        return Path(self._folder.name)

    def wait_ready(self, timeout: float = _START_TIMEOUT) -> None:
        """Wait until every worker that runs has reported.

        Raises:
            errors.ConfigurationError: one ended before it had, or took longer than ``timeout`` seconds; with the end of
                its log.
        """
        ledger = Ledger(apps.ledger_url(self.settings), prefix=self.settings.prefix)
        try:
            deadline = time.monotonic() + timeout
            missing = [worker for worker in self.workers if worker.pid is not None]
            # One that has served, and was stopped or killed since, is not waited for.
            missing = [worker for worker in missing if worker.alive or not worker.has_served]
            while missing:
                known = ledger.reports()
                for worker in missing:
                    worker.has_served = worker.has_served or worker.name in known
                missing = [worker for worker in missing if worker.name not in known]
                failed = [worker for worker in missing if not worker.alive]
                late = missing if time.monotonic() > deadline else []
                for worker in failed or late:
                    said = "ended" if failed else f"did not report within {timeout:g} s"
                    raise errors.ConfigurationError(f"worker {worker.name} {said}:\n{worker.log_tail()}")
                time.sleep(_POLL)
        finally:
            ledger.close()

    def forget(self, worker: LocalWorker) -> None:
        """Withdraw the report of a worker that does not run, so that it does not count as alive until it expires."""
        ledger = Ledger(apps.ledger_url(self.settings), prefix=self.settings.prefix)
        try:
            ledger.retire(worker.name)
        finally:
            ledger.close()

    def worker_environment(self) -> dict[str, str]:
        """The environment of a worker: this process's, its import path, and the settings."""
        settings = self.settings
        # What is configured for this process only, such as another ledger, is not for these workers.
        own = {f"EGREGORE_{name.upper()}" for name in type(settings).model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in own}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        for name, value in settings.model_dump(exclude_none=True).items():
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            environment[f"EGREGORE_{name.upper()}"] = ",".join(plain) if isinstance(plain, tuple) else str(plain)
        return environment


def _check(what: str, number: object, *, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise errors.ConfigurationError(
            f"LocalCluster: {what} must be a whole number of at least {least}, not {number!r}"
        )

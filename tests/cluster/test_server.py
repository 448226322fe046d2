"""The embedded server on real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import psutil
import pytest
import redis
from redis import backoff, retry

from egregore_dist import errors
from egregore_dist.client import server as server_module
from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from tests.support.waiting import until


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.start() as running:
        yield running


@contextlib.contextmanager
def client(server: Server) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as connection:
        yield connection


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


PARENT = """
import os, sys, time
from pathlib import Path
from egregore_dist.client.server import Server
server = Server.start(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
if os.fork() == 0:
    sys.stdin.read()  # a forked child holds every descriptor of its parent
    os._exit(0)
print(server.pid, server.directory, server.socket.parent, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def parent(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int, Path, Path]]:
    """A program that has started a server, with the server's pid and directories of its data and of its socket."""
    program = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    try:
        pid, directory, sockets = program.stdout.readline().split()
        yield program, int(pid), Path(directory), Path(sockets)
    finally:
        program.kill()
        program.communicate()


@contextlib.contextmanager
def squatting() -> Iterator[tuple[int, list[bytes]]]:
    """A port of 127.0.0.1 on which somebody else poses as a server, and what that was sent."""
    sent: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                sent.append(data)
                connection.sendall(b"+PONG\r\n" * data.count(b"*"))

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], sent
        listener.shutdown(socket.SHUT_RDWR)


def listening(server: Server) -> list[object]:
    return [c.laddr for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]


def test_s19_a_client_without_the_password_is_refused() -> None:
    """A connection without the password, or with another, can do nothing, by the socket or by the port."""
    with Server.start(tcp=True) as server:
        for password in (None, "wrong"):
            once = retry.Retry(backoff.NoBackoff(), 0)
            for where in ({"unix_socket_path": str(server.socket)}, {"port": server.port}):
                with (
                    redis.Redis(password=password, retry=once, **where) as stranger,  # type: ignore[arg-type]
                    pytest.raises(redis.AuthenticationError),
                ):
                    stranger.ping()
        with redis.Redis.from_url(server.tcp_url) as known:
            assert known.ping()


def test_s19_it_listens_on_a_private_socket_only(server: Server) -> None:
    """The server has no port, and its socket is in directories that nobody else can enter."""
    assert listening(server) == []
    assert mode(server.socket) == 0o600
    for directory in (server.socket.parent, server.socket.parent.parent):
        assert mode(directory) == 0o700
        assert directory.stat().st_uid == os.geteuid()
    with pytest.raises(errors.ConfigurationError, match="tcp=True"):
        server.tcp_url  # noqa: B018 (raises)


def test_s19_a_port_is_on_loopback_only() -> None:
    """A server that was asked to listen on a port does so on 127.0.0.1 alone."""
    with Server.start(tcp=True) as server:
        assert listening(server) == [("127.0.0.1", server.port)]


def test_s19_a_squatter_on_the_port_receives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took the port first is sent no password, and is not taken for the server, which gets another port."""
    free = server_module._free_port
    with squatting() as (port, sent):
        ports = iter([port])
        monkeypatch.setattr(server_module, "_free_port", lambda: next(ports, None) or free())
        with Server.start(tcp=True) as running:
            assert running.port != port
            assert listening(running) == [("127.0.0.1", running.port)]
        monkeypatch.setattr(server_module, "_free_port", lambda: port)
        with pytest.raises(errors.BrokerUnavailable, match="found no free port"):
            Server.start(tcp=True)

    assert sent == []


def test_s19_a_server_must_be_the_one_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a port, whoever answers on the socket must have the process id of the server, and its port."""
    monkeypatch.setattr(server_module, "CONFIG", server_module.CONFIG.replace("port {port}", "port 0"))

    with pytest.raises(errors.BrokerUnavailable, match="is another than the one that was started"):
        Server.start(tcp=True)


def test_s19_nobody_else_makes_the_directory_of_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its name is a link's, or another user's, another place is used; the name stays after the server."""
    with tempfile.TemporaryDirectory() as folder:
        taken, free = Path(folder, "1"), Path(folder, "2")
        for place in (taken, free):
            place.mkdir()
        own = f"egregore-{os.geteuid()}"
        (taken / own).symlink_to(free)
        (free / own).mkdir(mode=0o755)
        monkeypatch.setattr(tempfile, "tempdir", str(taken))
        monkeypatch.setattr(server_module, "PLACES", (str(free),))
        with Server.start() as running:
            assert running.socket.parent.parent == free / own
            assert mode(free / own) == 0o700
        assert list((free / own).iterdir()) == []

        monkeypatch.setattr(server_module, "PLACES", (f"{folder}/{'long' * 30}",))
        monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
        with pytest.raises(errors.ConfigurationError, match="set TMPDIR to a directory of yours"):
            Server.start()
        monkeypatch.setattr(server_module, "PLACES", (str(free),))
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(errors.ConfigurationError, match="are another user's"):
            Server.start()


@pytest.mark.parametrize("name", ["with space;'\"#%\\x", "\u00fc" * 4, "long" * 50])
def test_any_directory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and temporary files may be anywhere, also where a socket's path would be too long, or needs quoting."""
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for data in (None, folder / "data"):
        with Server.start(data) as running, client(running) as connection:
            assert folder in running.directory.parents
            assert connection.ping()
            assert len(os.fsencode(running.socket)) <= server_module.SOCKET_PATH_LIMIT


def test_it_keeps_what_it_was_told(server: Server) -> None:
    """The server logs each write, never evicts, and is in protected mode."""
    with client(server) as connection:
        config = connection.config_get("*")

    assert (config["appendonly"], config["appendfsync"], config["save"]) == ("yes", "everysec", "")
    assert (config["maxmemory-policy"], config["protected-mode"]) == ("noeviction", "yes")


def test_maxmemory_refuses_writes() -> None:
    """With maxmemory, a write beyond it is an error and nothing is evicted."""
    with Server.start(maxmemory=3_000_000) as small, client(small) as connection:
        connection.set("first", "kept")
        with pytest.raises(redis.OutOfMemoryError):
            [connection.set(f"key{number}", "x" * 100_000) for number in range(100)]

        assert connection.get("first") == "kept"


def test_its_files_are_the_owners_only(server: Server, tmp_path: Path) -> None:
    """Every file with a secret or with data is mode 0600, in a directory of mode 0700."""
    with Server.start(tmp_path) as persistent:
        for directory in (server.directory, persistent.directory):
            assert mode(directory) == 0o700
            assert {mode(directory / name) for name in ("server.conf", "server.log", "password", "lock")} == {0o600}


def test_the_users_own_data_dir_keeps_its_mode(tmp_path: Path) -> None:
    """A data_dir that exists is not changed: the server uses a directory inside it."""
    tmp_path.chmod(0o755)
    with Server.start(tmp_path):
        assert mode(tmp_path) == 0o755


def test_no_secret_is_in_a_command_line_or_log(server: Server) -> None:
    """The password is in no process's arguments, not in the log, and not in the repr."""
    password = server.url.split("@")[0].removeprefix("unix://:")
    arguments = [path.read_bytes() for path in processes_readable("cmdline")]

    assert len(password) >= 40
    assert not any(password.encode() in line for line in arguments)
    assert password not in repr(server) + (server.directory / "server.log").read_text()


def processes_readable(name: str) -> list[Path]:
    """The file ``name`` of every process that has not ended meanwhile."""
    found = []
    for path in Path("/proc").glob(f"[0-9]*/{name}"):
        with contextlib.suppress(OSError):
            path.read_bytes()
            found.append(path)
    return found


def test_the_environment_of_the_server_holds_no_secret(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program has in its environment does not reach the server."""
    monkeypatch.setenv("EGREGORE_SECRET", "canary")
    server.restart()

    assert "EGREGORE_SECRET" not in psutil.Process(server.pid).environ()


def test_stop_leaves_nothing(server: Server) -> None:
    """After stop the processes and their directories are gone, and a second stop does nothing."""
    pid = server.pid
    keeper = psutil.Process(pid).parent()
    assert keeper is not None
    assert keeper.pid != os.getpid()
    server.stop()
    server.stop()

    assert gone(pid)
    assert not keeper.is_running()
    assert not server.directory.exists()
    assert not server.socket.parent.exists()


def test_a_stopped_server_says_so(server: Server) -> None:
    """Restart after stop is a clear error."""
    server.stop()

    with pytest.raises(errors.ConfigurationError, match="was stopped; start a new one"):
        server.restart()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_program(number: signal.Signals) -> None:
    """When the program is ended by any signal, the server and its directories go, though a forked child lives on."""
    with parent() as (program, pid, *directories):
        assert not gone(pid)
        program.send_signal(number)
        program.wait()
        until(lambda: gone(pid) and not any(it.exists() for it in directories), what="the end of the server")


def test_a_persistent_directory_outlives_its_program(tmp_path: Path) -> None:
    """A data_dir stays when its program is killed, and the next start waits for the old server to let go of it."""
    with parent(str(tmp_path)) as (program, pid, directory, sockets):
        program.kill()
        program.wait()
        with Server.start(tmp_path) as second:
            assert gone(pid)
            assert second.directory == directory
        until(lambda: not sockets.exists(), what="the end of the socket's directory")


def test_s19_restart_after_kill_keeps_address_password_and_data() -> None:
    """A server that was killed comes back under the same addresses with its data."""
    with Server.start(tcp=True) as server:
        urls = server.url, server.tcp_url
        with client(server) as connection:
            connection.set("key", "value")
            server.kill()
            assert not server.alive
            server.restart()

            assert connection.get("key") == "value"
        with redis.Redis.from_url(server.tcp_url, decode_responses=True) as connection:
            assert connection.get("key") == "value"
        assert (server.url, server.tcp_url) == urls


def test_s19_data_dir_persists_after_kill(tmp_path: Path) -> None:
    """A second start on the data_dir of a killed server has its data and its password."""
    with Server.start(tmp_path) as first:
        password = first.url.split("@")[0]
        with client(first) as connection:
            connection.set("key", "value")
        first.kill()
    with Server.start(tmp_path) as second, client(second) as connection:
        assert connection.get("key") == "value"
        assert second.url.split("@")[0] == password


def test_two_servers_on_one_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second server on a data_dir in use is refused, and the first is not disturbed."""
    monkeypatch.setattr(server_module, "LOCK_TIMEOUT", 0.1)
    with Server.start(tmp_path) as first:
        with pytest.raises(errors.ConfigurationError, match="another server uses"):
            Server.start(tmp_path)
        with client(first) as connection:
            assert connection.ping()


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A link where the server's directory should be is not followed."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "server").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(errors.ConfigurationError, match="a link or another user's"):
        Server.start(tmp_path)


def test_a_server_that_fails_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server ends at once, the error has the end of its log, with the password blotted out."""
    monkeypatch.setattr(server_module, "CONFIG", server_module.CONFIG + "nonsense {password}\n")

    with pytest.raises(errors.BrokerUnavailable, match=r"(?s)ended with code 1.*nonsense \*\*\*"):
        Server.start(tmp_path)


def test_a_process_ends_with_all_it_started(tmp_path: Path) -> None:
    """Stopping a process that ignores SIGTERM ends it, its children and those that left its session."""
    script = "trap '' TERM; setsid sleep 600 & sleep 601 & echo started; wait; sleep 602"
    process = Process.spawn(["bash", "-c", script], env=dict(os.environ), log=tmp_path / "log", grace=0.1)
    until(lambda: len(psutil.Process(process.pid).children()) == 2 and "started" in process.log_tail())
    everything = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
    process.stop(0.1)

    assert process.returncode == -signal.SIGKILL
    assert not [pid for pid in everything if psutil.pid_exists(pid)]


def test_a_gentle_stop_goes_to_the_command_alone(tmp_path: Path) -> None:
    """The command hears SIGTERM and can wait for its children, which do not."""
    script = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(40 + bool(child.communicate()[0] or child.returncode)))
child = subprocess.Popen([sys.executable, "-c", "print('ready', flush=True); import sys; sys.stdin.read()"],
                         stdin=subprocess.PIPE)
signal.pause()
"""
    process = Process.spawn([sys.executable, "-c", script], env=dict(os.environ), log=tmp_path / "log")
    until(lambda: "ready" in process.log_tail())
    process.stop(10)

    assert process.returncode == 40


def test_a_command_that_cannot_start(tmp_path: Path) -> None:
    """A command that does not exist is an error that says so."""
    with pytest.raises(errors.ConfigurationError, match=r"no-such-command did not start: .*No such file"):
        Process.spawn(["no-such-command"], env=dict(os.environ), log=tmp_path / "log")


def test_wait_has_a_limit(tmp_path: Path) -> None:
    """Waiting for a process that goes on raises TimeoutError; its code is what the command returned."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = Process.spawn(["bash", "-c", f"read < {gate}; exit 3"], env=os.environ, log=tmp_path / "log")
    with pytest.raises(TimeoutError):
        process.wait(0)
    assert process.returncode is None
    gate.write_text("go\n")

    assert process.wait(20) == 3


def test_a_process_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """A process started from a thread lives on after that thread has ended."""
    with futures.ThreadPoolExecutor(1) as pool:
        process = pool.submit(Process.spawn, ["sleep", "600"], env=os.environ, log=tmp_path / "log").result()
    with pytest.raises(TimeoutError):
        process.wait(0.2)
    process.stop()

    assert process.returncode == -signal.SIGTERM


def test_stop_survives_the_loss_of_the_keeper(tmp_path: Path) -> None:
    """When the keeper itself was killed, stopping the process still ends the command."""
    process = Process.spawn(["sleep", "600"], env=os.environ, log=tmp_path / "log")
    psutil.Process(process.pid).parent().kill()
    process.stop()

    until(lambda: gone(process.pid), what="the end of the command")

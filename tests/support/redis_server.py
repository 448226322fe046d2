"""Redis servers with options of a test's own: limits on memory, roles, ACL users, Sentinel, cluster mode."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from egregore_dist.client.processes import Process
from egregore_dist.client.server import binary
from tests.support.waiting import until


class RedisServer:
    """A running server without a password on 127.0.0.1.

    Attributes:
        port: its port.
        url: its URL.
        client: a client that never tries again.
    """

    def __init__(self, folder: Path, port: int, *arguments: str) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
        self._folder = folder
        self._arguments = arguments
        self.start()

    def start(self) -> None:
        """Start it, or start it again after `kill`, and wait until it answers."""
        program = shutil.which("redis-server") or str(binary())
        log = self._folder / f"{self.port}.log"
        self._process = Process.spawn([program, *self._arguments], env={}, log=log, cwd=self._folder)
        until(self._answers, what=f"the server on port {self.port}")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()

    def follow(self, primary: RedisServer) -> None:
        """Become a replica, and wait until all of the primary's data are here."""
        self.client.replicaof("127.0.0.1", str(primary.port))
        until(lambda: self.client.info("replication")["master_link_status"] == "up", what="the replica")

    def close(self) -> None:
        """End it, and the client."""
        self.client.close()
        self._process.kill()

    def _answers(self) -> bool:
        assert self._process.alive, self._process.log_tail()
        try:
            return bool(self.client.ping())
        except redis.exceptions.RedisError:
            return False


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server.

    Args:
        folder: where its data and log are.
        options: of its command line, such as ``--maxmemory``, ``8mb``.
    """
    port = free_port()
    names = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--enable-debug-command", "local"]
    server = RedisServer(folder, port, *names, *options)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def sentinel(folder: Path, primary: RedisServer, *, name: str = "mymaster") -> Iterator[int]:
    """A sentinel that watches a primary and decides alone; its port."""
    port = free_port()
    config = folder / f"sentinel-{port}.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {port}\ndir {folder}\n"
        f"sentinel monitor {name} 127.0.0.1 {primary.port} 1\n"
        f"sentinel down-after-milliseconds {name} 700\n"
        f"sentinel failover-timeout {name} 3000\n"
    )
    server = RedisServer(folder, port, str(config), "--sentinel")
    try:
        yield port
    finally:
        server.close()

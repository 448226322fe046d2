"""What the container runs, as plain processes: the compose file's server, the entry point, the health check."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from egregore_dist.client.processes import Process
from egregore_dist.client.server import binary
from tests.cluster import container_nodes
from tests.support.redis_server import free_port
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@dataclass(frozen=True, slots=True)
class Compose:
    """What the compose file mounts and starts, with folders and a port of this machine."""

    folder: Path
    port: int
    tls: str

    def secret(self, role: str) -> Path:
        """The file with the password of a role."""
        return self.folder / "run/secrets" / f"{role}_password"

    def here(self, text: str) -> str:
        """A shipped text with the paths, the address and the port of this machine."""
        text = re.sub(
            r"/(?:run/secrets|run/valkey|etc/valkey|tls\b(?!\.)|data\b)", lambda it: f"{self.folder}{it[0]}", text
        )
        return text.replace("bind * -::*", "bind 127.0.0.1").replace("port 6379", f"port {self.port}")

    def environ(self, role: str) -> dict[str, str]:
        """The environment of a role's service; the host and the port are this machine's."""
        given = SERVICES[role]["environment"]
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")},
            **{name: self.here(value) for name, value in given.items() if "$" not in value},
            "EGREGORE_BROKER_HOST": "127.0.0.1",
            "EGREGORE_BROKER_PORT": str(self.port),
            "EGREGORE_BROKER_TLS": self.tls,
            "PYTHONPATH": str(ROOT),
        }

    def script(self, command: str) -> list[str]:
        """A command line of the compose file, as one that this machine can start."""
        return ["sh", "-c", self.here(command.replace("$$", "$")), "sh"]

    def is_healthy(self) -> bool:
        """Whether the health check of the server's service passes."""
        test = self.script(SERVICES["valkey"]["healthcheck"]["test"][1])
        return subprocess.run(test, env=self.server_environ(), capture_output=True, timeout=30).returncode == 0

    def anonymous(self, *, tls: bool) -> redis.Redis:
        """A client without a password."""
        ca = {"ssl": True, "ssl_ca_certs": str(self.folder / "tls/ca.pem")} if tls else {}
        return redis.Redis("127.0.0.1", self.port, retry=Retry(NoBackoff(), 0), **ca)

    def server_environ(self) -> dict[str, str]:
        """The environment of the server's service, with programs of the image's names."""
        return {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "EGREGORE_BROKER_TLS": self.tls}


@pytest.fixture(params=["yes", "no"], ids=["tls", "plain"])
def compose(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Compose]:
    """The compose file's server, started by the shipped scripts with the shipped configuration and ACL users."""
    compose = Compose(tmp_path, free_port(), request.param)
    for folder in ("run/secrets", "run/valkey", "etc/valkey", "tls", "data", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for role in ("worker", "client", "viewer", "operator"):
        compose.secret(role).write_text(secrets.token_hex(16))
        compose.secret(role).chmod(0o440)
    for name in ("valkey.conf", "tls.conf", "valkey.sh", "certificates.sh"):
        (tmp_path / "etc/valkey" / name).write_text(compose.here((ROOT / "deploy" / name).read_text()))
    shutil.copytree(ROOT / "deploy/acl", tmp_path / "etc/valkey/acl")
    (tmp_path / "bin/valkey-server").symlink_to(binary())
    cli = tmp_path / "bin/valkey-cli"
    cli.write_text(f'#!/bin/sh\nREDISCLI_AUTH="$VALKEYCLI_AUTH" exec redis-cli -p {compose.port} "$@"\n')
    cli.chmod(0o755)
    made = ["sh", str(tmp_path / "etc/valkey/certificates.sh")]
    subprocess.run(made, env=compose.server_environ(), check=True, capture_output=True, timeout=60)
    command = ["sh", *map(compose.here, SERVICES["valkey"]["command"][1:])]
    server = Process.spawn(command, env=compose.server_environ(), log=tmp_path / "server.log")
    try:
        until(lambda: _answers(compose, server), what="the server")
        yield compose
    finally:
        server.stop()


def _answers(compose: Compose, server: Process) -> bool:
    if not server.alive:
        if "TLS" in server.log_tail():
            pytest.skip("the server on the PATH has no TLS")
        raise AssertionError(server.log_tail())
    return compose.is_healthy()


CLIENT = """
from egregore_dist import parallel
from tests.cluster import container_nodes as nodes
print(parallel(nodes.double, nodes.square)(7))
"""


def test_s18_a_workflow_runs_as_the_compose_file_has_it(compose: Compose, tmp_path: Path) -> None:
    """The worker and the client of the compose file, each as its own user of the server, run a workflow.

    The worker's health check passes, and fails once the worker is gone. Without a password nothing is served.
    """
    entry = [sys.executable, str(ROOT / "worker/entrypoint.py")]
    environ = {
        **compose.environ("worker"),
        "EGREGORE_WORKER_NAME": "contained",
        "EGREGORE_MODULES": container_nodes.__name__,
        "EGREGORE_REPORT_TTL": "2",
        "EGREGORE_REPORT_INTERVAL": "0.5",
    }

    def is_healthy() -> bool:
        check = [sys.executable, str(ROOT / "worker/healthcheck.py")]
        return subprocess.run(check, env=environ, capture_output=True, timeout=30).returncode == 0

    assert not is_healthy()
    worker = Process.spawn([*entry, "--concurrency", "1"], env=environ, log=tmp_path / "worker.log")
    try:
        until(is_healthy, seconds=60, what=f"the worker\n{worker.log_tail()}")
        client = [*entry, sys.executable, "-c", CLIENT]
        done = subprocess.run(client, env=compose.environ("client"), capture_output=True, text=True, timeout=60)
        assert done.stdout == "{'double': 14, 'square': 49}\n", done.stderr
        command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
        assert compose.secret("worker").read_text().encode() not in command
        with pytest.raises(redis.exceptions.AuthenticationError):
            compose.anonymous(tls=compose.tls == "yes").ping()
        with pytest.raises(redis.exceptions.ConnectionError):
            compose.anonymous(tls=compose.tls == "no").ping()
    finally:
        worker.kill()
    until(lambda: not is_healthy(), what="the health check of a worker that is gone")

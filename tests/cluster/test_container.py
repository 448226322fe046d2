"""What the container runs, as plain processes: the compose file's server, the entry point, the health check."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from egregore_dist import connect, parallel
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.client.server import binary
from tests.cluster import container_nodes
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """The secret file that compose mounts."""
    file = tmp_path / "broker_password"
    file.write_text(secrets.token_hex(16))
    file.chmod(0o440)
    return file


@pytest.fixture
def port(tmp_path: Path, password: Path) -> Iterator[int]:
    """A server with the settings of ``deploy/valkey.conf``; only where it listens and writes is this machine's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    included = tmp_path / "password.conf"
    included.write_text(f'requirepass "{password.read_text()}"\n')
    data = tmp_path / "data"
    data.mkdir()
    text = (ROOT / "deploy/valkey.conf").read_text()
    for setting, here in (
        ("include", str(included)),
        ("bind", "127.0.0.1"),
        ("port", str(port)),
        ("dir", str(data)),
    ):
        text, changed = re.subn(rf"^{setting} .*$", f"{setting} {here}", text, flags=re.MULTILINE)
        assert changed == 1
    conf = tmp_path / "valkey.conf"
    conf.write_text(text)
    server = Process.spawn([str(binary()), str(conf)], env=dict(os.environ), log=tmp_path / "server.log")
    client = redis.Redis(port=port, password=password.read_text())
    until(lambda: _answers(client), what="the server")
    yield port
    client.close()
    server.stop()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_a_container_serves_workflows_and_knows_whether_it_is_healthy(
    tmp_path: Path, password: Path, port: int
) -> None:
    """The entry point becomes a worker that serves; the health check says so, and says no once it is gone."""
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")},
        "EGREGORE_BROKER_HOST": "127.0.0.1",
        "EGREGORE_BROKER_PORT": str(port),
        "EGREGORE_BROKER_PASSWORD_FILE": str(password),
        "EGREGORE_WORKER_NAME": "contained",
        "EGREGORE_MODULES": container_nodes.__name__,
        "EGREGORE_REPORT_TTL": "2",
        "EGREGORE_REPORT_INTERVAL": "0.5",
        "PYTHONPATH": str(ROOT),
    }

    def is_healthy() -> bool:
        check = [sys.executable, str(ROOT / "worker/healthcheck.py")]
        return subprocess.run(check, env=environ, capture_output=True, timeout=30).returncode == 0

    assert not is_healthy()
    entry = [sys.executable, str(ROOT / "worker/entrypoint.py"), "--concurrency", "1"]
    worker = Process.spawn(entry, env=environ, log=tmp_path / "worker.log")
    try:
        until(is_healthy, seconds=60, what=f"the worker\n{worker.log_tail()}")
        before = session.use(None)
        try:
            client = connect(f"redis://:{password.read_text()}@127.0.0.1:{port}/0")
            value = parallel(container_nodes.double, container_nodes.square)(7)
            client.close()
        finally:
            session.use(before)
        assert value == {"double": 14, "square": 49}
        command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
        assert password.read_text().encode() not in command
    finally:
        worker.kill()
    until(lambda: not is_healthy(), what="the health check of a worker that is gone")

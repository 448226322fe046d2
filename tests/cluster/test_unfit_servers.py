"""Servers that cannot hold a ledger: workers do not start on them, clients do not submit to them, `doctor` says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from egregore_dist import errors
from egregore_dist.cli import codes, main
from egregore_dist.client import session
from egregore_dist.client.session import Session
from egregore_dist.ledger import Ledger
from egregore_dist.settings import load
from tests.cluster.test_install import APP
from tests.support.clusters import submitting
from tests.support.flows import FLOW
from tests.support.redis_server import RedisServer, redis_server

#: What each kind of unfit server is started with, and the cure that every error names.
UNFIT = {
    "volatile-lru": (("--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru"), "maxmemory-policy noeviction"),
    "allkeys-lfu": (("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lfu"), "maxmemory-policy noeviction"),
    "cluster": (("--cluster-enabled", "yes"), "Sentinel"),
}


@pytest.fixture(scope="module", params=UNFIT)
def unfit(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RedisServer, str]]:
    """An unfit server, and its cure."""
    options, cure = UNFIT[request.param]
    with redis_server(tmp_path_factory.mktemp("unfit"), *options) as server:
        if request.param == "cluster":
            server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield server, cure


def test_a_worker_does_not_start(unfit: tuple[RedisServer, str]) -> None:
    """The command ends at once, with one clear line that names the cure."""
    server, cure = unfit
    done = CliRunner(env={"EGREGORE_BROKER_URL": server.url}).invoke(main, ["worker"])

    assert done.exit_code == codes.USAGE
    assert cure in done.stderr
    assert done.stderr.count("\n") <= 2


def test_a_worker_of_an_installed_app_does_not_start(unfit: tuple[RedisServer, str], tmp_path: Path) -> None:
    """The app's own worker ends with the cure, and serves nothing."""
    server, cure = unfit
    (tmp_path / "theirs.py").write_text(APP.format(before="", after=""))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "THEIR_BROKER": server.url}
    command = [sys.executable, "-m", "celery", "-A", "theirs", "worker", "-c1", "-Q", "celery,egregore"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path)

    assert done.returncode != 0
    assert cure in done.stdout + done.stderr


def test_a_client_does_not_submit(unfit: tuple[RedisServer, str]) -> None:
    """The first submit of a session is refused before anything is written, and so is `connect`."""
    server, cure = unfit
    with submitting(load(broker_url=server.url)), pytest.raises(errors.ConfigurationError, match=cure):
        FLOW.submit(1)
    with pytest.raises(errors.ConfigurationError, match=cure):
        session.connect(server.url)

    assert server.client.dbsize() == 0


def test_doctor_names_the_cure(unfit: tuple[RedisServer, str]) -> None:
    """What keeps a server from holding a ledger is a problem to the doctor."""
    server, cure = unfit
    done = CliRunner(env={"EGREGORE_BROKER_URL": server.url}).invoke(main, ["doctor", "--json"])

    problems = [check for check in json.loads(done.stdout)["checks"] if check["status"] == "problem"]
    assert any(cure in check["cure"] for check in problems), problems


def test_a_session_asks_once(tmp_path: Path) -> None:
    """What a server is like is asked for before the first submit of a session, and not again."""
    with redis_server(tmp_path) as server, closing(Session(load(broker_url=server.url))) as mine:
        for _ in range(3):
            mine.refuse_unfit_server()

        assert server.client.info("commandstats")["cmdstat_info"]["calls"] == 1


def test_a_limit_without_a_policy_that_evicts(tmp_path: Path) -> None:
    """A server that refuses writes when it is full is fit, and so is one that has no limit, whatever its policy."""
    with redis_server(tmp_path, "--maxmemory", "64mb") as server, closing(Ledger(server.url)) as ledger:
        ledger.refuse_unfit_server()
        server.client.config_set("maxmemory", 0)
        server.client.config_set("maxmemory-policy", "allkeys-lru")
        ledger.refuse_unfit_server()


def test_a_server_that_hides_its_policy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where INFO and CONFIG are forbidden, the log and `doctor` warn that the policy could not be checked."""
    with redis_server(tmp_path) as server:
        server.client.execute_command("ACL", "SETUSER", "shy", "on", ">pw", "~*", "&*", "+@all", "-info", "-config")
        url = server.url.replace("//", "//shy:pw@")
        with closing(Ledger(url)) as ledger:
            ledger.refuse_unfit_server()
        done = CliRunner(env={"EGREGORE_BROKER_URL": url}).invoke(main, ["doctor", "--json"])

    assert [record.action for record in caplog.records] == ["policy_unknown"]  # type: ignore[attr-defined]
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["memory"]["status"] == "warning"
    assert "+info" in checks["memory"]["cure"]
    assert checks["ledger"]["status"] == "ok"

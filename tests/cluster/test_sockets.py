"""Broker and ledger on a Unix socket, in each form of its URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from click.testing import CliRunner

from egregore_dist import LocalCluster
from egregore_dist.cli import main
from egregore_dist.client.server import Server
from tests.support.flows import FLOW


class Socket(NamedTuple):
    path: Path
    password: str


@pytest.fixture(scope="module")
def at() -> Iterator[Socket]:
    """A server on a socket alone."""
    with Server.start() as server:
        yield Socket(server.socket, server.url.partition("@")[0].removeprefix("unix://:"))


@pytest.mark.parametrize(
    ("for_broker", "for_ledger", "databases"),
    [
        (
            "redis+socket://:{0.password}@{0.path}?virtual_host=6",
            "unix://{0.path}?db=5&password={0.password}",
            {"db5", "db6"},
        ),
        (
            "unix://default:{0.password}@{0.path}?db=4",
            "redis+socket://:{0.password}@{0.path}?virtual_host=3",
            {"db3", "db4"},
        ),
    ],
)
def test_a_run_over_a_socket(at: Socket, for_broker: str, for_ledger: str, databases: set[str]) -> None:
    """A block runs on broker and ledger in two databases of one server, and leaves keys in these alone."""
    with LocalCluster(workers=1, broker_url=for_broker.format(at), ledger_url=for_ledger.format(at)):
        assert FLOW.submit(21).result(timeout=60) == {"doubled": 42, "negated": -21}

    with redis.Redis(unix_socket_path=str(at.path), password=at.password) as server:
        assert set(server.info("keyspace")) == databases
        server.flushall()


def test_doctor_over_a_socket(at: Socket) -> None:
    """The doctor finds broker and ledger well, refuses what names no socket, and shows no password."""

    def states(broker: str) -> dict[str, str]:
        ledger = f"unix://{at.path}?db=5&password={at.password}"
        environment = {"EGREGORE_BROKER_URL": broker, "EGREGORE_LEDGER_URL": ledger}
        done = CliRunner(env=environment).invoke(main, ["doctor", "--json"])
        assert at.password not in done.output
        return {check["name"]: check["status"] for check in json.loads(done.stdout)["checks"]}

    right = states(f"redis+socket://:{at.password}@{at.path}?virtual_host=6")
    wrong = states(f"redis+socket://:{at.password}@{at.path}?virtual_host=six")

    assert (right["broker"], right["ledger"]) == ("ok", "ok")
    assert (wrong["broker"], wrong["ledger"]) == ("problem", "ok")

"""A replica becomes the primary while runs go on: planned, behind one address, or by Sentinel."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from egregore_dist import LocalCluster, Run, Sequence, errors, node
from egregore_dist.cli import main
from egregore_dist.client import session
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, redis_server, sentinel
from tests.support.trial import notice_soon
from tests.support.waiting import let_pass, until

HEALS = 10.0
# A busy machine is slower than the product.
SLACK = 10.0


@node
def tenth(number: int) -> float:
    time.sleep(0.02)
    return number / 10


@node
def added(numbers: list[float]) -> float:
    return round(sum(numbers), 3)


FLOW = Sequence(tenth.map(), added, name="tenths")
NUMBERS = list(range(12))
SUM = 6.6


class Load:
    """Submits runs one after the other until it is told to stop; a context manager."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.refused = 0
        self._stopped = threading.Event()
        self._session = session.current()
        self._thread = threading.Thread(target=self._submit, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        until(lambda: len(self.runs) >= 3, what="a load of three runs")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Submit no more."""
        self._stopped.set()
        self._thread.join(30)

    def _submit(self) -> None:
        while not self._stopped.wait(0.1):
            try:
                self.runs.append(FLOW.submit(NUMBERS))
            except (errors.BrokerUnavailable, errors.BrokerFull):
                self.refused += 1


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary, and a replica that has followed it."""
    with redis_server(tmp_path) as primary, redis_server(tmp_path) as replica:
        replica.follow(primary)
        yield primary, replica


@contextmanager
def cluster_on(url: str, patch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """Two workers of two lanes on a server that exists."""
    notice_soon(patch)
    with LocalCluster(workers=2, concurrency=2, broker_url=url) as cluster:
        yield cluster


def test_a_planned_failover_behind_one_address(
    pair: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    """Connections stay open to the former primary, now a replica; they are made anew, and every run ends well."""
    primary, replica = pair
    with Proxy(primary.port) as proxy, cluster_on(f"redis://127.0.0.1:{proxy.port}/0", monkeypatch), Load() as load:
        primary.client.execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
        until(lambda: primary.client.info("replication")["role"] == "slave", what="the former primary as a replica")
        proxy.switch(replica.port)
        switched, before = time.monotonic(), len(load.runs)
        until(lambda: len(load.runs) > before, seconds=HEALS + SLACK, what="a submit after the failover")
        last = load.runs[-1]
        assert last.result(timeout=HEALS + SLACK) == SUM
        took = time.monotonic() - switched
        let_pass(0.5)
        load.stop()

        assert [run.result(timeout=40) for run in load.runs] == [SUM] * len(load.runs)
        until(lambda: not replica.client.hlen("unacked"), seconds=30, what="the end of every message")
        figure(f"{took:.1f} s from the failover to the end of a run that was submitted after it")


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("asked for", marks=pytest.mark.long),
        "asked for, with min-replicas-to-write",
        "killed",
    ],
)
def test_a_failover_by_sentinel(
    pair: tuple[RedisServer, RedisServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Callable[[str], None],
    how: str,
) -> None:
    """Broker and ledger follow the primary that Sentinel names; runs end well, or as lost where it lost them.

    Sentinel leaves the former primary as it is for some seconds; with min-replicas-to-write that takes nothing more.
    """
    primary, replica = pair
    keeps = "min-replicas" in how
    for server in pair if keeps else ():
        server.client.config_set("min-replicas-to-write", 1)
    with (
        sentinel(tmp_path, primary) as port,
        redis.Redis(port=port) as watcher,
        cluster_on(f"sentinel://127.0.0.1:{port}/0?master_name=mymaster", monkeypatch) as cluster,
        Load() as load,
    ):
        until(lambda: watcher.sentinel_master("mymaster")["num-slaves"] == 1, what="the replica as Sentinel sees it")
        doctor = CliRunner(env={"EGREGORE_BROKER_URL": cluster.url}).invoke(main, ["doctor", "--json"])
        checks = {check["name"]: check["status"] for check in json.loads(doctor.stdout)["checks"]}
        assert (checks["broker"], checks["ledger"]) == ("ok", "ok")
        if how != "killed":
            watcher.execute_command("SENTINEL", "FAILOVER", "mymaster")
        else:
            primary.kill()
        began = time.monotonic()
        until(lambda: watcher.sentinel_master("mymaster")["port"] == replica.port, seconds=30, what="the new primary")
        if keeps:
            until(lambda: is_replica(primary), seconds=30, what="the former primary as a replica")
        before = len(load.runs)
        until(lambda: len(load.runs) > before + 1, seconds=HEALS + SLACK, what="submits after the failover")
        # Without min-replicas-to-write the former primary, while it runs, may have taken it.
        assert end_of(load.runs[-1]) == "good" or how == "asked for"
        took = time.monotonic() - began
        load.stop()

        ends = Counter(map(end_of, load.runs))
        assert ends["good"] > 0, ends
        assert not (keeps and ends["lost"]), ends
        assert_nothing_is_left(replica)
        figure(f"{took:.1f} s from the failover to the end of a run that was submitted after it; {dict(ends)}")


def is_replica(server: RedisServer) -> bool:
    """Whether it is one; while it becomes one it closes its connections."""
    try:
        return bool(server.client.info("replication")["role"] == "slave")
    except redis.exceptions.ConnectionError:
        return False


def end_of(run: Run) -> str:
    """How a run ended: "good" or "lost"; nothing else may be."""
    try:
        assert run.result(timeout=40) == SUM
    except errors.RunLost:
        return "lost"
    return "good"


def assert_nothing_is_left(server: RedisServer) -> None:
    """Nothing of any run is to be done, and each key of a run expires.

    A message whose acknowledgement the failover lost stays until the visibility timeout, and is harmless then.
    """
    client = server.client
    until(lambda: not client.exists("egd:agenda"), seconds=30, what="the end of every entry of the agenda")
    staying = [key for key in client.scan_iter(match="egd:{*", count=1000) if client.ttl(key) == -1]
    assert staying == []

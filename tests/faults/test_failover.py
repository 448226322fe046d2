"""A replica becomes the primary while runs go on: planned, behind one address, or by Sentinel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from egregore_dist import LocalCluster, Run, Sequence, errors, node
from egregore_dist.client import session
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, redis_server
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
        load.__exit__()

        assert [run.result(timeout=40) for run in load.runs] == [SUM] * len(load.runs)
        until(lambda: not replica.client.hlen("unacked"), seconds=30, what="the end of every message")
        figure(f"{took:.1f} s from the failover to the end of a run that was submitted after it")

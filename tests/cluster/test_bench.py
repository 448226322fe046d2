"""The parts of the benchmark that need a cluster: what is left of a block, the sum of a makespan, and the relay."""

from __future__ import annotations

import threading

import pytest

from bench import relay
from bench.peers import accounts, cases
from bench.peers.drivers import ours
from bench.peers.protocol import Work
from egregore_dist import LocalCluster
from egregore_dist.client.server import Server
from tests.support.waiting import until


def test_what_is_left_of_a_block_is_what_the_ledger_has(local: LocalCluster) -> None:
    """Nothing before it is submitted, branches while it runs, and nothing after its last one."""
    driver = ours.Driver()
    call = driver.prepare(Work(function="doze", item=0.1, count=12))
    assert driver.left() == 0

    running = threading.Thread(target=call)
    running.start()
    until(lambda: 0 < driver.left() < 12, what="a branch that is done")
    running.join()

    assert driver.left() == 0


def test_the_parts_of_a_run_are_told_from_the_ledger(local: LocalCluster) -> None:
    """The sum has the work as its first part, and nothing of it is far below nothing."""
    (case,) = [case for case in cases.every(quick=True) if case.name == "skewed"]
    assert case.work.items is not None
    parts = accounts._makespan(case)

    assert next(iter(parts.values())) == pytest.approx(sum(case.work.items) / cases.CAP)
    assert min(parts.values()) > -0.05


def test_the_relay_goes_round() -> None:
    """As often as asked, once it is warm."""
    with Server.start() as server:
        taken = relay.seconds(server.url, 3)

    assert len(taken) == 3
    assert min(taken) > 0

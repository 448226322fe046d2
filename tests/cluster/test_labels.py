"""Branches with labels and GPUs run only where workers have them: three workers, on Redis and on RabbitMQ."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from egregore_dist import LocalCluster, Run, Sequence, errors, node, parallel
from egregore_dist.client import session
from egregore_dist.client.server import Server
from egregore_dist.resources.report import Report
from tests.support.clusters import RABBITMQ, answers, delete_queues, queues_of
from tests.support.waiting import until


@node
def anywhere(_: int) -> int:
    return os.getppid()


@node(labels={"zone": "eu"})
def eu(_: int) -> int:
    return os.getppid()


@node(labels={"zone": "us"})
async def us(_: int) -> int:
    return os.getppid()


@node(gpus=2, labels={"zone": "us", "disk": "ssd"})
def gpu(_: int) -> int:
    return os.getppid()


@pytest.fixture(scope="module", params=["valkey", *(["rabbitmq"] if answers(RABBITMQ) else [])])
def placed(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """Workers in two zones, of which one has GPUs, and one that is nowhere; on each kind of broker."""
    with ExitStack() as stack:
        options: dict[str, str] = {}
        if request.param == "rabbitmq":
            ledger = stack.enter_context(Server.start())
            name = f"egdtest-{uuid.uuid4().hex[:8]}"
            url = "amqp://guest:guest@127.0.0.1:5672//"
            options = {"broker_url": url, "ledger_url": ledger.url, "queue": name, "prefix": name}
        cluster = stack.enter_context(LocalCluster(workers=1, **options))  # type: ignore[arg-type]
        cluster.add_worker(wait=False, labels={"zone": "eu"})
        cluster.add_worker(labels={"zone": "us", "disk": "ssd"}, gpus=2)
        yield cluster
        queues = queues_of(session.current())
    if request.param == "rabbitmq":
        delete_queues(url, queues)


def test_branches_go_where_they_may(placed: LocalCluster) -> None:
    """One block has branches of four kinds, each of which only the workers serve that have what it needs."""
    _, in_eu, in_us = (worker.pid for worker in placed.workers)
    branches = [eu, us, gpu, *(step.alias(f"{step.name}{n}") for step in (eu, us, gpu) for n in range(4)), anywhere]
    step = parallel(*branches, Sequence(eu.alias("first"), anywhere, gpu.alias("then"), eu.alias("last"), name="moves"))

    found = step(1)

    assert {found[name] for name in found if name.startswith("eu")} == {in_eu}
    assert {found[name] for name in found if name.startswith(("us", "gpu"))} == {in_us}
    assert found["moves"] == in_eu
    assert list(found) == [*(branch.name for branch in branches), "moves"]


def test_a_map_and_a_whole_run(placed: LocalCluster) -> None:
    """A run that begins with such a node, and each branch of a map of one, go there too."""
    _, in_eu, in_us = (worker.pid for worker in placed.workers)

    assert eu(1) == os.getppid()
    assert eu.run(1) == in_eu
    assert set(us.map().run(list(range(40)))) == {in_us}


def test_reports_and_plans_say_so(placed: LocalCluster) -> None:
    """Workers report their labels and GPUs, and their own queues only; a plan shows who may serve a track."""
    raws = session.current().ledger.reports()
    said = [msgspec.msgpack.decode(raws[worker.name], type=Report) for worker in placed.workers]

    assert [each.labels for each in said] == [(), ("zone=eu",), ("disk=ssd", "zone=us")]
    assert [len(each.gpus) for each in said[1:]] == [len(said[0].gpus), 2]
    assert {each.queues for each in said} == {(placed.settings.queue,)}
    text = str(gpu.map().plan(items=9))
    assert "1 lane for 9 branches" in text
    assert "1 slot of 1 worker" in text
    assert "GPUs per node: 2 (declared)" in text
    assert "only on workers with disk=ssd, zone=us (declared)" in text


def test_what_no_worker_has_is_refused(placed: LocalCluster) -> None:
    """A node that no live worker may run is refused at once; the error says what there is, and what to start."""
    asia = node("asia", labels={"zone": "asia"}, gpus=1)(anywhere.fn)
    with pytest.raises(errors.WorkflowError, match="node 'asia' needs label zone=asia and 1 GPU, and") as caught:
        Sequence(anywhere, asia).submit(1)

    queue = re.escape(placed.settings.queue)
    assert re.search(f"`egregore-dist worker -q {queue} --label zone=asia --gpus 1`", str(caught.value))


def test_a_branch_waits_for_a_worker_that_has_it(placed: LocalCluster) -> None:
    """Where the only worker that has it stops, the run says what it waits for, and goes on with one that comes."""
    worker = placed.workers[1]
    worker.stop()
    placed.forget(worker)
    ledger = session.current().ledger
    runs: list[Run] = []

    def is_accepted() -> bool:
        # Nobody is alive for a moment, as after a restart of everything: so nobody can refuse it.
        for name in ledger.reports():
            ledger.retire(name)
        try:
            runs.append(parallel(eu, anywhere, name="pair").submit(1))
        except errors.WorkflowError:
            # Somebody has reported meanwhile.
            return False
        return True

    until(is_accepted, what="a moment in which nobody is alive")
    (run,) = runs
    until(lambda: any(reason.kind == "labels" for reason in run.why()), what="the reason")
    (reason,) = [reason for reason in run.why() if reason.kind == "labels"]
    assert reason.numbers == {"waiting": 1}
    assert "needs label zone=eu, and the nearest worker" in reason.text
    assert f"`egregore-dist worker -q {placed.settings.queue} --label zone=eu`" in reason.text
    worker.start()
    assert run.result(timeout=60)["eu"] == worker.pid
    placed.wait_ready()

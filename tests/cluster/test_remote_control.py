"""What a stranger who can write to the broker gets from workers by Celery's remote control: nothing is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.worker.control import Panel
from kombu.utils.json import dumps

from egregore_dist import LocalCluster, node
from egregore_dist.client import session
from egregore_dist.engine import control
from egregore_dist.wire import orders
from egregore_dist.wire.signing import Signer
from egregore_dist.worker import remote
from tests.support.secret import secret_of
from tests.support.waiting import until

ORDERS = {control.DRAIN, control.RESUME, control.STOP, control.CONCURRENCY}


@node
def gate(path: str) -> str:
    """Wait until there is a file."""
    from pathlib import Path

    from tests.support.waiting import until

    Path(path + ".begun").touch()
    until(Path(path).exists, seconds=60, what="the gate")
    return "open"


def ask(worker: str, command: str, **arguments: Any) -> Any:
    """What a worker answers to a raw message."""
    app = session.current().app
    for _ in range(10):
        answers: Any = app.control.broadcast(
            command, arguments=arguments, destination=[worker], reply=True, timeout=2, limit=1
        )
        if answers:
            return answers[0][worker]
    raise AssertionError(f"{worker} does not answer {command}")


def state(worker: str) -> tuple[object, ...]:
    """What a worker says of itself that a command could change."""
    said = session.current().workers.find(worker)
    return said.pid, said.life, said.slots, said.queues, said.prefetch, said.holds, tuple(sorted(said.children))


@pytest.fixture
def worker(cluster: LocalCluster) -> Iterator[str]:
    """The name of a worker, which takes lanes again afterwards."""
    name = cluster.workers[0].name
    yield name
    session.current().workers.resume(name)


def test_s17_raw_commands_change_nothing(worker: str, cluster: LocalCluster, tmp_path: Path) -> None:
    """Every command of Celery's, and ours without a signature: the worker and the lane that it runs go on."""
    queue = session.current().settings.queue
    arguments: dict[str, dict[str, Any]] = {
        "revoke_by_stamped_headers": {"headers": {"a": "b"}, "terminate": True},
        "rate_limit": {"task_name": "egregore.lane", "rate_limit": "1/h"},
        "time_limit": {"task_name": "egregore.lane", "hard": 1, "soft": 1},
        "pool_grow": {"n": 2},
        "pool_shrink": {"n": 1},
        "autoscale": {"max": 4, "min": 3},
        "add_consumer": {"queue": "stranger"},
        "cancel_consumer": {"queue": queue},
        "election": {"id": "1", "topic": "task", "action": None},
        "objgraph": {"num": 1},
        "memdump": {},
        "query_task": {"ids": ["x"]},
        control.CONCURRENCY: {"number": 4},
    }
    path = tmp_path / "gate"
    runs = [gate.submit(str(path)) for _ in cluster.workers]
    until(lambda: Path(f"{path}.begun").exists(), what="a lane at work")
    workers = session.current().workers
    until(lambda: all(said.lanes for said in workers.list()), what="both lanes in the reports")
    before = state(worker)
    (lane,) = workers.find(worker).lanes
    ids = {"task_id": lane, "terminate": True, "signal": "KILL"}
    arguments |= {"revoke": ids, "terminate": ids, "hello": {"from_node": "w@elsewhere", "revoked": [lane]}}
    names = {*Panel.data, *ORDERS}
    answers = {name: ask(worker, name, **arguments.get(name, {})) for name in sorted(names)}
    refused = {name for name, answer in answers.items() if isinstance(answer, dict) and "error" in answer}
    report = session.current().ledger.now()
    until(lambda: workers.find(worker).at > report, what="a report since")

    assert refused == (names - remote.ALLOWED.keys()) | ORDERS
    assert state(worker) == before
    assert not ask(worker, "revoked")
    path.touch()
    assert [run.result(timeout=60, progress=False) for run in runs] == ["open"] * len(runs)
    assert all(part.executions.lost == 0 for run in runs for part in run.report().workers)
    settings = session.current().settings
    secrets = [settings.secret, settings.broker_url, settings.ledger_url]
    words = {word for each in secrets if each for word in re.findall(r"[^:/@]{16,}", each.get_secret_value())}
    assert words
    assert not [word for word in words if word in json.dumps(json.loads(dumps(answers)))]


def test_s17_only_a_signed_order_is_done_and_once(worker: str) -> None:
    """One that is old, for another worker or not signed by the cluster's secret is refused; a repeated one is idle."""
    found = session.current()
    life, now = found.workers.find(worker).life, found.ledger.now()

    def order(signer: Signer = found.signer, command: str = control.DRAIN, **changed: Any) -> str:
        given: dict[str, Any] = {"worker": worker, "life": life, "at": now, **changed}
        return orders.give(signer, command, {}, **given)

    bad = [
        None,
        order(Signer.from_text(secret_of("another"))),
        order(command=control.STOP),
        order(worker="other@here"),
        order(life="before"),
        order(at=now - orders.LIFETIME - 5_000),
    ]
    for each in bad:
        assert "error" in ask(worker, control.DRAIN, order=each)
    assert not found.workers.find(worker).holds

    good = order()
    assert ask(worker, control.DRAIN, order=good) == {"ok": "drained"}
    found.workers.resume(worker)
    assert ask(worker, control.DRAIN, order=good) == {"ok": "drained"}, "the answer of before"
    report = found.ledger.now()
    until(lambda: found.workers.find(worker).at > report, what="a report since")
    assert not found.workers.find(worker).holds

"""What the doctor says about what it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from egregore_dist import errors
from egregore_dist.cli import examine
from egregore_dist.cli.examine import Check
from egregore_dist.cli.probe import Server, Worker
from egregore_dist.client import server
from egregore_dist.ledger import Aside
from egregore_dist.resources.report import Report
from egregore_dist.settings import Settings
from tests.support.secret import secret_of

GOOD = Server(
    kind="valkey",
    version="8.1.0",
    persistent=True,
    writes=True,
    maxmemory=0,
    used=10**6,
    policy="noeviction",
    round_trip=0.0002,
    skew=0.01,
    overdue=0,
)


def worker(name: str = "w@h", **fields: object) -> Worker:
    """A worker that is as it should be but for ``fields`` of its report."""
    report = Report(
        worker=name,
        host="h",
        pid=1,
        cores=2,
        memory_available=1,
        memory_total=2,
        slots=2,
        queues=("egregore",),
        modules=("shop",),
        nodes=("a", "b"),
        time=100.5,
        version="1.0",
    )
    return Worker(report=msgspec.structs.replace(report, **fields), reported=100, age=1)


def wrong(checks: list[Check]) -> dict[str, str]:
    """The status of the checks that are not ok; each has a cure."""
    found = {check.name: check.status for check in checks if check.status != "ok"}
    assert all(check.cure for check in checks if check.status != "ok")
    return dict(found)


def test_a_good_server() -> None:
    """Nothing is wrong with a server that keeps everything."""
    assert wrong(examine.judge_server(GOOD)) == {}


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (replace(GOOD, kind="redis", version="6.0.16"), {"ledger": "problem"}),
        (replace(GOOD, kind="redis", version="6.2.0"), {}),
        (replace(GOOD, persistent=False), {"persistence": "warning"}),
        (replace(GOOD, writes=False), {"persistence": "problem"}),
        (replace(GOOD, maxmemory=2 * 10**6), {}),
        (replace(GOOD, maxmemory=11 * 10**5), {"memory": "warning"}),
        (replace(GOOD, maxmemory=10**6), {"memory": "problem"}),
        (replace(GOOD, policy="allkeys-lru"), {"memory": "warning"}),
        (replace(GOOD, policy="allkeys-lru", maxmemory=10**9), {"memory": "problem"}),
        (replace(GOOD, holds=True, evicted=9), {"memory": "problem"}),
        (replace(GOOD, skew=-5.0), {"clock": "problem"}),
        (replace(GOOD, overdue=3), {"agenda": "problem"}),
    ],
)
def test_a_server_with_something_wrong(server: Server, expected: dict[str, str]) -> None:
    """Each thing that is wrong with a server is named, with its cure."""
    assert wrong(examine.judge_server(server)) == expected


def test_messages_that_were_set_aside() -> None:
    """They are a warning for a day, with the reason of the newest."""
    day = 86_400_000
    older, newest = (Aside(reason=reason, worker="w", queue="q", at=at) for reason, at in (("a", 1), ("broken", day)))

    assert examine.judge_messages([], day).status == "ok"
    assert wrong([examine.judge_messages([newest, older], 2 * day)]) == {"messages": "warning"}
    assert "broken" in examine.judge_messages([newest, older], 2 * day).detail
    assert "2 messages" in examine.judge_messages([newest, older], 3 * day).detail
    assert examine.judge_messages([newest, older], 3 * day).status == "ok"


def test_good_workers() -> None:
    """Nothing is wrong with workers of one release, queue and set of modules."""
    assert wrong(examine.judge_workers([worker("a"), worker("b")], Settings(), "1.0")) == {}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"version": "0.9"}, {"releases": "problem"}),
        ({"modules": ("other",)}, {"modules": "warning"}),
        ({"modules": ("other",), "queues": ("gpu",)}, {}),
        ({"time": 130.0}, {"clock": "problem"}),
        ({"holds": {"drained": ""}}, {"workers": "warning"}),
    ],
)
def test_a_worker_that_differs(fields: dict[str, object], expected: dict[str, str]) -> None:
    """Where one worker differs from the others in what matters, it is said."""
    assert wrong(examine.judge_workers([worker("a"), worker("b", **fields)], Settings(), "1.0")) == expected


def test_no_worker() -> None:
    """Without a worker there is one problem."""
    assert wrong(examine.judge_workers([], Settings(), "1.0")) == {"workers": "problem"}


def test_a_queue_that_nobody_serves() -> None:
    """The default queue must be served."""
    assert wrong(examine.judge_workers([worker(queues=("gpu",))], Settings(), "1.0")) == {"queues": "problem"}


def test_workers_without_modules() -> None:
    """Workers that load nothing are named: they run only code that travels."""
    assert wrong(examine.judge_workers([worker(modules=())], Settings(), "1.0")) == {"modules": "warning"}


def test_no_server_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing server program is a problem only where no cluster is configured."""

    def none() -> Path:
        raise errors.ConfigurationError("there is no server to run on")

    monkeypatch.setattr(server, "binary", none)

    assert wrong(examine.here(Settings())) == {"embedded server": "problem"}
    assert wrong(examine.here(Settings(broker_url="redis://h", secret=secret_of("any")))) == {}


def test_a_secret_that_is_too_short() -> None:
    """A secret that is refused is a problem, and is not repeated."""
    checks = examine.here(Settings(secret="canary"))

    assert wrong(checks) == {"secret": "problem"}
    assert "canary" not in str(checks)

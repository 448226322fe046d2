"""Nodes in Sentry: transactions, and events of those that fail, from a worker of our own and from one of an app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import LocalCluster, RunFailed
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.engine import urls
from tests.cluster import sentry_flows as flows
from tests.support.waiting import until


class Sentry:
    """A worker with Sentry's SDK, and what that has sent."""

    def __init__(self, cluster: LocalCluster, folder: Path, *command: str, **env: str) -> None:
        self._written = folder / "written"
        self._written.touch()
        self.env = cluster.worker_environment()
        env = {**self.env, "SENTRY_WRITTEN": str(self._written), **env}
        self.process = Process.spawn([sys.executable, "-m", *command], env=env, log=folder / "log")
        until(lambda: "sentry@here" in session.current().ledger.reports(), seconds=60, what="the worker")

    def of(self, run: str, *names: str) -> list[dict[str, Any]]:
        """All events and transactions of a run, once transactions of these names are there, each so often."""

        def are_there() -> bool:
            return Counter(names) <= Counter(each["transaction"] for each in self._of(run) if "type" in each)

        until(are_there, what=f"{names} in {self._written.read_text()}")
        return self._of(run)

    def all(self) -> list[dict[str, Any]]:
        """Everything, whatever it is of."""
        return [json.loads(line) for line in self._written.read_text().splitlines()]

    def _of(self, run: str) -> list[dict[str, Any]]:
        return [each for each in self.all() if each.get("tags", {}).get("egregore.run") == run]


OWN = ["egregore_dist", "worker", "--name", "sentry@here", "-c", "2", "-m", flows.__name__]
APP = ["celery", "-A", f"{flows.__name__}:app", "worker", "-n", "sentry@here", "-c", "2"]


@pytest.fixture(scope="module", params=["own", "app"])
def sentry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentry]:
    """Such a worker, alone in its cluster."""
    with LocalCluster(workers=0) as cluster:
        folder = tmp_path_factory.mktemp("sentry")
        if request.param == "own":
            made = Sentry(cluster, folder, *OWN)
        else:
            queue = session.current().settings.queue
            made = Sentry(cluster, folder, *APP, "-Q", queue, SENTRY_APP=urls.for_kombu(cluster.url))
        try:
            yield made
        finally:
            made.process.stop(10)


def _events(said: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The events by what they are of; each is there once."""
    events = [each for each in said if "type" not in each]
    by_name = {each["transaction"]: each for each in events}
    assert len(by_name) == len(events)
    return by_name


def _transactions(said: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """How many transactions of each name ended how."""
    return Counter(
        (each["transaction"], each["contexts"]["trace"]["status"]) for each in said if each.get("type") == "transaction"
    )


def _error(event: dict[str, Any]) -> tuple[str, str]:
    error = event["exception"]["values"][-1]
    return error["type"], error["value"]


def test_each_call_of_a_node_is_a_transaction(sentry: Sentry) -> None:
    """It is named by workflow and node, and says how it ended; none is named after a lane."""
    run = flows.collected.submit(1)
    run.result(timeout=60)
    names = ["plain", "fails", "flaky", "flaky", "hopeless", "hopeless", "limited", "limited", "wrong", "slow"]
    said = sentry.of(run.id, *(f"collected/{name}" for name in names))

    assert _transactions(said) == {
        ("collected/plain", "ok"): 1,
        ("collected/fails", "internal_error"): 1,
        ("collected/flaky", "aborted"): 1,
        ("collected/flaky", "ok"): 1,
        ("collected/hopeless", "aborted"): 1,
        ("collected/hopeless", "internal_error"): 1,
        ("collected/limited", "aborted"): 1,
        ("collected/limited", "internal_error"): 1,
        ("collected/wrong", "internal_error"): 1,
        ("collected/slow", "internal_error"): 1,
    }
    assert {each["transaction_info"]["source"] for each in said} == {"task"}
    (plain,) = (each for each in said if each["transaction"] == "collected/plain")
    assert [span["description"] for span in plain["spans"]] == ["a span of plain"]
    assert {"egregore.workflow": "collected", "egregore.node": "plain", "egregore.branch": "plain"}.items() <= plain[
        "tags"
    ].items()
    assert plain["tags"]["egregore.block"] == "collected"
    assert not [each["transaction"] for each in sentry.all() if each["transaction"].startswith("egregore.")]


def test_a_node_that_fails_for_good_is_one_event(sentry: Sentry) -> None:
    """With the stack of its own code, also where its block collects failures; calls that are made again are none."""
    run = flows.collected.submit(1)
    run.result(timeout=60)
    names = ["fails", "hopeless", "hopeless", "limited", "limited", "wrong", "slow"]
    events = _events(sentry.of(run.id, *(f"collected/{name}" for name in names)))

    assert {name.partition("/")[2]: _error(event) for name, event in events.items()} == {
        "fails": ("ValueError", "of fails"),
        "hopeless": ("ValueError", "of hopeless 2"),
        "limited": ("ValueError", "of limited 2"),
        "wrong": ("EncodingError", _error(events["collected/wrong"])[1]),
        "slow": ("NodeTimeout", "node 'slow' did not end within its timeout of 0.1 s"),
    }
    frames = events["collected/fails"]["exception"]["values"][-1]["stacktrace"]["frames"]
    assert [frame["function"] for frame in frames] == ["fails"]
    assert events["collected/hopeless"]["tags"]["own"] == "hopeless 2"
    assert events["collected/hopeless"]["tags"]["egregore.attempt"] == "2"


def test_nodes_beside_each_other_keep_to_themselves(sentry: Sentry) -> None:
    """What async nodes, and nodes on threads of one process, tell Sentry at the same time is on their own events."""
    run = flows.mixed.submit(1)
    run.result(timeout=60)
    names = ["ada", "bob", "cat", "dog"]
    said = sentry.of(run.id, *(f"mixed/{name}" for name in names))

    events = _events(said)
    for name in names:
        event = events[f"mixed/{name}"]
        assert _error(event) == ("ValueError", f"of {name}")
        assert event["tags"]["own"] == event["tags"]["egregore.node"] == name
        assert [each["message"] for each in event["breadcrumbs"]["values"]] == [f"a crumb of {name}"]
        (transaction,) = (each for each in said if each["transaction"] == f"mixed/{name}" and "type" in each)
        assert [span["description"] for span in transaction["spans"]] == [f"a span of {name}"]
        assert event["contexts"]["trace"]["span_id"] == transaction["contexts"]["trace"]["span_id"]


def test_the_nodes_of_a_branch_are_transactions_of_one_trace(sentry: Sentry) -> None:
    """Those of a sequence too, outside of blocks."""
    run = flows.chained.submit(1)
    run.result(timeout=60)
    said = sentry.of(run.id, "chained/plain", "chained/second", "chained/second")

    assert len(said) == 3
    assert len({each["contexts"]["trace"]["trace_id"] for each in said}) == 1
    assert len({each["contexts"]["trace"]["span_id"] for each in said}) == 3


def test_what_is_cancelled_is_no_event(sentry: Sentry, tmp_path: Path) -> None:
    """Its transaction says so; the failure of the other branch, which ended the run, is an event."""
    run = flows.cancelled.submit(str(tmp_path / "begun"))
    with pytest.raises(RunFailed):
        run.result(timeout=60)
    said = sentry.of(run.id, "cancelled/sleeps", "cancelled/follows")

    assert {name: _error(event) for name, event in _events(said).items()} == {
        "cancelled/follows": ("ValueError", "of follows")
    }
    assert _transactions(said)["cancelled/sleeps", "cancelled"] == 1


CLIENT = """
import sys, sentry_sdk
from tests.cluster import sentry_flows as flows

with sentry_sdk.start_transaction(name="request") as request:
    run = flows.collected.submit(1)
    run.result(timeout=60)
print(run.id, request.trace_id)
"""


@pytest.mark.parametrize("rate", ["1.0", "0.0"])
def test_a_run_is_in_the_trace_of_its_client(sentry: Sentry, rate: str, tmp_path: Path) -> None:
    """Its transactions are sampled as that of the client is; its events are sent all the same."""
    env = {**os.environ, **sentry.env, "SENTRY_WRITTEN": str(tmp_path / "client"), "SENTRY_RATE": rate}
    ran = subprocess.run([sys.executable, "-c", CLIENT], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    id, trace = ran.stdout.split()
    said = sentry.of(id, *["collected/hopeless", "collected/slow"] * (rate == "1.0"))
    until(lambda: len(_events(sentry.of(id))) == 5, what="the events")

    assert {each["contexts"]["trace"]["trace_id"] for each in said} == {trace}
    assert bool(_transactions(said)) == (rate == "1.0")

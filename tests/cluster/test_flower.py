"""Flower, OpenTelemetry and celery-exporter's way of asking, beside a real cluster: Celery's own tools keep working."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from egregore_dist import LocalCluster
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.engine import urls
from tests.cluster.celery_flows import holds, naps
from tests.cluster.test_events import worker
from tests.support.listening import listening
from tests.support.waiting import until

# Written by workers that are traced: the name of each span, its trace and its attributes.
TRACED_WORKER = """
import json, sys
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from egregore_dist.cli import main

def line(span):
    said = {"name": span.name, "trace": format(span.context.trace_id, "032x"), "status": span.status.status_code.name}
    return json.dumps(said) + "\\n"

provider = TracerProvider()
exporter = ConsoleSpanExporter(out=open(sys.argv.pop(1), "a"), formatter=line)
provider.add_span_processor(SimpleSpanProcessor(exporter))
CeleryInstrumentor().instrument(tracer_provider=provider)
main()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of one worker, which sends events."""
    with LocalCluster(workers=0) as running, worker(running, tmp_path_factory.mktemp("worker"), "--task-events"):
        yield running


class Flower:
    """A Flower that was pointed at the cluster's broker, and knows nothing else of it."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}
        environment |= {"CELERY_BROKER_URL": urls.for_kombu(cluster.url), "FLOWER_UNAUTHENTICATED_API": "true"}
        command = [sys.executable, "-m", "celery", "flower", "--address=127.0.0.1", f"--port={port}"]
        self.process = Process.spawn(command, env=environment, log=folder / "flower.log", cwd=folder)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        until(self._answers, seconds=60, what=f"Flower: {self.process.log_tail()}")

    def _answers(self) -> bool:
        assert self.process.alive, self.process.log_tail()
        try:
            return self.http.get("/healthcheck").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path: str) -> Any:
        """What its API says."""
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def tasks(self, word: str) -> dict[str, dict[str, Any]]:
        """The tasks whose arguments have this in them, by id."""
        return {uuid: task for uuid, task in self.ask("/api/tasks").items() if word in str(task["args"])}

    def stop(self) -> None:
        """End it."""
        self.http.close()
        self.process.stop()


@pytest.fixture(scope="module")
def flower(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """A Flower that shows what the worker sends."""
    running = Flower(cluster, tmp_path_factory.mktemp("flower"))

    asked: list[str] = []

    def shows_branches() -> bool:
        # It hears what is sent after it has connected.
        run = naps.submit(0.01)
        run.result(timeout=60)
        asked.append(f"{run.id}:")
        return any(uuid.startswith(tuple(asked)) for uuid in running.ask("/api/tasks"))

    try:
        until(shows_branches, seconds=60, what="branches in Flower")
        yield running
    finally:
        running.stop()


def test_flower_shows_lanes_branches_and_their_run(flower: Flower) -> None:
    """Lanes and collects have readable names and the run's id; each branch is a task with its state and runtime."""
    run = naps.submit(0.5)
    run.result(timeout=60)

    def is_complete() -> bool:
        named = [task["name"] for task in flower.tasks(run.id).values()]
        ended = [task["state"] in ("SUCCESS", "FAILURE") for task in flower.tasks(run.id).values()]
        return {"advance naps", "lane beds", "collect beds", "nap", "doze", "fails"} <= {*named} and all(ended)

    until(is_complete, what="all of the run in Flower")
    block = f"{run.id}:0.0-0"
    tasks = flower.tasks(run.id)
    nap, doze, fails = (tasks[f"{block}:{branch}"] for branch in range(3))

    assert [nap["name"], nap["state"]] == ["nap", "SUCCESS"]
    assert [doze["name"], doze["state"]] == ["doze", "SUCCESS"]
    assert 0.5 <= nap["runtime"] < 5
    assert [fails["name"], fails["state"], fails["exception"]] == ["fails", "FAILURE", "ValueError()"]
    assert f"run {run.id}" in nap["args"]
    assert "secret" not in json.dumps(tasks)
    assert nap["worker"] in session.current().ledger.reports()
    assert flower.ask(f"/api/task/info/{block}:0")["name"] == "nap"


def test_flower_shows_a_branch_while_it_runs(flower: Flower, tmp_path: Path) -> None:
    """A branch is started while its node runs, and revoked when its run is cancelled."""
    run = holds.submit(str(tmp_path / "never"))

    def states() -> set[str]:
        return {task["state"] for uuid, task in flower.tasks(run.id).items() if uuid.startswith(run.id)}

    until(lambda: states() == {"STARTED"}, what="started branches")
    run.cancel()
    until(lambda: states() == {"REVOKED"}, what="revoked branches")


def test_flower_shows_the_worker_and_its_metrics(flower: Flower, cluster: LocalCluster) -> None:
    """Flower's own page of workers and metrics know the worker, and its branches by their nodes' names."""
    (only,) = session.current().ledger.reports()
    until(lambda: only in flower.ask("/api/workers?refresh=true"), what="the worker in Flower")
    until(
        lambda: f'task="nap",worker="{only}"' in flower.http.get("/metrics").text.replace(", ", ","),
        what="Flower's metrics of a branch",
    )


def test_exporters_find_what_they_count(cluster: LocalCluster) -> None:
    """What Celery's exporters add up is in the events: names without ids, one end each, a runtime, a known worker."""
    app = session.current().app
    state = app.events.State()
    with listening(app) as ear:
        run = naps.submit(0.05)
        run.result(timeout=60)
        until(lambda: len(ear.tasks(f"{run.id}:")) == 9, what="all events of a run")
        for event in list(ear.events):
            state.event(dict(event))

    ended = [task for task in state.tasks.values() if task.uuid.startswith(run.id)]
    assert sorted((task.name, task.state) for task in ended) == [
        ("doze", "SUCCESS"),
        ("fails", "FAILURE"),
        ("nap", "SUCCESS"),
    ]
    assert {task.worker.hostname for task in ended} == set(session.current().ledger.reports())
    # celery-exporter's label: what stands before the bracket, where that is one word.
    (failed,) = (task for task in ended if task.state == "FAILURE")
    assert re.match(r"^(\w+)\(", failed.exception)[1] == "ValueError"
    assert not [task.name for task in state.tasks.values() if task.name and run.id in task.name]


def test_opentelemetry_follows_a_run_to_its_worker(tmp_path: Path) -> None:
    """Celery's instrumentation makes a span of each message and its task, of one trace, and the run goes well."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, provider, written = InMemorySpanExporter(), TracerProvider(), tmp_path / "spans"
    provider.add_span_processor(SimpleSpanProcessor(spans))
    instrumentor = CeleryInstrumentor()
    with LocalCluster(workers=0) as cluster:
        command = [sys.executable, "-c", TRACED_WORKER, str(written), "worker", "--name", "traced@here"]
        process = Process.spawn(command, env=cluster.worker_environment(), log=tmp_path / "log")
        try:
            until(lambda: "traced@here" in session.current().ledger.reports(), seconds=60, what="the traced worker")
            instrumentor.instrument(tracer_provider=provider)
            try:
                run = naps.submit(0.3)
                assert run.result(timeout=60)["nap"] == "a secret result"
            finally:
                instrumentor.uninstrument()
            until(lambda: "run/egregore.lane" in written.read_text(), what=process.log_tail())
        finally:
            process.stop()
    (sent,) = spans.get_finished_spans()
    said = [json.loads(line) for line in written.read_text().splitlines()]

    assert sent.name == "apply_async/egregore.advance"
    assert {"run/egregore.advance", "apply_async/egregore.lane", "run/egregore.lane"} <= {span["name"] for span in said}
    assert {span["trace"] for span in said} == {format(sent.context.trace_id, "032x")}
    assert {span["status"] for span in said} == {"UNSET"}

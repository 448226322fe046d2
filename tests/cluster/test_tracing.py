"""Runs as traces: from the request that submits to the node that is executed, whatever happens on the way."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from egregore_dist import LocalCluster, Run, RunFailed
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from tests.cluster.traced_flows import SHOWN, again, broken, gated, killed, late, many, traced
from tests.support.waiting import until

DOCS = Path(__file__).parents[2] / "docs" / "tracing.md"

# A worker that is set up as the documentation says, but for the exporter. It has Celery's instrumentation too.
WORKER = """
import sys, types
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

written = sys.argv.pop(1)
exporter = types.ModuleType("opentelemetry.exporter.otlp.proto.http.trace_exporter")
exporter.OTLPSpanExporter = lambda: ConsoleSpanExporter(
    out=open(written, "a"), formatter=lambda span: span.to_json(indent=None) + "\\n"
)
for name in ("exporter", "exporter.otlp", "exporter.otlp.proto", "exporter.otlp.proto.http"):
    sys.modules.setdefault(f"opentelemetry.{name}", types.ModuleType(name))
sys.modules[exporter.__name__] = exporter
DOCUMENTED
from celery.signals import worker_process_init
worker_process_init.connect(lambda **_: CeleryInstrumentor().instrument(), weak=False)
from egregore_dist.cli import main
main()
"""


@dataclass
class Spans:
    """The spans of one run, from all processes."""

    all: list[dict[str, Any]]
    by_id: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_id = {span["context"]["span_id"]: span for span in self.all}

    def named(self, name: str) -> list[dict[str, Any]]:
        """Those of a name, in the order of their begin."""
        return sorted((span for span in self.all if span["name"] == name), key=lambda span: span["start_time"])

    def one(self, name: str) -> dict[str, Any]:
        """The only one of a name."""
        (found,) = self.named(name)
        return found

    def above(self, span: dict[str, Any]) -> str:
        """The name of the span that this one hangs on: "" of a root, "?" where that is not there."""
        parent = span["parent_id"]
        return "" if parent is None else self.by_id.get(parent, {}).get("name", "?")

    def ours(self) -> set[tuple[str, str, str]]:
        """Of each span of this package: what it hangs on, its name, its outcome."""
        return {
            (self.above(span), span["name"], span["attributes"]["egregore.outcome"])
            for span in self.all
            if "egregore.run" in span["attributes"]
        }


class Traced:
    """A cluster whose worker writes its spans to a file, and a client that keeps its own."""

    def __init__(self, folder: Path, cluster: LocalCluster) -> None:
        self.written, self.log = folder / "spans", folder / "log"
        self.written.touch()
        self.exported = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exported))
        (documented,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
        script = WORKER.replace("DOCUMENTED", documented)
        command = [sys.executable, "-c", script, str(self.written)]
        command += ["worker", "--name", "traced@here", "-c", "2", "-m", "tests.cluster.traced_flows"]
        # Whatever is traced is sent soon.
        environment = {**cluster.worker_environment(), "OTEL_BSP_SCHEDULE_DELAY": "50"}
        self.process = Process.spawn(command, env=environment, log=self.log)
        until(lambda: "traced@here" in session.current().ledger.reports(), seconds=60, what="the traced worker")

    def spans(self, run: Run, *names: str) -> Spans:
        """All spans of a trace, once those of these names are there, each as often as it is named."""

        def are_there() -> bool:
            return Counter(names) <= Counter(span["name"] for span in self._all() if self._is_of(run, span))

        until(are_there, what=f"spans {names}: {self.process.log_tail()}")
        (trace_id,) = {span["context"]["trace_id"] for span in self._all() if self._is_of(run, span)}
        until(lambda: self._is_whole(trace_id), what=f"every span in {self._of(trace_id).all}")
        return self._of(trace_id)

    def _of(self, trace_id: str) -> Spans:
        return Spans([span for span in self._all() if span["context"]["trace_id"] == trace_id])

    def _is_whole(self, trace_id: str) -> bool:
        # Each process sends its own in its time.
        found = self._of(trace_id)
        return all(found.above(span) != "?" for span in found.all if "egregore.run" in span["attributes"])

    @staticmethod
    def _is_of(run: Run, span: dict[str, Any]) -> bool:
        return bool(span["attributes"].get("egregore.run") == run.id)

    def _all(self) -> list[dict[str, Any]]:
        # The last line may be on its way.
        written = self.written.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in written.splitlines()] + [
            json.loads(span.to_json()) for span in self.exported.get_finished_spans()
        ]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """That cluster."""
    with LocalCluster(workers=0) as cluster:
        made = Traced(tmp_path_factory.mktemp("traced"), cluster)
        try:
            yield made
        finally:
            made.process.stop()


@pytest.fixture
def client(running: Traced, monkeypatch: pytest.MonkeyPatch) -> Traced:
    """The same, and this process's provider is its client's."""
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: running.provider)
    return running


def test_a_run_is_one_trace(client: Traced, tmp_path: Path) -> None:
    """From the request on: blocks and branches hang where they stand, and what nodes do hangs on their branch."""
    with client.provider.get_tracer("web").start_as_current_span("request"):
        run = traced.submit(str(tmp_path))
    assert run.result(timeout=60) == "done"

    inside = ("plain", "after", "after", "step", "inner", "left", "right", "flaky", "flaky", "fails")
    spans = client.spans(run, "traced", "first", "outer", *inside, "last")

    assert spans.ours() == {
        ("request", "submit traced", "ok"),
        ("submit traced", "traced", "succeeded"),
        ("traced", "first", "ok"),
        ("traced", "outer", "ok"),
        ("outer", "plain", "ok"),
        ("outer", "after", "ok"),
        ("after", "step", "ok"),
        ("after", "inner", "ok"),
        ("inner", "left", "ok"),
        ("inner", "right", "ok"),
        ("after", "after", "ok"),
        ("outer", "flaky", "error"),
        ("outer", "flaky", "ok"),
        ("outer", "fails", "error"),
        ("traced", "last", "ok"),
    }
    plain = [spans.above(span) for span in spans.named("in plain")]
    assert sorted(plain) == ["left", "plain", "right"]
    assert spans.above(spans.one("in flaky 2")) == "flaky"


def test_with_celerys_own_instrumentation(client: Traced, tmp_path: Path) -> None:
    """Its spans of messages are in the same trace, below the submission, and ours are where they are without it."""
    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=client.provider)
    try:
        run = traced.submit(str(tmp_path))
        run.result(timeout=60)
    finally:
        instrumentor.uninstrument()

    spans = client.spans(run, "traced", "outer", "plain")
    names = {"apply_async/egregore.advance", "run/egregore.advance", "run/egregore.lane"}
    until(lambda: names <= {span["name"] for span in client.spans(run, "traced").all}, what="Celery's spans")
    messages = client.spans(run, "traced")

    assert messages.above(messages.one("apply_async/egregore.advance")) == "submit traced"
    assert messages.above(messages.one("run/egregore.advance")) == "apply_async/egregore.advance"
    assert spans.above(spans.one("plain")) == "outer"
    assert spans.above(spans.one("outer")) == "traced"


def test_what_spans_say(client: Traced, tmp_path: Path) -> None:
    """Where each stands, on what worker, how often and how it ended; of an error its type and message alone."""
    run = traced.submit(str(tmp_path))
    run.result(timeout=60)

    spans = client.spans(run, "traced", "outer", "plain", "fails", "flaky", "flaky")
    outer, plain, fails = spans.one("outer"), spans.one("plain"), spans.one("fails")
    before, again = spans.named("flaky")

    where = {"egregore.run": run.id, "egregore.workflow": "traced", "egregore.block": "outer"}
    assert outer["attributes"] == {
        **where,
        "egregore.block.id": "0.0-1",
        "egregore.branches": 4,
        "egregore.outcome": "ok",
    }
    assert plain["attributes"] == {
        **where,
        "egregore.block.id": "0.0-1",
        "egregore.branch": "plain",
        "egregore.branch.position": 0,
        "egregore.attempt": 1,
        "egregore.worker": "traced@here",
        "egregore.outcome": "ok",
        SHOWN[0]: SHOWN[1],
    }
    (event,) = fails["events"]
    assert event["attributes"] == {"exception.type": "ValueError", "exception.message": "a message"}
    assert fails["status"] == {"status_code": "ERROR", "description": "ValueError: a message"}
    assert [before["attributes"]["egregore.attempt"], again["attributes"]["egregore.attempt"]] == [1, 2]
    assert [link["context"]["span_id"] for link in again["links"]] == [before["context"]["span_id"]]
    assert "Traceback" not in json.dumps(spans.all)
    assert spans.one("traced")["start_time"] <= outer["start_time"] <= outer["end_time"]
    assert spans.one("traced")["kind"] == "SpanKind.CONSUMER"


def test_many_at_a_time(client: Traced, tmp_path: Path) -> None:
    """Async nodes of one event loop and sync ones on threads each see the span of their own branch."""
    run = many.submit(str(tmp_path))
    run.result(timeout=60)

    spans = client.spans(run, "of_many", "many", "hop", "skip", "waits", "rests")

    assert sorted(spans.above(span) for span in spans.named("in hop")) == ["hop", "skip"]
    assert sorted(spans.above(span) for span in spans.named("in waits")) == ["rests", "waits"]
    assert {spans.above(spans.one(name)) for name in ("hop", "skip", "waits", "rests")} == {"many"}


def test_a_process_that_dies(client: Traced, tmp_path: Path) -> None:
    """The attempt that repairs a branch is in the same trace, under the same block, and links to the lost one."""
    run = killed.submit(str(tmp_path))
    run.result(timeout=60)

    spans = client.spans(run, "killed", "hazard", "dies")
    again = spans.one("dies")

    assert again["attributes"]["egregore.attempt"] == 2
    assert spans.above(again) == "hazard"
    assert spans.above(spans.one("hazard")) == "killed"
    assert spans.above(spans.one("in dies 2")) == "dies"
    (link,) = again["links"]
    assert link["context"]["trace_id"] == again["context"]["trace_id"]
    assert link["context"]["span_id"] not in spans.by_id


def test_a_node_with_a_limit_that_is_tried_again(client: Traced, tmp_path: Path) -> None:
    """Each attempt is a span, and the second links to the first; a node that is a block of its own has both spans."""
    run = again.submit(str(tmp_path))
    run.result(timeout=60)

    spans = client.spans(run, "again", "places", "limited", "limited", "alone", "alone", "alone")
    before, after = spans.named("limited")

    assert [before["attributes"]["egregore.outcome"], after["attributes"]["egregore.outcome"]] == ["error", "ok"]
    assert [spans.above(before), spans.above(after)] == ["places", "places"]
    assert [link["context"]["span_id"] for link in after["links"]] == [before["context"]["span_id"]]
    block, *attempts = spans.named("alone")
    assert spans.above(block) == "again"
    assert [spans.above(attempt) for attempt in attempts] == ["alone", "alone"]


def test_a_failure_ends_what_is_around_it(client: Traced, tmp_path: Path) -> None:
    """A branch that fails ends its blocks and the run, and each of them has its span, once."""
    run = broken.submit(str(tmp_path))
    with pytest.raises(RunFailed):
        run.result(timeout=60)

    spans = client.spans(run, "broken", "around", "last", "inside", "fails")

    assert spans.ours() == {
        ("", "submit broken", "ok"),
        ("submit broken", "broken", "failed"),
        ("broken", "around", "error"),
        ("around", "last", "error"),
        ("last", "inside", "error"),
        ("inside", "fails", "error"),
    }
    assert len([span for span in spans.all if "egregore.run" in span["attributes"]]) == 6


def test_a_deadline_and_a_retry(client: Traced, tmp_path: Path) -> None:
    """A block that is over its timeout says so; run again by a retry, it has another span, in the same trace."""
    run = late.submit(str(tmp_path))
    with pytest.raises(RunFailed):
        run.result(timeout=60)
    first = client.spans(run, "late", "slow")
    run.retry()
    with pytest.raises(RunFailed):
        run.result(timeout=60)

    spans = client.spans(run, "late", "late", "slow", "slow")

    assert {span["attributes"]["egregore.outcome"] for span in first.named("slow")} == {"timeout"}
    assert [spans.above(span) for span in spans.named("slow")] == ["late", "late"]
    assert len({span["context"]["span_id"] for span in spans.named("slow") + spans.named("late")}) == 4


def test_a_run_that_the_client_cancels(client: Traced, tmp_path: Path) -> None:
    """It is the client that ends it, and makes the spans of the run and of its block."""
    run = gated.submit(str(tmp_path / "gate"))
    until((tmp_path / "gate.reached").exists, what="the branch at the gate")
    run.cancel()

    spans = client.spans(run, "gated")

    assert {("gated", "gates", "cancelled"), ("submit gated", "gated", "cancelled")} <= spans.ours()
    until(lambda: ("gates", "held", "cancelled") in client.spans(run, "gated").ours(), what="the branch's span")


def test_a_client_that_traces_nothing(running: Traced, tmp_path: Path) -> None:
    """Its run is a trace of its own, and the run's span is the root."""
    run = many.submit(str(tmp_path))
    run.result(timeout=60)

    spans = running.spans(run, "of_many", "many", "hop")

    assert spans.one("of_many")["parent_id"] is None
    assert spans.above(spans.one("hop")) == "many"


def test_a_request_that_is_not_sampled(client: Traced, tmp_path: Path) -> None:
    """What its caller has decided holds for the whole run."""
    context = trace.SpanContext(7 << 64 | 1, 7, is_remote=True, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(context)):
        run = many.submit(str(tmp_path))
    run.result(timeout=60)
    after = many.submit(str(tmp_path))
    after.result(timeout=60)
    client.spans(after, "of_many")

    assert f"{7 << 64 | 1:#034x}" not in client.written.read_text()

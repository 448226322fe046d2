"""Trace contexts as strings, and spans whose ids are known before."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from egregore_dist.wire import tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    """What was exported."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> tracing.Tracer:
    """A tracer of OpenTelemetry's own SDK."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return tracing.Tracer(provider.get_tracer("test"))


@pytest.mark.parametrize("text", [PARENT, f"{PARENT} vendor=value", f"{PARENT} a=1,b=2", f"{PARENT[:-2]}00"])
def test_a_context_comes_back_as_it_was(text: str) -> None:
    """The ids, the decision to sample and the state are kept."""
    context = tracing.read(text)

    assert context is not None
    assert context.is_remote
    assert tracing.text_of(context) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        PARENT[:-1],
        f"{PARENT}0",
        f"\n{PARENT}",
        PARENT.upper(),
        f"01{PARENT[2:]}",
        f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)
def test_what_is_no_context(text: str) -> None:
    """Whatever W3C does not allow is no context at all."""
    assert tracing.read(text) is None


def test_a_state_that_is_too_long_is_left_out() -> None:
    """The context is kept without it, when it is written and when it is read."""
    state = trace.TraceState([(f"vendor{number}", "x" * 200) for number in range(4)])
    context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1), trace_state=state)

    assert tracing.text_of(context) == f"00-{1:032x}-{2:016x}-01"
    found = tracing.read(f"{PARENT} vendor={'x' * 600}")
    assert found is not None
    assert not found.trace_state


def test_where_this_code_is() -> None:
    """The current span's context; none outside of any."""
    assert tracing.here() == ""
    context = tracing.read(PARENT)
    assert context is not None
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert tracing.here() == PARENT


@pytest.mark.parametrize("is_there", [True, False], ids=["installed", "not installed"])
def test_nobody_traces(is_there: bool) -> None:
    """Where the program does not use OpenTelemetry there is nothing to be traced, and it need not be installed."""
    code = "import sys\n"
    code += "" if is_there else "sys.modules['opentelemetry'] = None\n"
    code += (
        "import egregore_dist.client.launch, egregore_dist.engine.lane, egregore_dist.monitor.pages\n"
        "from egregore_dist.wire import tracing\n"
        "print(tracing.tracer(), repr(tracing.here()), 'opentelemetry.trace' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split()[:2] == ["None", "''"]
    assert is_there or done.stdout.split()[2] == "False"


def test_the_api_alone_traces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a provider, and with one that makes no spans, there is no tracer; with a real one there is."""
    assert tracing.tracer() is None
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    assert tracing.tracer() is None
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    found = tracing.tracer()

    assert found is not None
    assert found.names
    assert tracing.tracer() is found


def test_ids_are_given(tracer: tracing.Tracer, exported: InMemorySpanExporter) -> None:
    """A span has the id that was asked for, in the trace that was; one of no id has a random one; both are exported."""
    context = tracing.read(PARENT)
    assert context is not None
    tracer.end(tracer.start("named", context, span_id=7), "ok")
    tracer.end(tracer.start("any", context), "ok")
    tracer.end(tracer.start("root", None, trace_id=5, span_id=6), "ok")
    named, any_, root = (span.get_span_context() for span in exported.get_finished_spans())

    assert named is not None
    assert any_ is not None
    assert root is not None
    assert (named.trace_id, named.span_id) == (context.trace_id, 7)
    assert any_.trace_id == context.trace_id
    assert any_.span_id not in (0, 7)
    assert (root.trace_id, root.span_id) == (5, 6)


def test_ids_differ_by_what_they_stand_for() -> None:
    """Blocks, branches and attempts of one run, and those of a retry, have ids of their own."""
    ids = [
        tracing.root_id("r"),
        tracing.block_id("r", "0", 1),
        tracing.block_id("r", "0", 2),
        tracing.block_id("r", "0.1", 1),
        tracing.branch_id("r", "0", 1, 0),
        tracing.attempt_id("r", "0", 1, 0, 1),
        tracing.attempt_id("r", "0", 1, 0, 2),
    ]

    assert len(set(ids)) == len(ids)
    assert all(0 < one < 2**64 for one in ids)


def test_an_error_is_its_type_and_message(tracer: tracing.Tracer, exported: InMemorySpanExporter) -> None:
    """The message is cut, and there is no traceback."""
    tracer.end(tracer.start("it", None), "error", error=("ValueError", "x" * 5000))
    (span,) = exported.get_finished_spans()

    assert span.attributes == {"egregore.outcome": "error"}
    (event,) = span.events
    assert event.attributes == {"exception.type": "ValueError", "exception.message": "x" * tracing.MESSAGE_LIMIT}


def test_a_trace_of_its_own(tracer: tracing.Tracer, exported: InMemorySpanExporter) -> None:
    """It names the root that is to come; to ask for it exports nothing."""
    context = tracing.read(tracer.begin_trace("r", "w"))

    assert context is not None
    assert context.span_id == tracing.root_id("r")
    assert context.trace_flags.sampled
    assert exported.get_finished_spans() == ()


class Breaks(SpanProcessor):
    """What breaks in a provider."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Not this time."""
        raise RuntimeError("broken")


def test_what_breaks_in_a_provider_breaks_no_run() -> None:
    """A span that could not be made is one that is not recorded."""
    provider = TracerProvider()
    provider.add_span_processor(Breaks())
    tracer = tracing.Tracer(provider.get_tracer("test"))
    context = tracing.read(PARENT)
    assert context is not None

    span = tracer.start("it", context)
    tracer.end(span, "ok")
    with tracer.submitting("r", "w"):
        pass

    assert not span.is_recording()
    assert span.get_span_context() == context


def test_a_provider_that_takes_no_ids() -> None:
    """It is not asked for spans that have to have one."""
    tracer = tracing.Tracer(SimpleNamespace(start_span=lambda name, **_: trace.INVALID_SPAN))

    assert not tracer.names
    assert tracer.start("it", None, span_id=7) is trace.INVALID_SPAN


def test_a_submission_that_fails(tracer: tracing.Tracer, exported: InMemorySpanExporter) -> None:
    """Its span says of what, and the error is the caller's."""
    with pytest.raises(ValueError, match="no"), tracer.submitting("r", "w"):
        raise ValueError("no")
    (span,) = exported.get_finished_spans()

    assert (span.name, span.status.description) == ("submit w", "ValueError: no")

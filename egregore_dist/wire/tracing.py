"""Traces: where a run stands in one, as W3C's strings, and spans whose ids are known before they are made.

OpenTelemetry's API is used where the process has loaded it: nothing is traced where nobody has.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

log = logging.getLogger(__name__)

#: Letters of a ``tracestate``, by W3C's own rule: a longer one is left out.
STATE_LIMIT = 512
#: Letters of an error's message in a span.
MESSAGE_LIMIT = 1000

_API = "opentelemetry.trace"
_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_STATE = re.compile(r"[\x20-\x7e]*")


def here() -> str:
    """The trace context of the code that asks, as `text_of` says it; "" where it is in no trace."""
    if _API not in sys.modules:
        return ""
    from opentelemetry import trace

    return text_of(trace.get_current_span().get_span_context())


def text_of(context: SpanContext) -> str:
    """A trace context as ``traceparent``, and after a space ``tracestate`` where there is one; "" where it is none."""
    if not context.is_valid:
        return ""
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header()
    fits = 0 < len(state) <= STATE_LIMIT and _STATE.fullmatch(state)
    return f"{parent} {state}" if fits else parent


def read(text: str) -> SpanContext | None:
    """The trace context that was written so; None where it is none."""
    from opentelemetry import trace

    parent, _, state = text.partition(" ")
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    return trace.SpanContext(
        int(found[1], 16),
        int(found[2], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(found[3], 16)),
        trace_state=trace.TraceState.from_header([state]) if 0 < len(state) <= STATE_LIMIT else None,
    )


def _id(*of: object) -> int:
    digest = hashlib.blake2b("\0".join(map(str, of)).encode(), digest_size=8).digest()
    # 0 is no id.
    return int.from_bytes(digest) or 1


def root_id(run: str) -> int:
    """The parent that a run's trace context names where there is none: the run's span is the root of its trace."""
    return _id("root", run)


def block_id(run: str, block: str, ready: int) -> int:
    """The id of a block's span. ``ready``: when it was opened, or by a retry anew, in server milliseconds."""
    return _id("block", run, block, ready)


def branch_id(run: str, block: str, ready: int, branch: int) -> int:
    """The id of the span of a branch that may be executed in parts, by several processes."""
    return _id("branch", run, block, ready, branch)


def attempt_id(run: str, block: str, ready: int, branch: int, attempt: int) -> int:
    """The id of the span of one attempt of a branch that one process executes."""
    return _id("attempt", run, block, ready, branch, attempt)


def beside(context: SpanContext, span_id: int) -> SpanContext:
    """Another span of the same trace, sampled as that one is."""
    from opentelemetry import trace

    return trace.SpanContext(context.trace_id, span_id, True, context.trace_flags, context.trace_state)


class _Ids:
    """The ids that are wanted next on this thread, else those that the provider's own generator makes."""

    def __init__(self, own: Any) -> None:
        self._own = own
        self._wanted = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    @contextmanager
    def wanting(self, trace_id: int | None, span_id: int | None) -> Iterator[None]:
        self._wanted.ids = (trace_id, span_id)
        try:
            yield
        finally:
            self._wanted.ids = (None, None)

    def generate_trace_id(self) -> int:
        wanted, _ = getattr(self._wanted, "ids", (None, None))
        return int(self._own.generate_trace_id() if wanted is None else wanted)

    def generate_span_id(self) -> int:
        _, wanted = getattr(self._wanted, "ids", (None, None))
        return int(self._own.generate_span_id() if wanted is None else wanted)


class Tracer:
    """Makes this package's spans with the process's provider. What breaks in there breaks no run.

    Attributes:
        names: whether ids can be given, as to OpenTelemetry's own SDK. Elsewhere spans are made by those alone who both
            begin and end them.
    """

    def __init__(self, tracer: Any) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = tracer
        self._ids: _Ids | None = None
        own = getattr(tracer, "id_generator", None)
        if own is not None:
            # The tracer is this package's alone; where a provider hands it out again, it has been given them already.
            self._ids = tracer.id_generator = own if isinstance(own, _Ids) else _Ids(own)
        self.names = self._ids is not None

    def start(
        self,
        name: str,
        parent: SpanContext | None,
        *,
        trace_id: int | None = None,
        span_id: int | None = None,
        at: int | None = None,
        kind: str = "INTERNAL",
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[SpanContext] = (),
    ) -> Span:
        """Begin a span.

        Args:
            parent: the span above it; None for the root of a trace.
            trace_id: of a root.
            span_id: its id, where it is known already.
            at: when it began, in nanoseconds since 1970; absent, now.
            kind: by the name in OpenTelemetry.
            links: other spans that it belongs to.
        """
        from opentelemetry.context import Context

        trace = self._trace
        above: Span = trace.INVALID_SPAN if parent is None else trace.NonRecordingSpan(parent)
        ids = self._ids
        try:
            with ids.wanting(trace_id, span_id) if ids is not None else nullcontext():
                started: Span = self._tracer.start_span(
                    name,
                    context=trace.set_span_in_context(above, Context()),
                    kind=trace.SpanKind[kind],
                    attributes=attributes,
                    links=[trace.Link(to) for to in links],
                    start_time=at,
                )
            return started
        except Exception as error:
            _say(error)
            return above

    def end(
        self,
        span: Span,
        outcome: str,
        *,
        at: int | None = None,
        error: tuple[str, str] | None = None,
        bad: bool = False,
    ) -> None:
        """End a span.

        Args:
            outcome: of what it stands for.
            at: when that ended, in nanoseconds since 1970; absent, now.
            error: the type and the message of what went wrong.
            bad: whether something went wrong, told or not.
        """
        trace = self._trace
        try:
            span.set_attribute("egregore.outcome", outcome)
            if error is not None:
                kind, message = error[0], error[1][:MESSAGE_LIMIT]
                told = {"exception.type": kind, "exception.message": message}
                span.add_event("exception", told, timestamp=at)
                span.set_status(trace.Status(trace.StatusCode.ERROR, f"{kind}: {message}" if message else kind))
            elif bad:
                span.set_status(trace.Status(trace.StatusCode.ERROR, outcome))
            span.end(at)
        except Exception as broken:
            _say(broken)

    def begin_trace(self, run: str, workflow: str) -> str:
        """The context of a new trace, whose root is to be the span of this run."""
        attributes = {"egregore.run": run, "egregore.workflow": workflow}
        # What is begun is never ended: it says how the trace is sampled.
        probe = self.start(workflow, None, span_id=root_id(run), kind="CONSUMER", attributes=attributes)
        return text_of(probe.get_span_context())

    @contextmanager
    def submitting(self, run: str, workflow: str) -> Iterator[None]:
        """The span of a submission: it is the caller's current one meanwhile."""
        trace = self._trace
        attributes = {"egregore.run": run, "egregore.workflow": workflow}
        above = trace.get_current_span().get_span_context()
        span = self.start(
            f"submit {workflow}", above if above.is_valid else None, kind="PRODUCER", attributes=attributes
        )
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except Exception as error:
            self.end(span, "error", error=(type(error).__name__, str(error)))
            raise
        self.end(span, "ok")


_known: tuple[object, Tracer | None] = (None, None)


def tracer() -> Tracer | None:
    """This process's tracer; None where no provider is set, or it makes no spans."""
    global _known
    if _API not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    if provider is not _known[0]:
        _known = (provider, _made(provider))
    return _known[1]


def _made(provider: Any) -> Tracer | None:
    from opentelemetry import trace

    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    made = provider.get_tracer("egregore_dist", metadata.version("egregore-dist"))
    return None if isinstance(made, trace.NoOpTracer) else Tracer(made)


def _say(error: Exception) -> None:
    log.warning("a span was not made: %s", type(error).__name__, extra={"action": "span_failed"})

"""What Sentry is told of a branch, and that nothing of it reaches the branch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from egregore_dist.engine import sentry

Begin = Callable[..., list[dict[str, Any]]]


class Kept(Transport):
    """Keeps what Sentry would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep it."""
        self.said += [item.payload.json or {} for item in envelope.items]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Sets the SDK up in this process for the time of a test."""

    def begun(**options: Any) -> list[dict[str, Any]]:
        transport = Kept()
        sentry_sdk.init(dsn="https://key@example.invalid/1", transport=transport, **options)
        return transport.said

    with sentry_sdk.isolation_scope(), pytest.MonkeyPatch.context() as patch:
        # What it patches in Celery would stay.
        patch.setattr(CeleryIntegration, "setup_once", lambda: None)
        yield begun
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)


def made() -> sentry.BranchEvents:
    """Those of a branch."""
    record = SimpleNamespace(name="block")
    place: Any = SimpleNamespace(record=record, branch_title=lambda branch: f"title {branch}")
    load: Any = SimpleNamespace(run="r1", name="flow")
    lease: Any = SimpleNamespace(branch=3, attempt=1)
    return sentry.BranchEvents(load, place, lease)


JOB: Any = SimpleNamespace(node=SimpleNamespace(name="work"), attempts=1)


def test_nothing_is_told_without_the_sdk(monkeypatch: pytest.MonkeyPatch, begin: Begin) -> None:
    """Where it was not imported, has no client, has no Celery integration, or is of a release without scopes."""
    assert not sentry.is_active()
    begin()
    assert sentry.is_active()
    begin(auto_enabling_integrations=False)
    assert not sentry.is_active()

    monkeypatch.setitem(sys.modules, "sentry_sdk", ModuleType("sentry_sdk"))
    assert not sentry.is_active()
    monkeypatch.delitem(sys.modules, "sentry_sdk")
    assert not sentry.is_active()


DISABLED = """
import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from egregore_dist.engine import sentry

sentry_sdk.init(dsn="https://key@example.invalid/1", disabled_integrations=[CeleryIntegration()])
raise SystemExit(sentry.is_active())
"""


def test_nothing_is_told_where_the_integration_is_deactivated() -> None:
    """As the documentation says it."""
    assert subprocess.run([sys.executable, "-c", DISABLED], check=False).returncode == 0


def test_only_the_transaction_of_the_task_is_left_out(begin: Begin) -> None:
    """Not one that the user began around a call in the same process."""
    said = begin(traces_sample_rate=1.0)
    with sentry_sdk.start_transaction(name="egregore.lane"):
        sentry.leave_out("egregore.lane")
    with sentry_sdk.start_transaction(name="theirs"):
        sentry.leave_out("egregore.lane")

    assert [each["transaction"] for each in said] == ["theirs"]


def test_what_fails_before_its_node_is_called_is_an_event(begin: Begin) -> None:
    """It has tags, and the parts of the stack that are not the user's, with their values, are left out."""
    said = begin(traces_sample_rate=1.0)
    events = made()
    events.gave_up(ValueError("no input"), "work")
    events.ended(None)

    (event,) = said
    assert event["transaction"] == "flow/work"
    assert event["tags"]["egregore.branch"] == "title 3"
    assert "stacktrace" not in event["exception"]["values"][0]


def test_the_scopes_of_a_call_end_with_it(begin: Begin) -> None:
    """What the node sets is not seen outside, and a second call has none of it."""
    said = begin(traces_sample_rate=1.0)
    events = made()
    for tag in ("first", "second"):
        token = events.enter(JOB)
        sentry_sdk.set_tag(tag, "set")
        events.leave(token)
        events.called()
    sentry_sdk.capture_message("outside")
    events.ended(object())

    first, second, outside = (set(each.get("tags", {})) & {"first", "second"} for each in said)
    assert (first, second, outside) == ({"first"}, {"second"}, set())
    assert [each["contexts"]["trace"]["status"] for each in said[:2]] == ["ok", "ok"]


def test_streamed_spans_are_left_to_the_sdk(begin: Begin) -> None:
    """Nodes have no transactions where there are none; a failure is an event all the same."""
    said = begin(traces_sample_rate=1.0, trace_lifecycle="stream")
    events = made()
    token = events.enter(JOB)
    sentry_sdk.set_tag("own", "set")
    events.leave(token)
    events.gave_up(ValueError("failed"), "work")
    events.ended(None)

    assert [each["tags"]["own"] for each in said if "exception" in each] == ["set"]
    assert [each["transaction"] for each in said if "exception" in each] == ["flow/work"]


def test_a_broken_sdk_breaks_no_branch(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises, it is none of the node's."""
    begin(traces_sample_rate=1.0)
    events = made()

    def breaks(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(sentry_sdk, "start_transaction", breaks)
    monkeypatch.setattr(sentry_sdk, "capture_event", breaks)
    events.leave(events.enter(JOB))
    events.failed(ValueError("failed"), timed_out=False)
    events.gave_up(ValueError("failed"), "work")
    events.called()
    events.ended(None)

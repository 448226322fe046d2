"""What a worker of our own answers of Celery's remote control."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist.engine import app as apps
from egregore_dist.settings import Settings
from egregore_dist.worker import commands, remote

PLACE = {"exchange": "reply.celery.pidbox", "routing_key": "r"}


@pytest.fixture(scope="module")
def node() -> Any:
    """A worker's node that does nothing of what it is asked, and notes what that was."""
    app = apps.make_app(Settings(broker_url="memory://", ledger_url="redis://h"))
    remote.restrict(app)
    commands.register()
    called: list[tuple[str, dict[str, Any]]] = []
    handlers = {
        name: lambda state, _name=name, **arguments: called.append((_name, arguments)) or {"ok": _name}
        for name in Panel.data
    }
    made: Any = app.control.mailbox.Node("w@h", handlers=handlers, state=SimpleNamespace())
    made.called = called
    made.replies = []
    made.reply = lambda data, **_: made.replies.append(data)
    return made


def test_s17_what_is_not_on_the_list_is_not_done(node: Any) -> None:
    """Every command that Celery knows, but for those that only tell."""
    for name in Panel.data:
        node.handle_message({"method": name, "arguments": {"order": "x", "queue": "q"}, "destination": None})
    done = {name for name, _ in node.called}
    node.called.clear()

    assert done == remote.ALLOWED.keys()
    assert not done & {"shutdown", "pool_restart", "rate_limit", "add_consumer", "revoke", "time_limit", "autoscale"}


@pytest.mark.parametrize(
    ("method", "given", "kept"),
    [
        ("hello", {"from_node": "w2@h", "revoked": ["id"]}, {"from_node": "w2@h"}),
        ("registered", {"taskinfoitems": ["backend"], "builtins": True}, {}),
        ("stats", {"with_defaults": True}, {}),
        ("heartbeat", {"_state": 1}, {}),
    ],
)
def test_s17_arguments_that_could_change_or_tell_more_are_left_out(
    node: Any, method: str, given: dict[str, Any], kept: dict[str, Any]
) -> None:
    """What another worker says was revoked is not believed, and no attribute of a task is shown."""
    node.handle_message(
        {"method": method, "arguments": given, "destination": ["w@h"], "reply_to": PLACE, "ticket": "t"}
    )

    assert node.called == [(method, kept)]
    assert node.replies == [{"w@h": {"ok": method}}]
    node.called.clear()
    node.replies.clear()


@pytest.mark.parametrize(
    "body",
    [
        {"method": "ping", "destination": ["x@h"]},
        {"method": "ping", "destination": "w@h"},
        {"method": "ping", "pattern": "(w+)+@h", "matcher": "pcre"},
        {"method": "ping", "reply_to": {"exchange": "elsewhere", "routing_key": "r"}},
        {"method": "ping", "reply_to": {"exchange": PLACE["exchange"]}},
        {"method": "ping", "reply_to": "r"},
    ],
)
def test_s17_what_is_not_for_it_is_left(node: Any, body: dict[str, Any]) -> None:
    """What is for others, or for whoever has a name like this, or whose answer would go anywhere."""
    node.handle_message(body)

    assert (node.called, node.replies) == ([], [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=5,
)


@given(
    JSON
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("method", "destination", "arguments", "reply_to", "ticket", "pattern"), JSON)
    )
)
def test_s17_a_message_of_any_shape_is_dropped(node: Any, body: Any) -> None:
    """A node never raises: Celery would make its connection anew for that, and log the message."""
    node.handle_message(body, SimpleNamespace(headers={"clock": "x"}))
    node.called.clear()
    node.replies.clear()


def test_s17_refusals_are_told_once_in_a_while(node: Any, caplog: pytest.LogCaptureFixture) -> None:
    """However many come, and however long what they ask for is; control characters are not written out."""
    remote.Node._said, remote.Node._unsaid = -remote._SAY_EVERY, 0
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            node.handle_message({"method": "\x1b[2J" + "x" * 10_000})

    (record,) = caplog.records
    assert len(record.getMessage()) < 200
    assert "\x1b" not in record.getMessage()

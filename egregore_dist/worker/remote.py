"""Celery's remote control on workers of our own: who can write to the broker may look, and change nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import kombu.pidbox
from celery import Celery
from celery.app.control import Control as CeleryControl

from egregore_dist.engine import control

log = logging.getLogger(__name__)

#: The commands that are answered, with the arguments that each may have. These are what Celery's own
#: tools, Flower and the exporters ask for, and the orders, which must be signed. The configuration is not among them:
#: Celery shows the password of a URL whose scheme it does not know.
ALLOWED: dict[str, frozenset[str]] = {
    **dict.fromkeys(("ping", "clock", "stats", "active_queues"), frozenset[str]()),
    **dict.fromkeys(("reserved", "scheduled", "revoked", "registered"), frozenset[str]()),
    **dict.fromkeys(("dump_reserved", "dump_schedule", "dump_revoked", "dump_tasks"), frozenset[str]()),
    **dict.fromkeys(("active", "dump_active"), frozenset({"safe"})),
    "query_task": frozenset({"ids"}),
    # Of a worker of another app that has just started: it is not believed what it says was revoked.
    "hello": frozenset({"from_node"}),
    # One event with the worker's name and load.
    "heartbeat": frozenset[str](),
    **dict.fromkeys((control.DRAIN, control.RESUME, control.STOP, control.CONCURRENCY), frozenset({"order"})),
}

# Seconds between two lines of log about what was refused, and the longest word of a stranger's that is shown there.
_SAY_EVERY = 10.0
_LONGEST = 40


class Node(kombu.pidbox.Node):
    """A worker's end of remote control. A message that it cannot serve, whatever its shape, is dropped."""

    mailbox: Any
    _said = -_SAY_EVERY
    _unsaid = 0

    def handle_message(self, body: Any, message: Any = None) -> Any:
        """Answer a message if it is for this worker, and asks for what may be asked for."""
        if not isinstance(body, Mapping) or not isinstance(body.get("method"), str):
            return self._refuse("a message of another shape")
        destination, reply_to = body.get("destination"), body.get("reply_to")
        if not isinstance(destination, list | tuple | None) or (destination and self.hostname not in destination):
            return None
        # A pattern could take for ever to match.
        if body.get("pattern") or body.get("matcher"):
            return self._refuse("a message for workers by a pattern")
        if reply_to is not None and not self._is_ours(reply_to):
            return self._refuse("a message whose answer would go elsewhere")
        arguments = body.get("arguments")
        named = dict(arguments) if isinstance(arguments, Mapping) else {}
        return self.dispatch(body["method"], named, reply_to, body.get("ticket"))

    dispatch_from_message = handle_message

    def _is_ours(self, reply_to: object) -> bool:
        # Answers are published where it says, and an exchange that is not there yet would be made for them.
        return (
            isinstance(reply_to, dict)
            and reply_to.get("exchange") == self.mailbox.reply_exchange.name
            and isinstance(reply_to.get("routing_key"), str)
        )

    def handle(self, method: str, arguments: Any = None) -> Any:
        """Do what one command asks for."""
        handlers: Any = self.handlers
        may = ALLOWED.get(method)
        if method == "enable_events":
            # Not logged: Flower sends it every five seconds.
            return {"error": "whoever starts the worker decides: --task-events sends events"}
        if may is None:
            self._refuse(repr(method[:_LONGEST]))
            return {"error": f"{method[:_LONGEST]!r} is not answered by workers of egregore-dist"}
        try:
            answer = handlers[method](self.state, **{key: arguments[key] for key in may if key in arguments})
        except Exception as error:  # what a stranger's arguments cause is theirs to know
            self._refuse(f"{method!r} ({type(error).__name__})")
            return {"error": type(error).__name__}
        # Of the broker Celery tells the address, which may hold a password.
        return {key: value for key, value in answer.items() if key != "broker"} if method == "stats" else answer

    def _refuse(self, what: str) -> None:
        Node._unsaid += 1
        now = time.monotonic()
        if now - self._said < _SAY_EVERY:
            return
        more = f" ({self._unsaid} since the last line)" if self._unsaid > 1 else ""
        log.warning("remote control: %s is refused%s", what, more, extra={"action": "control_refused"})
        Node._said, Node._unsaid = now, 0


class Mailbox(kombu.pidbox.Mailbox):
    """The mailbox of such nodes."""

    node_cls = Node


class Control(CeleryControl):
    """Remote control by way of such a mailbox."""

    Mailbox = Mailbox


def restrict(app: Celery) -> None:
    """Have the workers of an app answer only what is allowed."""
    app.control_cls = Control  # type: ignore[assignment]

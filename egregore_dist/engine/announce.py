"""Branches as tasks in Celery's events, for Flower and its like: only where a worker was told to send task events.

Whether it was is one byte that the processes of a pool share with the worker that forked them.
"""

from __future__ import annotations

import logging
import mmap
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.events import EventDispatcher
from kombu import Connection

from egregore_dist.engine.later import Later
from egregore_dist.ledger import Commit
from egregore_dist.wire import failure

log = logging.getLogger(__name__)

_wanted = mmap.mmap(-1, 1)

# Seconds: what comes at once is sent at once. A broker that takes nothing is left alone for the second.
_SEND_AFTER, _REST = 0.1, 5.0
# Events that wait at most: of more the oldest are dropped, since lanes do not wait for them. Of one message.
_MOST, _AT_ONCE = 10_000, 200


def want(events: bool) -> None:
    """Tell every lane of this worker whether somebody wants events of tasks."""
    _wanted[0] = events


def wanted() -> bool:
    """Whether they are wanted."""
    return _wanted[0] == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A branch as the task that tools show. Never its input, its result or what an error says: roles guard those.

    Attributes:
        id: the same in all attempts.
        name: the name of its node.
        place: the run, the block and the branch, in words.
        attempt: counts from 1.
        waited: seconds since its block was opened.
    """

    id: str
    name: str
    place: str
    attempt: int
    waited: float


class Announcer:
    """Sends the events of one process.

    Args:
        later: sends off the lane's thread.
    """

    def __init__(self, app: Celery, later: Later) -> None:
        self._app = app
        self._later = later
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, str, dict[str, Any]]] = deque(maxlen=_MOST)
        self._planned = False
        self._dispatchers: dict[str, EventDispatcher] = {}
        self._connection: Connection | None = None

    def begin(self, worker: str, branch: Branch) -> None:
        """A worker begins to execute a branch, the first time or again."""
        now = time.time()
        received = {"name": branch.name, "args": branch.place, "kwargs": "{}", "retries": branch.attempt - 1}
        received |= {"eta": None, "expires": None, "timestamp": now - max(0.0, branch.waited)}
        self._add(worker, "task-received", {"uuid": branch.id, **received})
        self._add(worker, "task-started", {"uuid": branch.id, "timestamp": now})

    def end(self, worker: str, id: str, commit: Commit | None, seconds: float) -> None:
        """A branch has ended after so long, or is to be tried again, or, without a commit, was stopped."""
        fields: dict[str, Any] = {"uuid": id, "timestamp": time.time()}
        if commit is None:
            self._add(worker, "task-revoked", {**fields, "terminated": True, "signum": None, "expired": False})
        elif commit.kind == "ok":
            # Nothing of the value but its size.
            result = f"{len(commit.payload)} bytes"
            self._add(worker, "task-succeeded", {**fields, "result": result, "runtime": seconds})
        elif commit.kind == "again":
            node = commit.payload.decode().partition(" ")[2]
            self._add(worker, "task-retried", {**fields, "exception": f"{node} failed", "traceback": ""})
        else:
            # As the repr of the exception begins, which exporters take the class from; what it said is the user's.
            error = failure.decode(commit.payload).type.rpartition(".")[2]
            self._add(worker, "task-failed", {**fields, "exception": f"{error}()", "traceback": ""})

    def _add(self, worker: str, kind: str, fields: dict[str, Any]) -> None:
        with self._lock:
            self._waiting.append((worker, kind, fields))
            planned, self._planned = self._planned, True
        if not planned:
            # Not put off by those that come meanwhile.
            self._later.put("events", _SEND_AFTER, self._send)

    def _send(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._planned = False
        try:
            for worker, kind, fields in waiting:
                self._dispatcher(worker).send(kind, **fields)
            for dispatcher in self._dispatchers.values():
                dispatcher.flush()
        except Exception as error:
            # Events are hints: the ledger has what happened. What breaks here has many classes, of every transport.
            log.info("events were not sent: %s", type(error).__name__, extra={"action": "events_not_sent"})
            self._forget()
            with self._lock:
                self._planned = True
            self._later.put("events", _REST, self._send)

    def _dispatcher(self, worker: str) -> EventDispatcher:
        found = self._dispatchers.get(worker)
        if found is None:
            self._connection = self._connection or self._app.connection_for_write()
            found = self._dispatchers[worker] = EventDispatcher(
                self._connection,
                app=self._app,
                hostname=worker,
                buffer_while_offline=False,
                buffer_group=["task"],
                buffer_limit=_AT_ONCE,
            )
        return found

    def _forget(self) -> None:
        for dispatcher in self._dispatchers.values():
            dispatcher.close()
        self._dispatchers.clear()
        if self._connection is not None:
            self._connection.release()
            self._connection = None

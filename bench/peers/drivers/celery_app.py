"""The plain Celery app. Its server comes from the environment; all else is Celery's default."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.backends.redis import RedisBackend

from bench.peers import work

QUEUE = "plain"


class QuietBackend(RedisBackend):  # type: ignore[misc, unused-ignore]
    """A result backend that subscribes to nothing: the client polls one key.

    The ordinary client subscribes to the result of every header task, and its ``get`` reads them all: much dearer for a
    thousand tasks, and no part of what is compared.
    """

    def on_task_call(self, producer: object, task_id: str) -> None:
        """A task is sent."""

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """Somebody may want this result."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Nobody wants it any more."""
        return result


app = Celery("plain")
app.conf.task_default_queue = QUEUE
tasks = {
    name: app.task(name=f"plain.{name}")(function)
    for name, function in work.FUNCTIONS.items()
    if name not in work.ASYNC
}
collect = app.task(name="plain.collect")(work.collect)

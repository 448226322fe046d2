"""The plain Celery app. Its server comes from the environment; all else is Celery's default."""

from __future__ import annotations

from celery import Celery

from bench.peers import work

QUEUE = "plain"


app = Celery("plain")
app.conf.task_default_queue = QUEUE
tasks = {
    name: app.task(name=f"plain.{name}")(function)
    for name, function in work.FUNCTIONS.items()
    if name not in work.ASYNC
}
collect = app.task(name="plain.collect")(work.collect)

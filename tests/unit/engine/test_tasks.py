"""The three tasks in an app of a user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import celery
import pytest

from egregore_dist.engine import app as apps
from egregore_dist.engine import tasks
from egregore_dist.settings import Settings

SETTINGS = Settings(broker_url="redis://h")
OURS = (apps.ADVANCE, apps.LANE, apps.COLLECT)
# What an app may say of all of its tasks, by the attribute of a task.
SAID: dict[str, Any] = {
    "time_limit": 1,
    "soft_time_limit": 1,
    "rate_limit": "1/h",
    "acks_late": False,
    "acks_on_failure": False,
    "acks_on_timeout": False,
    "reject_on_worker_lost": False,
    "ignore_result": False,
    "max_retries": 0,
    "track_started": True,
    "serializer": "pickle",
    "store_errors_even_if_ignored": True,
}


class Own(celery.Task):
    """A base class of a user's tasks."""

    autoretry_for = (Exception,)
    retry_on_worker_lost = True
    track_started = True


def forbidden(*_: Any) -> None:
    """What an annotation would put in place of a task's function."""


def nothing() -> None:
    """A task of the user's."""


def annotated(app: celery.Celery) -> None:
    app.conf.task_annotations = {"*": {**SAID, "@run": lambda run: forbidden}}


def configured(app: celery.Celery) -> None:
    names = {"rate_limit": "default_rate_limit"}
    kept = {name: value for name, value in SAID.items() if name not in ("max_retries", "serializer")}
    app.conf.update({f"task_{names.get(name, name)}": value for name, value in kept.items()})
    app.conf.task_retry_on_worker_lost = True


def based(app: celery.Celery) -> None:
    app.task_cls = Own


@pytest.mark.parametrize("say", [annotated, configured, based])
def test_what_an_app_says_of_its_tasks_leaves_ours_alone(say: Callable[[celery.Celery], None]) -> None:
    """Limits, acknowledgement and retries of a user's tasks, however they are set for all, are not those of a lane."""
    app, plain = (celery.Celery(set_as_current=False, broker="redis://h") for _ in range(2))
    say(app)
    app.task(name="theirs", shared=False)(nothing)
    for each in (app, plain):
        tasks.register(each, SETTINGS)
    names = (*SAID, "retry_on_worker_lost", "autoretry_for")

    for name in OURS:
        assert {key: getattr(app.tasks[name], key, None) for key in names} == {
            key: getattr(plain.tasks[name], key, None) for key in names
        }
        assert app.tasks[name].run is not forbidden
        assert not hasattr(app.tasks[name], "_orig_run"), "it would be retried by itself"
    assert app.tasks["theirs"].track_started, "the app's own task is not as its app wants it"


def test_lanes_have_no_limit_that_a_pool_has() -> None:
    """``celery worker --time-limit`` holds for tasks without one of their own: those of an app of a user's have one."""
    theirs, own = celery.Celery(set_as_current=False, broker="redis://h"), apps.make_app(SETTINGS)
    tasks.register(theirs, SETTINGS)
    tasks.register(own, SETTINGS, owns=True)

    assert all(theirs.tasks[name].time_limit >= 10**9 <= theirs.tasks[name].soft_time_limit for name in OURS)
    assert all(own.tasks[name].time_limit is None for name in OURS)

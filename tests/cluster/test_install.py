"""A Celery app of the user's own that serves workflows beside its tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from egregore_dist.engine import app as apps
from egregore_dist.engine import urls
from egregore_dist.ledger import Ledger
from egregore_dist.settings import load
from tests.support import strays, tls
from tests.support.waiting import until

APP = """
import os
import time

from celery import Celery

from egregore_dist import node, parallel
from egregore_dist.client import session
from egregore_dist.worker import install

app = Celery("theirs", broker=os.environ["THEIR_BROKER"], backend=os.environ["THEIR_BROKER"])
{before}


@node
def doubled(number: int) -> int:
    return 2 * number


@node
def negated(number: int) -> int:
    return -number


@node
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


flow = parallel(doubled, negated, name="flow")


@app.task(name="waits", time_limit=120, soft_time_limit=120)
def waits(number):
    return [flow.run(number), session.current().embedded]


@app.task(name="sleeps")
def sleeps(seconds):
    time.sleep(seconds)


@app.task(name="submits", time_limit=120, soft_time_limit=120)
def submits(number):
    return flow.submit(number, id="from-a-task").id


install(app, modules=["theirs"])
{after}
"""
CLIENT = """
import json
from egregore_dist.client import session
from theirs import flow
print(json.dumps([flow.run(21), session.current().embedded]))
"""
STARTS = """
import signal
from pathlib import Path

from tests.support import strays


@app.task(name="starts")
def starts():
    return [os.getpid(), *strays.start()]


@node
def dies(path: str) -> str:
    if Path(path).exists():
        return "again"
    Path(path).write_text(" ".join(map(str, [os.getpid(), *strays.start()])))
    os.kill(os.getpid(), signal.SIGKILL)
"""
VALUE = {"doubled": 42, "negated": -21}
# Seconds, of tasks that have no limits of their own.
LIMITS = ("--time-limit=2", "--soft-time-limit=1")


@contextmanager
def working(
    folder: Path, url: str, *, before: str = "", after: str = "", ledger: str | None = None, options: Sequence[str] = ()
) -> Iterator[tuple[dict[str, str], Ledger]]:
    """The app's worker, as its users start it; the environment of their programs, and the ledger.

    Args:
        before: more of the app's module, before it installs.
        after: the same, after that.
        ledger: the server's address for who is not the app.
        options: more of the worker's command line.
    """
    (folder / "theirs.py").write_text(APP.format(before=before, after=after))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "THEIR_BROKER": url}
    command = ["-m", "celery", "-A", "theirs", "worker", "-c2", "-Q", "celery,egregore", "-n", "own@here", *options]
    settings = load(broker_url=ledger or url)
    worker = Process.spawn([sys.executable, *command], env=env, log=folder / "worker.log", cwd=folder)
    try:
        with closing(Ledger(apps.ledger_url(settings), prefix=settings.prefix)) as opened:
            until(lambda: opened.reports() or not worker.alive, seconds=60, what="the worker")
            assert worker.alive, worker.log_tail()
            yield env, opened
    finally:
        worker.stop(10)


def call(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end."""
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=90, check=False
    )


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Ledger, Celery]]:
    """Such a worker on a server, and the app as whoever sends tasks knows it."""
    with (
        Server.start() as server,
        closing(redis.Redis.from_url(server.url)) as direct,
    ):
        # On a socket, with a database of its own, as kombu and Celery write it.
        url = urls.for_kombu(f"{server.url[:-1]}6")
        with (
            working(tmp_path_factory.mktemp("theirs"), url, options=LIMITS) as (env, ledger),
            Celery("theirs", broker=url, backend=url, set_as_current=False) as app,
        ):
            yield env, ledger, app
        assert direct.info("keyspace").keys() == {"db6"}


def test_a_program_submits_to_its_app(theirs: tuple[dict[str, str], Ledger, Celery]) -> None:
    """Where only the app has a broker, a program that has installed into it runs its workflows there."""
    done = call(theirs[0], "-c", CLIENT)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [VALUE, False]


def test_the_command_runs_on_the_app_of_a_module(theirs: tuple[dict[str, str], Ledger, Celery]) -> None:
    """``egregore-dist run`` submits to the broker of the app in the module that it was given."""
    arguments = ("run", "theirs:flow", "--input", "21", "--id", "by-command", "--no-wait")
    done = call(theirs[0], "-m", "egregore_dist", *arguments)

    assert (done.returncode, done.stdout.strip()) == (0, "by-command"), done.stderr
    until(lambda: theirs[1].run("by-command").state == "succeeded", what="the end of the run")


def test_tasks_of_the_app_submit_to_it(theirs: tuple[dict[str, str], Ledger, Celery]) -> None:
    """A task starts a run on the workers beside it, and can wait for it where there is a slot more."""
    _, ledger, app = theirs
    waited: Any = app.send_task("waits", [21]).get(timeout=60)
    submitted: Any = app.send_task("submits", [21]).get(timeout=60)

    assert waited == [VALUE, False]
    assert submitted == "from-a-task"
    until(lambda: ledger.run(submitted).state == "succeeded", what="the end of the run")


def test_limits_of_the_pool_are_not_those_of_lanes(theirs: tuple[dict[str, str], Ledger, Celery]) -> None:
    """A node takes longer than ``celery worker --time-limit`` allows a task of the app's own."""
    env, _, app = theirs
    ended: Any = app.send_task("sleeps", [4.0])
    done = call(env, "-c", "from theirs import slow; print(slow.run(3.0))")

    assert (done.returncode, done.stdout.strip()) == (0, "slept"), done.stderr
    with pytest.raises(SoftTimeLimitExceeded):
        ended.get(timeout=60)


def test_what_tasks_started_outlives_their_process(tmp_path: Path) -> None:
    """A branch's process is killed: what the branch has started ends, what a task started there before does not."""
    with (
        Server.start() as server,
        working(tmp_path, urls.for_kombu(server.url), before=STARTS, options=["-c1"]) as (env, _),
        Celery("theirs", broker=env["THEIR_BROKER"], backend=env["THEIR_BROKER"], set_as_current=False) as app,
    ):
        process, *others = app.send_task("starts").get(timeout=60)
        try:
            done = call(env, "-c", f"from theirs import dies; print(dies.run({str(tmp_path / 'pids')!r}))")
            assert (done.returncode, done.stdout.strip()) == (0, "again"), done.stderr
            killed, *left = map(int, (tmp_path / "pids").read_text().split())
            until(lambda: not any(map(strays.runs, left)), what="the end of what the branch has started")

            assert killed == process
            assert all(map(strays.runs, others))
        finally:
            strays.end(others)


@pytest.mark.parametrize("where", ["before", "after"])
def test_queues_that_others_would_not_find(where: str, tmp_path: Path) -> None:
    """An app that puts a prefix before its queues is refused, also where its options are set after `install`."""
    setting = {where: "app.conf.broker_transport_options = {'global_keyprefix': 'shop_'}"}
    told = r"global_keyprefix='shop_': .*start `egregore-dist worker`"
    with (
        Server.start() as server,
        pytest.raises(AssertionError, match=told),
        working(tmp_path, urls.for_kombu(server.url), **setting),
    ):
        pass


def test_queues_of_priorities(tmp_path: Path) -> None:
    """An app whose tasks have priorities, as Celery's documentation sets it up, serves runs."""
    options = "{'sep': ':', 'priority_steps': list(range(10)), 'queue_order_strategy': 'priority'}"
    setting = f"app.conf.broker_transport_options = {options}"
    with Server.start() as server, working(tmp_path, urls.for_kombu(server.url), before=setting) as (env, _):
        done = call(env, "-c", CLIENT)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [VALUE, False]


def test_an_app_on_tls(tmp_path: Path) -> None:
    """What an app says of TLS beside its URL, such as its own CA, holds for the ledger and for its clients too."""
    with tls.server(tmp_path) as (url, files):
        options = f"{{'ssl_ca_certs': {str(files.ca)!r}, 'ssl_cert_reqs': 'required'}}"
        setting = f"app.conf.update(broker_use_ssl={options}, redis_backend_use_ssl={options})"
        ledger = f"{url}?ssl_ca_certs={files.ca}"
        with working(tmp_path, url, before=setting, ledger=ledger) as (env, _):
            done = call(env, "-c", CLIENT)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [VALUE, False]

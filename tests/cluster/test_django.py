"""``docs/django.md``: its project, made of its blocks, with real workers, commands and transactions."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from egregore_dist.engine import app as apps
from egregore_dist.engine import urls
from egregore_dist.ledger import Ledger
from egregore_dist.settings import load
from tests.support.waiting import until

PAGE = (Path(__file__).parents[2] / "docs/django.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {code.split("\n", 1)[0].removeprefix("# "): code for language, code in BLOCKS if language == "python"}
COMMANDS = [line.removeprefix("$ ") for language, text in BLOCKS if language == "console" for line in text.splitlines()]

#: What the test asks of connections; ``import`` uses one in the worker's main process.
CHECKS = """
import os
from django.db import connection
from egregore_dist import node
from shop.models import Order

Order.objects.count()

def is_open():
    return connection.connection is not None

@node
def one(number: int) -> list:
    before = is_open()
    Order.objects.count()
    return [before, is_open()]

@node
async def asked(number: int) -> int:
    return await Order.objects.acount()

@node
def files(counts: list) -> list:
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    held = [os.readlink(path) for path in paths if os.path.exists(path)]
    return [counts, sum("db.sqlite3" in path for path in held)]
"""
SETTINGS = """
INSTALLED_APPS += ["shop"]
CELERY_BROKER_URL = os.environ.get("SHOP_BROKER")
DATABASES["default"]["CONN_MAX_AGE"] = int(os.environ.get("SHOP_CONN_MAX_AGE", 0))
"""


def test_every_block_of_the_page_is_in_use() -> None:
    """Its files are those of the project, and its commands those that are run here."""
    assert {language for language, _ in BLOCKS} == {"python", "console"}
    assert sorted(FILES) == [
        "mysite/__init__.py",
        "mysite/celery.py",
        "shop/management/commands/place_order.py",
        "shop/models.py",
        "shop/nodes.py",
    ]
    assert COMMANDS == [
        "export DJANGO_SETTINGS_MODULE=mysite.settings",
        "export EGREGORE_BROKER_URL=redis://:password@host:6379/0",
        "egregore-dist worker -m shop.nodes",
        "celery -A mysite worker -Q celery,egregore",
        "python manage.py place_order 12",
    ]


class Project:
    """The project of the page in a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SHOP_BROKER": url}
        self.call("-m", "django", "startproject", "mysite", ".")
        self.call("manage.py", "startapp", "shop")
        for name, code in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(code)
        (folder / "shop/checks.py").write_text(CHECKS)
        settings = folder / "mysite/settings.py"
        settings.write_text("import os\n" + settings.read_text() + SETTINGS)
        self.call("manage.py", "makemigrations", "shop")
        self.call("manage.py", "migrate")

    def call(self, *arguments: str, fails: bool = False) -> str:
        """Run Python with these arguments in the folder; what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The broker and ledger."""
    with Server.start() as server:
        yield server


@pytest.fixture(scope="module")
def project(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The page's project, with a database."""
    return Project(tmp_path_factory.mktemp("project"), urls.for_kombu(server.url))


@contextmanager
def working(project: Project, command: str, *options: str, **env: str) -> Iterator[Ledger]:
    """A worker, started by a command of the page with more options."""
    program, *arguments = shlex.split(command)
    module = {"egregore-dist": "egregore_dist", "celery": "celery"}[program]
    settings = load(broker_url=project.env["SHOP_BROKER"])
    with closing(Ledger(apps.ledger_url(settings), prefix=settings.prefix)) as ledger:
        ledger.redis.flushdb()
        worker = Process.spawn(
            [sys.executable, "-m", module, *arguments, *options],
            env={**project.env, **env},
            log=project.folder / "worker.log",
            cwd=project.folder,
        )
        try:
            until(lambda: ledger.reports() or not worker.alive, seconds=60, what="the worker")
            assert worker.alive, worker.log_tail(40)
            yield ledger
        finally:
            worker.stop(10)


OWN = {"DJANGO_SETTINGS_MODULE": "mysite.settings"}


@pytest.mark.parametrize("command", COMMANDS[2:4])
def test_a_run_starts_when_the_transaction_commits(project: Project, command: str) -> None:
    """On both kinds of worker; what was rolled back starts nothing."""
    env = OWN | {"EGREGORE_BROKER_URL": project.env["SHOP_BROKER"]} if command.startswith("egregore") else {}
    project.call("manage.py", "flush", "--no-input")
    with working(project, command, "-c1", **env) as ledger:
        told = project.call("manage.py", "place_order", "0", fails=True)
        assert told == "CommandError: an order needs a total\n"
        run = project.call(*shlex.split(COMMANDS[4])[1:]).strip()

        until(lambda: ledger.run(run).state == "succeeded", seconds=60, what="the end of the run")
        # The one that was rolled back had an id of its own only if its row's was not used again.
        assert ledger.redis.zcard(ledger.keys.runs) == 1
        shown = project.call(
            "manage.py", "shell", "-c", "from shop.models import Order; print(*Order.objects.values())"
        )
        assert "'total': 12, 'state': 'charged'" in shown


@pytest.mark.parametrize("max_age", [0, 600])
def test_connections_between_branches(project: Project, server: Server, max_age: int) -> None:
    """Closed after each branch as after a request, or kept for as long as the settings say; never a parent's."""
    command = "egregore-dist worker -m shop.checks"
    env = OWN | {"EGREGORE_BROKER_URL": server.url, "SHOP_CONN_MAX_AGE": str(max_age)}
    client = """
import json, django
django.setup()
from egregore_dist import Sequence
from shop.checks import asked, files, one
branches = one.map().run([1, 2, 3])
print(json.dumps([branches, Sequence(asked.map(), files, name="held").run([1, 2, 3])[1]]))
"""
    with working(project, command, "-c1", **env):
        done = subprocess.run(
            [sys.executable, "-c", client],
            cwd=project.folder,
            env={**project.env, **env},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    kept = max_age > 0
    opened, held = eval(done.stdout, {"true": True, "false": False})
    assert opened == [[False, True], [kept, True], [kept, True]]
    assert (held > 0) is kept


def test_a_module_that_is_missing_ends_the_start(project: Project) -> None:
    """Of an own Celery app: it is named when the worker begins, and commands go on without it."""
    celery = project.folder / "mysite/celery.py"
    celery.write_text(FILES["mysite/celery.py"].replace('"shop.nodes"', '"shop.missing"'))
    try:
        project.call("manage.py", "check")
        told = project.call("-m", "celery", "-A", "mysite", "worker", fails=True)
    finally:
        celery.write_text(FILES["mysite/celery.py"])
    assert "module 'shop.missing' cannot be imported: ModuleNotFoundError" in told


def test_settings_that_cannot_be_loaded(project: Project) -> None:
    """A worker says which, and what to do."""
    project.env["DJANGO_SETTINGS_MODULE"] = "nowhere.settings"
    project.env["EGREGORE_BROKER_URL"] = project.env["SHOP_BROKER"]
    try:
        told = project.call("-m", "egregore_dist", "worker", "-m", "shop.nodes", fails=True)
    finally:
        del project.env["DJANGO_SETTINGS_MODULE"], project.env["EGREGORE_BROKER_URL"]
    assert "Django cannot be set up with DJANGO_SETTINGS_MODULE=nowhere.settings: ModuleNotFoundError" in told
    assert "Traceback" not in told


CLIENT = """
import os, django
from django.conf import settings
{settings}
from egregore_dist import errors, node, parallel

@node
def named(name: str, size: int) -> str:
    return name

for data in ({{"name": "a"}}, {{"name": object(), "size": 1}}):
    try:
        parallel(named, name="flow").submit_on_commit(data)
    except errors.EgregoreError as error:
        print(type(error).__name__, error)
"""


def test_what_cannot_be_submitted_is_told_at_once(project: Project) -> None:
    """Without Django's settings, and a wrong input before the commit."""
    without = project.call("-c", CLIENT.format(settings=""))
    assert without.startswith("ConfigurationError 'flow'.submit_on_commit needs a Django project: ImproperlyConfigured")
    assert "Set DJANGO_SETTINGS_MODULE, or use .submit()" in without

    wrong = project.call("-c", CLIENT.format(settings="settings.configure(DATABASES={})"))
    assert [line.split()[0] for line in wrong.splitlines()] == ["BindingError", "EncodingError"]

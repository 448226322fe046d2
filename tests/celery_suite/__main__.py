"""``python -m tests.celery_suite``: run Celery's integration tests with and without this package, and compare."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import click

from egregore_dist.client.processes import Process
from egregore_dist.client.server import binary
from tests.celery_suite.plugin import INSTALL, OUTCOME
from tests.support.clusters import answers
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
FILES = ("test_canvas.py", "test_tasks.py", "test_inspect.py")

# Tests of a failure that ran on one side only are repeated so often: the others' tests depend on time too.
_AGAIN = 2


def fetch(folder: Path) -> Path:
    """The tests of the installed Celery's source distribution, which pip downloads; without Celery itself."""
    wanted = f"celery=={metadata.version('celery')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", wanted]
    subprocess.run([*command, "--dest", str(folder)], check=True)
    (archive,) = folder.glob("celery-*.tar.gz")
    with tarfile.open(archive) as source:
        members = [member for member in source if member.name.partition("/")[2].startswith("t/")]
        source.extractall(folder, members=members, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """A server on loopback, without a password as these tests expect it, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    command = [str(binary()), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    process = Process.spawn(command, env=dict(os.environ), log=folder / "server.log")
    try:
        until(lambda: answers(("127.0.0.1", port)), what="the server")
        yield port
    finally:
        process.stop()


def run(tests: Path, names: list[str], *, installed: bool, work: Path, limit: int) -> dict[str, set[str]]:
    """Run tests on a server of their own: the names of those that ``failed`` and of those that ``passed``."""
    with server(work) as port:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("EGREGORE_", "PYTEST_"))}
        env |= {
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(port),
            "TEST_BROKER": f"redis://127.0.0.1:{port}/0",
            "TEST_BACKEND": f"redis://127.0.0.1:{port}/0",
            "PYTHONPATH": os.pathsep.join([str(tests), str(ROOT)]),
            OUTCOME: str(work / "outcome.json"),
            INSTALL: "1" if installed else "",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tests)]
        command += ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:valkey", "-p", "tests.celery_suite.plugin"]
        # As in Celery's own configuration.
        command += ["-o", "python_classes=test_*"]
        command += ["--timeout", str(limit), "--tb=no", *names]
        with (work / "output").open("wb") as output:
            subprocess.run(command, cwd=tests, env=env, stdout=output, stderr=output, check=False)
        try:
            outcome: dict[str, list[str]] = json.loads((work / "outcome.json").read_text("utf-8"))
        except FileNotFoundError:
            raise click.ClickException(f"the tests ended early:\n{(work / 'output').read_text()[-4000:]}") from None
    return {how: set(found) for how, found in outcome.items()}


@click.command()
@click.option("--limit", default=120, show_default=True, help="Seconds that one test may take.")
@click.argument("names", nargs=-1)
def main(limit: int, names: tuple[str, ...]) -> None:
    """Fail if a test of Celery's fails with this package installed into its app, and passes without.

    NAMES are tests of Celery's to run instead of all, such as t/integration/test_tasks.py.
    """
    with tempfile.TemporaryDirectory(prefix="celery-suite-") as name:
        folder = Path(name)
        tests = fetch(folder)
        chosen = list(names) or [f"t/integration/{file}" for file in FILES]
        without = run(tests, chosen, installed=False, work=folder / "without", limit=limit)
        ours = run(tests, chosen, installed=True, work=folder / "with", limit=limit)
        for who, outcome in (("without", without), ("with", ours)):
            click.echo(f"{who}: {len(outcome['passed'])} passed, {len(outcome['failed'])} failed")
        if not without["passed"]:
            click.echo((folder / "without" / "output").read_text()[-4000:])
            raise click.ClickException("no test passes without this package: nothing was compared")
        worse = sorted(ours["failed"] - without["failed"])
        for attempt in range(_AGAIN):
            if worse:
                click.echo(f"again, with: {', '.join(worse)}")
                again = run(tests, worse, installed=True, work=folder / f"again-{attempt}", limit=limit)
                worse = sorted(again["failed"])
        if worse:
            raise click.ClickException(f"these fail with this package only: {', '.join(worse)}")
        click.echo("every test of Celery's that passes without this package passes with it")


if __name__ == "__main__":
    main()

"""Every example, run as its reader runs it: as a program of its own, with nothing configured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from egregore_dist import Sequence, connect, node
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from tests.support.remains import remains
from tests.support.secret import secret_of
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PROJECT = EXAMPLES / "celery_project"
CELERY = [sys.executable, "-m", "celery", "-A", "proj.app"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an example may leave what it should not."""
    made = tmp_path / "temporary"
    made.mkdir()
    return made


def run(example: str, folder: Path) -> str:
    """Run an example, check that it ended well and left nothing behind, and return what it printed."""
    program = subprocess.run(
        [sys.executable, str(EXAMPLES / example)],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (program.returncode, program.stderr) == (0, ""), program.stdout
    assert not remains(folder)
    assert not left_running(folder)
    return program.stdout


def left_running(folder: Path) -> list[psutil.Process]:
    """The processes of an example: those that have its folder, or one in it, for temporary files."""
    found = []
    for process in psutil.process_iter():
        try:
            where = process.environ().get("TMPDIR", "")
            if where.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_api_fan_out(folder: Path) -> None:
    """The API never sees more calls at once than the limit, and one failing endpoint spoils nothing."""
    printed = run("api_fan_out.py", folder)

    assert "11 of 12 cities answered; the warmest is Lima" in printed
    assert re.search(r"failed: branch 8, .*/weather/Quito answered 503 Service Unavailable", printed)
    assert re.search(r"14 calls, never more than [1-4] at once \(limit: 4\)", printed)


def test_map_reduce(folder: Path) -> None:
    """The words of all files are counted, and each reduction is there under its name."""
    printed = run("map_reduce.py", folder)

    assert re.search(r"^\d{3},\d{3} words in 150 files", printed)
    assert re.search(r"^  self +\d+,\d+$", printed, re.MULTILINE)
    assert len(printed.partition("which file it is\n")[2].splitlines()) == 5


def test_etl(folder: Path) -> None:
    """Few orders take the short way and many the long one; a load that ran twice has written once."""
    printed = run("etl.py", folder)
    few, many = printed.split("5000 orders: ")

    for part in (few, many):
        assert "attempt 2 found them written by the one before" in part
    assert "country" not in few
    assert {line.split()[0] for line in many.splitlines()[1:]} == {"day", "country", "product"}
    sums = {kind: sum(amounts(many, kind)) for kind in ("day", "country", "product")}
    assert sums["day"] == pytest.approx(sums["country"]) == pytest.approx(sums["product"])


def amounts(printed: str, kind: str) -> list[float]:
    """The numbers in the lines of one kind."""
    lines = [line.split() for line in printed.splitlines()[1:]]
    return [float(amount.replace(",", "")) for of, _, amount in lines if of == kind]


def test_web_app(folder: Path) -> None:
    """A POST answers at once, a GET tells how the run stands, the same id is one run, and a handler can wait."""
    printed = run("web_app.py", folder)

    assert "202 {'id': 'report-1', 'href': '/reports/report-1'}" in printed
    assert "200 {'status': 'succeeded', 'result': {'words': 6, 'longest': 'starts', 'slow_check': True}}" in printed
    assert "202 the same run: report-1" in printed
    assert "GET  /analysis           200 {'words': 3, 'longest': 'short'}" in printed
    assert "GET  /reports/none       404 no run 'none'" in printed


def test_web_app_says_what_it_needs() -> None:
    """Without Starlette the program says what to install."""
    blocked = f"import runpy, sys; sys.modules['starlette'] = None; runpy.run_path({str(EXAMPLES / 'web_app.py')!r})"
    program = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, timeout=60, check=False)

    assert program.returncode == 1
    assert program.stderr.splitlines()[-1].endswith("pip install starlette uvicorn httpx")


def test_notebook_cells(folder: Path) -> None:
    """Functions of the program itself, lambdas and closures run; events count up; a repeated id computes nothing."""
    printed = run("notebook_cells.py", folder)

    assert "primes: [1009, 1013, 1019, 1021]" in printed
    assert "named: {'square': 144, 'times_2': 24, 'times_3': 36}" in printed
    assert "context: where of tour, branch 1 of all, attempt 1" in printed
    assert re.findall(r"^ +(\d+) of 12, the last by worker[12]$", printed, re.MULTILINE)[-1] == "12"
    assert "value: 31 status succeeded" in printed
    assert "again: 31, after" in printed


def test_celery_project(folder: Path) -> None:
    """A task and a workflow of an ordinary project end well on one ordinary worker."""
    printed = run("celery_project/run.py", folder)

    assert "task:     mail sent to ada@example.org" in printed
    assert "workflow: 8 invoices, 214.20 in all" in printed
    assert re.search(r"^  (advance billing|lane invoices) march$", printed, re.MULTILINE)


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The project's worker, started with the ordinary command on a server of its own; the server's address."""
    with Server.start(tcp=True) as server:
        for name, value in {
            "PROJ_BROKER_URL": server.tcp_url,
            "EGREGORE_MODULES": "proj.app",
            "EGREGORE_SECRET": secret_of("examples"),
        }.items():
            monkeypatch.setenv(name, value)
        command = [*CELERY, "worker", "-Q", "celery,egregore", "-c", "2"]
        worker = Process.spawn(command, env=os.environ, log=folder / "worker.log", cwd=PROJECT)
        before = session.use(None)
        connected = connect(server.tcp_url)
        try:
            yield server.tcp_url
        finally:
            session.use(before)
            connected.close()
            worker.stop(10)


def test_celery_inspect_shows_block_and_run(project: str, tmp_path: Path) -> None:
    """``celery -A proj.app inspect active`` shows a lane by the names of its block and its run."""
    gate = str(tmp_path / "gate")

    @node("hold")
    def hold(number: int) -> int:
        while not os.path.exists(gate):
            time.sleep(0.02)
        return number

    held = Sequence(hold.map(name="invoices"), name="billing").submit([1, 2, 3], id="march")
    names: set[tuple[str, str]] = set()

    def both_are_shown() -> bool:
        shown = subprocess.run(
            [*CELERY, "inspect", "active", "--json"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if shown.returncode == 0:
            names.update(
                (task["name"], task["args"][0]) for tasks in json.loads(shown.stdout).values() for task in tasks
            )
        return len(names) >= 2

    until(both_are_shown, seconds=60, what="two lanes at work")
    Path(gate).touch()

    assert names == {("advance billing", "march"), ("lane invoices", "march")}
    assert held.result(timeout=60) == [1, 2, 3]

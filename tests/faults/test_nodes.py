"""Worker nodes driven by pytest-celery's cluster API alone: processes, and containers where there is an engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from egregore_dist import Sequence
from tests.support import containers
from tests.support.trial import Trial
from tests.support.work import join, nap


@pytest.fixture(scope="module")
def image() -> None:
    """The worker's image."""
    if why := containers.missing():
        pytest.skip(why)
    containers.build()


@pytest.fixture(params=["processes", pytest.param("containers", marks=[pytest.mark.docker, pytest.mark.timeout(900)])])
def trial(request: pytest.FixtureRequest, trial_of: Callable[..., Trial]) -> Trial:
    """Two workers of one lane, of either kind."""
    if request.param == "processes":
        return trial_of()
    request.getfixturevalue("image")
    trial = trial_of(workers=0)
    for _ in range(2):
        trial.add(contained=True)
    return trial


def test_a_cluster_of_nodes_is_killed_and_restarted(trial: Trial) -> None:
    """Nodes that pytest-celery kills and restarts under load, one by one, lose nothing."""
    workers = trial.workers
    assert workers.ready()
    run = trial.submit(Sequence(nap.map(), join), [0.05] * 60)
    trial.wait_for(3)
    for number, worker in enumerate(workers):
        if number == 0:
            worker.kill()
            trial.count_kill()
            assert worker.container.status == "exited"
        worker.restart()
        assert worker.ready()
        worker.assert_log_exists(f"{worker.hostname()} ready")

    assert len(trial.result(run)) == 60


def test_nodes_say_who_they_are(trial: Trial) -> None:
    """A node has the name that it reports under; a cluster is as long as it has nodes."""
    workers = trial.workers

    assert len(workers) == 2
    assert {worker.hostname() for worker in workers} == set(trial.ledger.reports())
    assert workers[0] != workers[1]
    workers.teardown()
    assert [worker.container.status for worker in workers] == ["exited"] * 2


def test_a_container_has_what_a_process_has(tmp_path: Path) -> None:
    """A container gets the test's network, processes, folder and nodes, and its environment by name alone."""
    command = containers.run_command(
        "c1", folder=tmp_path, names=["EGREGORE_BROKER_URL"], options=["--concurrency", "2"]
    )
    before, after = command[: command.index(containers.IMAGE)], command[command.index(containers.IMAGE) + 1 :]

    assert before[:5] == ["docker", "run", "--rm", "--name", "c1"]
    pairs = list(itertools.pairwise(before))
    assert {("--network", "host"), ("--pid", "host"), ("--env", "EGREGORE_BROKER_URL")} <= set(pairs)
    assert ("--volume", f"{tmp_path}:{tmp_path}") in pairs
    assert ("--volume", f"{containers.ROOT / 'tests'}:/code/tests:ro") in pairs
    assert after == ["--concurrency", "2"]
    assert not any("redis://" in part for part in command)


def test_the_image_is_that_of_the_repository() -> None:
    """The image is built from the Dockerfile that users build from, with the repository as its context."""
    command = containers.build_command()

    assert Path(command[command.index("--file") + 1]).read_text().startswith("# The worker.")
    assert (Path(command[-1]) / "pyproject.toml").exists()
    assert command[command.index("--tag") + 1] == containers.IMAGE

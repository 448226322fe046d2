"""Worker nodes driven by pytest-celery's cluster API alone, as it drives containers."""

from __future__ import annotations

from egregore_dist import Sequence
from tests.support.trial import Trial
from tests.support.work import join, nap


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

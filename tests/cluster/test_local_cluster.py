"""A cluster on this machine, and its workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import Context, LocalCluster, Run, errors, node, parallel
from egregore_dist.client import session
from tests.support import watching
from tests.support.clusters import submitting
from tests.support.trial import notice_soon
from tests.support.waiting import let_pass, until


@node
def where(gate: str, context: Context) -> str:
    """Wait for the gate, the first time only, and say who runs this."""
    (Path(gate).parent / f"{context.branch}-{context.attempt}").touch()
    while context.attempt == 1 and not Path(gate).exists():
        time.sleep(0.01)
    return str(os.getppid())


@node
def parent(_: None) -> int:
    return os.getppid()


def test_workers_are_killed_restarted_added_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run survives a killed worker; a restarted and an added one serve; a stopped one is known to be gone."""
    notice_soon(monkeypatch)
    with LocalCluster(workers=2) as cluster:
        first, second = cluster.workers
        run = parallel(where, where.alias("again")).submit(str(tmp_path / "gate"))
        until(lambda: (tmp_path / "where-1").exists() and (tmp_path / "again-1").exists())
        first.kill()
        until(lambda: not first.alive)
        (tmp_path / "gate").touch()

        assert run.result(timeout=60)["where"] == run.result()["again"] == str(second.pid)

        first.restart()
        third = cluster.add_worker()
        second.stop()

        assert [worker.alive for worker in cluster.workers] == [True, False, True]
        assert set(session.current().ledger.reports()) == {first.name, third.name}
        assert set(parallel(where, where.alias("again")).run(str(tmp_path / "gate")).values()) <= {
            str(first.pid),
            str(third.pid),
        }


def test_a_run_outlives_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are killed from outside are started again, and go on; one that is told to stop is not."""
    notice_soon(monkeypatch)
    with LocalCluster(workers=2) as cluster:
        first, second = cluster.workers
        run = parallel(where, where.alias("again")).submit(str(tmp_path / "gate"))
        until(lambda: (tmp_path / "where-1").exists() and (tmp_path / "again-1").exists())
        for worker in (first, second):
            watching.expect_end(worker)
            os.kill(worker.pid or 0, signal.SIGKILL)

        assert set(run.result(timeout=60).values()) <= {str(first.pid), str(second.pid)}
        assert (first.restarts, second.restarts, second.alive) == (1, 1, True)

        os.kill(first.pid or 0, signal.SIGTERM)
        until(lambda: not first.alive)
        let_pass(3.0)
        assert (first.alive, first.has_failed, first.restarts) == (False, False, 1)
        first.start()
        cluster.wait_ready()
        assert (first.alive, first.restarts) == (True, 0)


def test_a_worker_that_is_gone_keeps_no_other_from_being_added() -> None:
    """Who was killed, and is not known any more, is not waited for."""
    with LocalCluster(workers=2) as cluster:
        first, second = cluster.workers
        first.kill()
        until(lambda: not first.alive)
        cluster.forget(first)

        third = cluster.add_worker()
        second.restart()

        assert [worker.alive for worker in cluster.workers] == [False, True, True]
        assert parent.run(None) in {second.pid, third.pid}


def test_a_cluster_that_was_stopped_starts_again() -> None:
    """It has new workers then; one that runs is not started twice."""
    cluster = LocalCluster(workers=1)
    cluster.start()
    with pytest.raises(errors.ConfigurationError, match="started already"):
        cluster.start()
    cluster.stop()

    with cluster:
        (worker,) = cluster.workers
        assert parent.run(None) == worker.pid


def test_nothing_is_left_of_a_cluster_with_settings_that_cannot_be() -> None:
    """Its server ends with its start, not with the program."""
    cluster = LocalCluster(workers=0, queue="no name")
    with pytest.raises(errors.ConfigurationError, match="cannot name a queue"):
        cluster.start()

    assert cluster.server is None


def test_clusters_that_share_a_broker_have_nothing_in_common_but_the_server() -> None:
    """Their queues and workers have other names, the latter since RabbitMQ lets only one worker of a name consume."""
    with (
        LocalCluster(workers=1) as one,
        LocalCluster(workers=1, broker_url=one.url, prefix="other") as other,
        submitting(one.settings) as of_one,
        submitting(other.settings) as of_other,
    ):
        clusters = ((one, of_one), (other, of_other))
        (mine, theirs) = (each.workers.list() for _, each in clusters)
        assert {queue for said in mine for queue in said.queues}.isdisjoint(q for said in theirs for q in said.queues)
        assert one.workers[0].name != other.workers[0].name

        runs: list[tuple[LocalCluster, Run]] = []
        for _ in range(5):
            for cluster, each in clusters:
                session.use(each)
                runs.append((cluster, parent.submit()))
        for cluster, run in runs:
            assert run.result(timeout=30) == cluster.workers[0].pid
        assert [each.ledger.count_aside() for _, each in clusters] == [0, 0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": "2"}, "workers must be a whole number of at least 0, not '2'"),
        ({"workers": -1}, "workers must be a whole number of at least 0, not -1"),
        ({"concurrency": 1.5}, "concurrency must be a whole number of at least 1, not 1.5"),
        ({"concurrency": True}, "concurrency must be a whole number of at least 1, not True"),
        ({"pool": "gevent"}, "pool must be one of .*'threads'.*, not 'gevent'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(given: dict[str, Any], said: str) -> None:
    """Nothing is started for a cluster that cannot be."""
    with pytest.raises(errors.ConfigurationError, match=said):
        LocalCluster(**given)


def test_a_cluster_that_is_not_started_says_so() -> None:
    """What needs a running cluster names the two ways to have one."""
    cluster = LocalCluster()
    with pytest.raises(errors.ConfigurationError, match=r"not started.*\.start\(\)"):
        cluster.add_worker()
    with pytest.raises(errors.ConfigurationError, match=r"not started.*\.start\(\)"):
        _ = cluster.monitor_url


def test_a_foreign_ledger_is_not_for_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger of the environment belongs to its broker: a cluster with its own server leaves it alone."""
    monkeypatch.setenv("EGREGORE_LEDGER_URL", "redis://127.0.0.1:1/0")
    with LocalCluster(workers=1) as cluster:
        assert "EGREGORE_LEDGER_URL" not in cluster.worker_environment()
        assert parent.run(None) == cluster.workers[0].pid

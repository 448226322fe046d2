"""A cluster on this machine, and its workers."""

from __future__ import annotations

import time
from pathlib import Path

from egregore_dist import Context, LocalCluster, node, parallel
from egregore_dist.client import session
from tests.support.waiting import until


@node
def where(gate: str, context: Context) -> str:
    """Wait for the gate, the first time only, and say who runs this."""
    import os

    (Path(gate).parent / f"{context.branch}-{context.attempt}").touch()
    while context.attempt == 1 and not Path(gate).exists():
        time.sleep(0.01)
    return str(os.getppid())


def test_workers_are_killed_restarted_added_and_stopped(tmp_path: Path) -> None:
    """A run survives a killed worker; a restarted and an added one serve; a stopped one is known to be gone."""
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


def test_clusters_that_share_a_broker_have_workers_of_different_names() -> None:
    """RabbitMQ lets only one worker of a name consume."""
    with (
        LocalCluster(workers=1) as one,
        LocalCluster(workers=1, broker_url=one.url, queue="other", prefix="other") as other,
    ):
        assert one.workers[0].name != other.workers[0].name

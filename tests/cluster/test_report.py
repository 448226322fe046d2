"""What workers say of themselves."""

from __future__ import annotations

import msgspec
import psutil

from egregore_dist import LocalCluster
from egregore_dist.cli import probe
from egregore_dist.client import session
from egregore_dist.resources import report
from egregore_dist.resources.report import Report
from tests.support.waiting import until


def reports() -> list[Report]:
    current = session.current()
    raws = current.ledger.reports().values()
    return list(report.read(raws, now=current.ledger.now(), ttl=current.settings.report_ttl))


def test_a_worker_says_what_it_has(local: LocalCluster) -> None:
    """Each worker reports its machine, its pool's processes and their memory, its prefetch and its clock."""
    until(
        # Tests before this one may have had a process of a pool replaced.
        lambda: all(said.prefetch and all(map(psutil.pid_exists, said.children)) for said in reports()),
        what="a report after the workers have connected",
    )
    found = {said.worker: said for said in reports()}

    assert found.keys() >= {worker.name for worker in local.workers}
    for worker in local.workers:
        said = found[worker.name]
        children = {child.pid for child in psutil.Process(worker.pid).children()}
        assert said.children.keys() <= children
        assert len(said.children) == said.slots == 1
        assert all(memory > 2**20 for memory in said.children.values())
        assert (said.pid, said.pool, said.prefetch) == (worker.pid, "prefork", 1)
        assert abs(said.skew) < 1
        assert report.is_sound(said)
        assert said.machine_total >= said.memory_total


def test_a_worker_says_which_code_it_has(local: LocalCluster) -> None:
    """Nodes of loaded modules are named with a hash of their code; a worker without modules names none."""
    from egregore_dist.cli import survey
    from egregore_dist.wire import registry
    from egregore_dist.worker import pool

    found = pool.nodes(registry.NodeRegistry([survey.__name__]))

    assert list(found) == sorted(found)
    assert {"find_packages", "measure_file", "rank"} <= found.keys()
    assert len(set(found.values())) == len(found)
    assert all(said.nodes == said.code == () for said in reports())


def test_a_report_of_another_release_stops_nobody(local: LocalCluster) -> None:
    """A worker whose report cannot be read is alive, and what others plan does not fail of it."""
    ledger = session.current().ledger
    ledger.report("strange@host", msgspec.msgpack.encode({"worker": 1}), 30.0)
    try:
        assert "strange@host" not in {said.worker for said in reports()}
        assert "strange@host" in ledger.reports()
        assert "strange@host" not in {worker.report.worker for worker in probe.workers(ledger)}
    finally:
        ledger.retire("strange@host")

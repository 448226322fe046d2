"""F26, and the tuner: what machines say of their memory and their other workers changes what a worker takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from egregore_dist import Run
from egregore_dist.client import session
from egregore_dist.resources import report
from egregore_dist.resources.report import Report
from tests.support.nodes import ProcessContainer
from tests.support.proxy import Proxy
from tests.support.trial import Trial
from tests.support.waiting import let_pass, until
from tests.support.work import nap


def said_of(node: ProcessContainer) -> Report:
    """What a node reports; on a busy machine it may be late."""
    found: dict[str, Report] = {}

    def is_there() -> bool:
        found.update({said.worker: said for said in session.current().workers.list()})
        return node.name in found

    until(is_there, what=f"a report of {node.name}")
    return found[node.name]


def waits_for(run: Run, kind: str) -> bool:
    """Whether this is why a run waits."""
    return kind in {reason.kind for reason in run.why()}


def leave(file: Path, mebibytes: int) -> None:
    """Say how much memory is left; whole, since the worker may look at any time."""
    said = file.with_suffix(".said")
    said.write_text(str(mebibytes))
    said.replace(file)


def test_workers_of_one_machine_share_it(trial_of: Callable[..., Trial]) -> None:
    """Started without a number they share the cores; when one has gone, the other has them all again."""
    trial = trial_of(workers=0)
    cores = int(report.measure().cores)
    first = trial.add(tuned=True)
    until(lambda: (said_of(first).slots, said_of(first).concurrency_by) == (max(1, cores), "tuner"), what="all cores")

    second = trial.add(tuned=True)
    both = max(2, cores)
    until(lambda: said_of(first).slots + said_of(second).slots == both, what="a share for each")
    until(lambda: sum(len(said_of(it).children) for it in (first, second)) == both, what="no more processes than cores")
    assert "shared with 1 other worker" in said_of(second).concurrency_why
    runs = [trial.submit(nap.map(), [0.05] * 20) for _ in range(3)]
    trial.kill(second)
    trial.ledger.retire(second.name)
    assert [len(trial.result(run)) for run in runs] == [20] * 3

    until(lambda: said_of(first).slots == max(1, cores) == said_of(first).prefetch, what="all cores again")


def test_under_memory_pressure_nothing_is_taken(trial_of: Callable[..., Trial], tmp_path: Path) -> None:
    """What runs goes on, nothing more begins, and a waiting run says why; with enough memory again it is served."""
    trial = trial_of(workers=0)
    left = tmp_path / "left"
    leave(left, 4000)
    node = trial.add(hooks=[f"memory={left}"], concurrency=2)
    running = trial.submit(nap, 2.0)
    trial.wait_for(1, node="nap")

    leave(left, 100)
    until(lambda: "memory pressure" in said_of(node).holds, what="the worker to hold back")
    waiting = trial.submit(nap, 0.0)
    assert trial.result(running).startswith("nap#")
    until(lambda: waits_for(waiting, "held"), what="the reason")
    leave(left, 600)
    let_pass(1.5)
    assert waiting.status == "pending"
    assert len(trial.executions("nap")) == 1

    leave(left, 4000)
    assert trial.result(waiting).startswith("nap#")
    until(lambda: not said_of(node).holds, what="the worker to take lanes")
    assert len(said_of(node).children) == said_of(node).slots == 2


def test_what_was_set_outlives_a_lost_connection(trial: Trial) -> None:
    """A worker whose connections break stays drained, and keeps its number; resumed, it serves with that, and stops."""
    assert trial.cluster.server is not None
    proxy = trial.enter(Proxy(trial.cluster.server.socket, seed=trial.rng.random()))
    far = trial.add(env={"EGREGORE_BROKER_URL": proxy.url(trial.cluster.url)})
    workers = session.current().workers
    until(lambda: said_of(far).prefetch == 1, what="its connection")
    workers.concurrency(far.name, 3)
    for node in trial.nodes:
        workers.drain(node.name)

    for _ in range(2):
        proxy.cut()
        let_pass(0.5)
    waiting = trial.submit(nap.map(), [1.5] * 3)
    until(lambda: waits_for(waiting, "held"), what="the reason")
    until(lambda: far.logs().count("Connected to") >= 2, what="a new connection")
    let_pass(0.5)
    assert not trial.executions("nap")
    workers.resume(far.name)
    assert len(trial.result(waiting)) == 3

    until(
        lambda: [(said.slots, said.prefetch, said.concurrency_by) for said in (said_of(far),)] == [(3, 3, "hand")],
        what="its number in a report",
    )
    spans = sorted((it.start, it.end) for it in trial.executions("nap"))
    assert spans[2][0] < min(end for _, end in spans if end is not None)
    stops_warm(trial, far)


def stops_warm(trial: Trial, node: ProcessContainer) -> None:
    """A worker that is told to stop ends what runs there first, and is gone then."""
    before = len(trial.executions("nap"))
    run = trial.submit(nap.map(), [0.8] * 3)
    trial.wait_for(before + 3, node="nap", pid=node.pid)
    node.expect_end()
    # What is left of the run is for others.
    session.current().workers.resume(trial.nodes[0].name)

    assert "stopping" in session.current().workers.stop(node.name).holds
    assert len(trial.result(run)) == 3
    assert node.wait(20)
    assert node.returncode == 0
    assert len(trial.executions("nap")) == before + 3

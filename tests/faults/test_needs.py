"""What nodes declare to need decides where they run: workers of machines of different sizes, on one queue."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from egregore_dist import Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.resources.report import Report
from tests.support.nodes import ProcessContainer
from tests.support.trial import Trial
from tests.support.waiting import until
from tests.support.work import anap, moment, nap

big = node("big", memory="2GB")(nap.fn)
wide = node("wide", cpus=3)(nap.fn)


def reports() -> dict[str, Report]:
    return {said.worker: said for said in session.current().workers.list()}


def served_by(trial: Trial, name: str) -> set[int | None]:
    """The main processes whose pools executed nodes of names that begin so."""
    mains = {child.pid: at.pid for at in trial.nodes for child in psutil.Process(at.pid).children(recursive=True)}
    return {mains.get(it.pid) for it in trial.executions() if it.node.startswith(name)}


def machines(trial: Trial) -> tuple[ProcessContainer, ProcessContainer]:
    """A small machine and a large one, with a worker of two lanes on each."""
    small = trial.add(hooks=["machine=small,2000,2"], concurrency=2, wait=False)
    large = trial.add(hooks=["machine=large,8000,4"], concurrency=2)
    small.ready()
    return small, large


def test_what_a_small_worker_has_no_room_for_goes_elsewhere(trial_of: Callable[..., Trial]) -> None:
    """Branches with different needs are one block; each runs only on a machine that has its memory and its cores."""
    trial = trial_of(workers=0)
    small, large = machines(trial)
    branches = [step.alias(f"{step.name}{number}") for step in (big, wide, nap) for number in range(4)]
    mixed = Sequence(moment, big.alias("big_then"), name="mixed")
    flow = parallel(*branches, mixed, name="sizes")

    for _ in range(3):
        assert trial.run(flow, 0.05).keys() == {*(branch.name for branch in branches), "mixed"}
    trial.run(big, 0.01)
    trial.run(Sequence(parallel(nap), node("last", cpus=4)(lambda _: 1)), 0.01)

    assert served_by(trial, "big") == served_by(trial, "wide") == {large.pid}
    assert served_by(trial, "nap") == {small.pid, large.pid}


def test_lanes_say_how_wide_they_are(trial_of: Callable[..., Trial]) -> None:
    """A worker reports the lanes that run, with how many branches each may run at a time."""
    trial = trial_of(workers=1, concurrency=2)
    [worker] = trial.nodes
    wide_run = trial.submit(anap.map(), [2.0] * 10)
    narrow_run = trial.submit(nap, 2.0)

    until(lambda: {1, 500} <= {*reports()[worker.name].widths.values()}, what="both lanes in a report")
    said = reports()[worker.name]
    assert said.widths.keys() <= {*said.lanes}
    for run in (wide_run, narrow_run):
        trial.result(run)
    until(lambda: not reports()[worker.name].widths, what="a report without lanes")

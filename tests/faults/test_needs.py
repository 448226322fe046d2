"""What nodes declare to need decides where they run, and how many at a time: workers of machines of different sizes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from egregore_dist import Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.client.why import Reason
from egregore_dist.resources.report import Report
from tests.support.nodes import ProcessContainer
from tests.support.trial import TTL, Trial
from tests.support.waiting import let_pass, until
from tests.support.work import anap, long_first, moment, nap

big = node("big", memory="2GB")(nap.fn)
wide = node("wide", cpus=3)(nap.fn)
third = node("third", memory="900MB")(nap.fn)
most = node("most", memory="2.5GB")(nap.fn)
stuck = node("stuck", memory="2GB")(long_first.fn)

# Of 4000 MiB lanes may have 2.9 GB.
ONE = "machine=one,4000,4"


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
    assert trial.run(big, 0.01).startswith("big#")
    assert trial.run(Sequence(parallel(nap), node("last", cpus=4)(lambda _: 1)), 0.01) == 1

    assert served_by(trial, "big") == served_by(trial, "wide") == {large.pid}

    def either_serves_the_small() -> bool:
        # Who is called first may take them all: they are quick, and run beside one another.
        trial.run(nap, 0.01)
        return served_by(trial, "nap") == {small.pid, large.pid}

    until(either_serves_the_small, what="what any worker has room for to be served by either")


def test_lanes_say_how_wide_they_are(trial_of: Callable[..., Trial]) -> None:
    """A worker reports the lanes that run, with how many branches each may run at a time."""
    trial = trial_of(workers=1, concurrency=2)
    [worker] = trial.nodes
    wide_run = trial.submit(anap.map(), [2.0] * 10)
    narrow_run = trial.submit(nap, 2.0)

    found: list[Report] = []

    def widths() -> set[int] | None:
        # On a busy machine a report may be late.
        found[:] = [said for said in reports().values() if said.worker == worker.name]
        return {*found[0].widths.values()} if found else None

    until(lambda: {1, 500} <= (widths() or set()), what="both lanes in a report")
    [said] = found
    assert said.widths.keys() <= {*said.lanes}
    assert len(trial.result(wide_run)) == 10
    assert trial.result(narrow_run).startswith("nap#")
    until(lambda: widths() == set(), what="a report without lanes")


def together(trial: Trial, *names: str) -> int:
    """How many executions of these nodes there were at a time, at most."""
    spans = [it for it in trial.executions() if it.node in names]
    return max(sum(it.start <= at.start < (it.end or it.start) for it in spans) for at in spans)


def lanes_of(trial: Trial, host: str = "one") -> list[str]:
    """The lanes that have room of a machine, as the ledger knows them."""
    found = trial.ledger.redis.hkeys(trial.ledger.keys.machine(host))
    return [name.decode() for name in found if name.startswith(b"lane ")]  # type: ignore[union-attr]


def one_machine(trial: Trial, concurrency: int = 2) -> list[ProcessContainer]:
    """Two workers of one machine."""
    nodes = [trial.add(hooks=[ONE], concurrency=concurrency, wait=False) for _ in range(2)]
    for each in nodes:
        each.ready()
    return nodes


def test_runs_together_have_no_more_than_there_is(trial_of: Callable[..., Trial]) -> None:
    """Lanes of several runs and workers share 70 % of their machine; who waits says for what, and holds no slot."""
    trial = trial_of(workers=0)
    nodes = one_machine(trial)
    runs = [trial.submit(third.map(), [1.0] * 6) for _ in range(3)]
    trial.wait_for(3, node="third")
    waiting = trial.submit(most, 0.1)
    found: list[Reason] = []

    def waits_for_room() -> bool:
        found[:] = [reason for reason in waiting.why() if reason.kind == "room"]
        return bool(found)

    until(waits_for_room, what="the reason")
    [reason] = found
    assert "1 waits for 2.5 GB of memory each, which no machine has free: n" in reason.text
    # Neither memory nor cores are asked of it.
    assert trial.run(nap, 0.0).startswith("nap#")

    assert [len(trial.result(run)) for run in runs] == [6] * 3
    assert trial.result(waiting).startswith("most#")

    assert together(trial, "third") == 3
    assert together(trial, "most", "third") == 3
    [alone] = trial.executions("most")
    assert not [it for it in trial.executions("third") if it.start < alone.end and alone.start < it.end]  # type: ignore[operator]
    until(lambda: not lanes_of(trial), what="all room given back")
    until(lambda: not any(said.short for said in reports().values()), what="all queues open")
    assert sum(each.logs().count("no room for a lane") for each in nodes) < 50


def test_cores_are_shared_too(trial_of: Callable[..., Trial]) -> None:
    """Two workers of a machine of four cores run one node at a time that needs three."""
    trial = trial_of(workers=0)
    one_machine(trial)
    for run in [trial.submit(wide.map(), [0.3] * 2) for _ in range(2)]:
        assert len(trial.result(run)) == 2

    assert together(trial, "wide") == 1
    assert len(trial.executions("wide")) == 4


@pytest.mark.long
def test_large_needs_do_not_starve(trial_of: Callable[..., Trial]) -> None:
    """A lane that needs nearly all of a machine has its turn while others of small needs go on coming."""
    trial = trial_of(workers=0)
    one_machine(trial)
    small = [trial.submit(third.map(), [0.3] * 30) for _ in range(2)]
    trial.wait_for(3, node="third")
    large = trial.submit(most, 0.2)

    assert trial.result(large).startswith("most#")
    assert any(run.status == "running" for run in small)
    assert [len(trial.result(run)) for run in small] == [30] * 2
    assert together(trial, "most", "third") == 3


def test_a_killed_process_gives_its_room_back(trial_of: Callable[..., Trial]) -> None:
    """What waits for the room of a lane goes on when that lane's process is killed, and so does its branch."""
    trial = trial_of(workers=0)
    one_machine(trial, concurrency=1)
    first = trial.submit(stuck, 60.0)
    trial.wait_for(1, node="stuck")
    second = trial.submit(big, 0.1)
    until(lambda: "room" in {reason.kind for reason in second.why()}, what="the reason")

    os.kill(trial.executions("stuck")[0].pid, signal.SIGKILL)

    assert trial.result(second, timeout=20).startswith("big#")
    assert trial.result(first, timeout=20).startswith("stuck#")
    assert together(trial, "stuck", "big") == 1
    until(lambda: not lanes_of(trial), what="all room given back")


def test_a_killed_worker_gives_its_room_back(trial_of: Callable[..., Trial]) -> None:
    """Once its report has ended, what its lanes had is for the other workers of its machine."""
    trial = trial_of(workers=0)
    nodes = one_machine(trial, concurrency=1)
    first = trial.submit(stuck, 60.0)
    trial.wait_for(1, node="stuck")
    pid = trial.executions("stuck")[0].pid
    [busy] = [it for it in nodes if pid in {child.pid for child in psutil.Process(it.pid).children(recursive=True)}]
    second = trial.submit(big, 0.1)
    until(lambda: "room" in {reason.kind for reason in second.why()}, what="the reason")

    trial.kill(busy)

    assert trial.result(second, timeout=30).startswith("big#")
    assert trial.result(first, timeout=30).startswith("stuck#")
    assert together(trial, "stuck", "big") <= 2
    until(lambda: not lanes_of(trial), what="all room given back")


def test_an_outage_gives_no_room_away(trial_of: Callable[..., Trial]) -> None:
    """While the server stood still every report has expired: what runs keeps its room all the same."""
    trial = trial_of(workers=0)
    server = trial.cluster.server
    assert server is not None
    one_machine(trial, concurrency=1)
    first = trial.submit(big, TTL + 6)
    trial.wait_for(1, node="big")
    second = trial.submit(most, 0.1)
    until(lambda: "room" in {reason.kind for reason in second.why()}, what="the reason")

    os.kill(server.pid, signal.SIGSTOP)
    try:
        let_pass(TTL + 1)
    finally:
        os.kill(server.pid, signal.SIGCONT)

    for run in (first, second):
        trial.result(run, timeout=30)
    assert together(trial, "big", "most") == 1
    assert {it.attempt for it in trial.executions()} == {1}


def test_a_run_that_is_cancelled_has_no_turn(trial_of: Callable[..., Trial]) -> None:
    """A lane that was the first to wait for room, and has nothing to do any more, keeps nobody waiting."""
    trial = trial_of(workers=0)
    one_machine(trial)
    held = trial.submit(stuck, 60.0)
    trial.wait_for(1, node="stuck")
    first = trial.submit(most, 0.1)
    until(lambda: "room" in {reason.kind for reason in first.why()}, what="the reason")
    later = trial.submit(third, 0.1)
    until(lambda: "room" in {reason.kind for reason in later.why()}, what="the reason of what comes after it")

    first.cancel()

    assert trial.result(later, timeout=20) is not None
    held.cancel()

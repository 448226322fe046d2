"""F8: workers are stopped where they stand (SIGSTOP) past their reports' lifetime, and go on (SIGCONT) later."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from egregore_dist import Run, Sequence, parallel
from tests.support import controls, history
from tests.support.nodes import ProcessContainer
from tests.support.trial import TTL, Trial
from tests.support.waiting import let_pass, until
from tests.support.work import far_only, join, long_first, nap, quick

TRIES = 3


def holders(trial: Trial, node: str, count: int) -> list[ProcessContainer]:
    """The workers that execute a node, once there are so many."""

    def found() -> list[ProcessContainer]:
        groups = {os.getpgid(it.pid) for it in trial.executions(node) if it.end is None}
        return [it for it in trial.nodes if it.pid in groups]

    until(lambda: len(found()) >= count, seconds=30, what=f"{count} workers at {node}")
    return found()[:count]


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_late_attempt_is_fenced_off(trial_of: Callable[..., Trial], stopped: int) -> None:
    """What a stopped worker held runs elsewhere; when it goes on it is told to stop, and nothing of it counts."""
    trial = trial_of(workers=stopped + 1)
    run = trial.submit(Sequence(long_first.map(), join), [60.0] * stopped)
    held = holders(trial, "long_first", stopped)
    with controls.beside(trial):
        for node in held:
            node.pause()
        found = trial.result(run)
        for node in held:
            node.unpause()

    assert [value.split("#")[2] for value in found] == ["2"] * stopped
    first = {it.pid for it in trial.executions("long_first") if it.attempt == 1}
    # A process that is told to stop ends its node; one that was killed for it is not there any more.
    until(
        lambda: all(
            it.end is not None or it.pid not in _living(first)
            for it in trial.executions("long_first")
            if it.attempt == 1
        ),
        seconds=15,
        what="the end of the late attempts",
    )
    assert all(it.value is None for it in trial.executions("long_first") if it.attempt == 1)
    # Those that were stopped serve again.
    assert len(trial.run(nap.map(), [0.3] * 3 * (stopped + 1))) == 3 * (stopped + 1)


def test_a_late_result_is_dropped(trial: Trial) -> None:
    """A branch that ends as soon as its worker goes on is refused: the other attempt has settled it."""
    run = trial.submit(Sequence(parallel(long_first, quick), join), 1.0)
    (node,) = holders(trial, "long_first", 1)
    node.pause()
    found = trial.result(run)
    node.unpause()
    until(lambda: all(it.end is not None for it in trial.executions()), seconds=15, what="the end of the late attempt")

    assert found["long_first"].split("#")[2] == "2"
    assert trial.result(run) == found


def test_a_late_result_is_told(trial: Trial) -> None:
    """While their block goes on, results that come too late are an event of the run; what they hold is dropped."""
    runs = []
    for _ in range(TRIES):
        run = trial.submit(parallel(long_first, far_only), 1.0)
        runs.append(run)
        (node,) = holders(trial, "long_first", 1)
        node.pause()
        mine = partial(ran, trial, run)
        until(lambda mine=mine: any(it.attempt == 2 and it.end is not None for it in mine()), what="the other attempt")
        node.unpause()
        until(lambda mine=mine: all(it.end is not None for it in mine()), what="the end of the late attempt")
        # It was told to stop before it had ended, or it had a result by then.
        with suppress(AssertionError):
            until(lambda run=run: late(trial, run), seconds=2, what="the event")
            break

    assert late(trial, run) == 1
    trial.add(queues=["far"])
    for run in runs:
        assert trial.result(run)["long_first"].split("#")[2] == "2"


def ran(trial: Trial, run: Run) -> list[history.Execution]:
    """The executions of a run's long branch."""
    return [it for it in trial.executions("long_first") if it.run == run.id]


def late(trial: Trial, run: Run) -> int:
    """How many times a run was told that results came too late."""
    return [it.type for it in history.read_run(trial.ledger, run.id).events].count("branches.late")


def test_every_worker_is_stopped(trial: Trial) -> None:
    """With all of them stopped nothing goes on; when they do, every run ends, and everything counts once."""
    runs = [
        trial.submit(Sequence(nap.map(), join), [0.2] * 8),
        trial.submit(parallel(nap, parallel(nap, quick, name="inner"), max_concurrent=1), 0.3),
    ]
    holders(trial, "nap", 2)
    let_pass(trial.rng.uniform(0, 0.3))
    for node in trial.nodes:
        node.pause()
    let_pass(TTL + 1)
    for node in trial.nodes:
        node.unpause()

    assert len(trial.result(runs[0])) == 8
    found = trial.result(runs[1])
    assert {name: type(value) for name, value in found.items()} == {"nap": str, "inner": dict}
    assert [run.status for run in runs] == ["succeeded"] * 2


def _living(pids: set[int]) -> set[int]:
    return {pid for pid in pids if os.path.exists(f"/proc/{pid}")}

"""A pool slot whose process has died is soon usable again: celery's own look after them every five seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from egregore_dist import parallel
from egregore_dist.ledger.ledger import ATTEMPTS
from egregore_dist.workflow.step import Step
from tests.support import work
from tests.support.trial import Trial
from tests.support.waiting import let_pass, until
from tests.support.work import anap, long_first, nap, quick

# Half a second is promised; a busy machine takes longer to start a process, and five seconds are what it must not be.
USABLE = 0.5
SLACK = 1.0
KILLS = 3


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_slot_is_usable_again(
    trial_of: Callable[..., Trial], how: signal.Signals, figure: Callable[[str], None]
) -> None:
    """The only slot's process is ended at its work: what waits for the slot begins at once, each time."""
    trial = trial_of(workers=1)
    took = []
    for number in range(1, KILLS + 1):
        held = trial.submit(parallel(long_first), 60.0)
        until(lambda number=number: len([it for it in trial.executions("long_first") if it.attempt == 1]) == number)
        process = next(it.pid for it in reversed(trial.executions("long_first")) if it.attempt == 1)
        waiting = trial.submit(parallel(quick), number)
        ended = work.now()
        os.kill(process, how)
        assert set(trial.result(waiting)) == {"quick"}
        took.append((trial.executions("quick")[-1].start - ended) / 1000)
        assert set(trial.result(held)) == {"long_first"}
        until(lambda: not trial.ledger.redis.hlen("unacked"), what="the end of every message")

    assert trial.nodes[0].status == "running"
    figure(f"usable after {median(took):.2f} s (median), {max(took):.2f} s at most")
    assert min(took) < USABLE
    assert median(took) < USABLE + SLACK


@pytest.mark.parametrize("where", ["mine", "come", "enter", "load", "leave"])
def test_a_process_that_is_held_up_outside_of_nodes_gives_its_slot_back(
    trial_of: Callable[..., Trial], tmp_path: Path, where: str
) -> None:
    """A process that has a lane, and hangs before its first node or after its last block, is ended and replaced."""
    trial = trial_of(workers=0)
    held = tmp_path / "held"
    trial.add(hooks=[f"held_up={where},{held}"])
    first = trial.submit(quick, 1)
    until(held.exists, what="a process that is held up")

    # The only slot is needed for it.
    assert trial.run(parallel(quick), 2).keys() == {"quick"}
    assert trial.result(first).startswith("quick#")
    until(lambda: not Path(f"/proc/{held.read_text().strip()}").exists(), what="the end of the process")
    until(lambda: not trial.ledger.redis.hlen("unacked"), what="the end of every message")
    assert trial.nodes[0].status == "running"


@pytest.mark.parametrize("first", [quick, anap], ids=["narrow", "wide"])
def test_a_node_whose_code_is_never_loaded_ends_as_lost(
    trial_of: Callable[..., Trial], tmp_path: Path, first: Step
) -> None:
    """One whose module waits for ever while it is imported has cost three processes; the others are not blamed."""
    trial = trial_of(workers=0)
    held = tmp_path / "held"
    trial.add(hooks=[f"held_up=load+{held}"])
    run = trial.submit(parallel(first, nap, on_error="collect"), 0.1)

    failed = trial.result(run, timeout=60)
    assert len(held.read_text().split()) == 2 * ATTEMPTS
    for name, error in failed.items():
        assert (error.kind, error.node) == ("lost", name)
        assert f"lost {ATTEMPTS} times: its process was killed: for 1 s it loaded the code of a node" in error.message
    lost = [event for event in run.events() if event.type == "branch.lost"]
    assert len(lost) == 2 * ATTEMPTS
    assert trial.nodes[0].status == "running"


def test_a_process_may_wait_for_a_server_that_takes_nothing(trial_of: Callable[..., Trial]) -> None:
    """However long: what it has executed is committed once the server takes it."""
    trial = trial_of(workers=0)
    worker = trial.add(hooks=["impatient=2"])
    server = trial.ledger.redis
    run = trial.submit(parallel(nap, quick), 1.0)
    until(lambda: trial.executions("nap"), what="the node")
    server.config_set("min-replicas-to-write", 1)
    try:
        until(lambda: "the ledger waits" in worker.logs(), what="a lane that waits")
        let_pass(8.0)
    finally:
        server.config_set("min-replicas-to-write", 0)

    assert trial.result(run).keys() == {"nap", "quick"}
    assert {it.attempt for it in trial.executions()} == {1}
    assert "is killed" not in worker.logs()


@pytest.mark.parametrize("size", [0, 4096])
def test_a_process_that_has_no_board_is_not_held_up(trial_of: Callable[..., Trial], size: int) -> None:
    """Where the disk is full nobody sees what it is at, so that it is left at that."""
    trial = trial_of(workers=0)
    worker = trial.add(hooks=["impatient=1", f"no_board={size}"])

    assert trial.run(nap, 4.0).startswith("nap#")
    assert "cannot be watched" in worker.logs()
    assert {it.attempt for it in trial.executions("nap")} == {1}


def test_a_slot_whose_end_was_not_heard_of_comes_back(trial_of: Callable[..., Trial], tmp_path: Path) -> None:
    """Celery may lose the news of a task's end, as where its connection is lost a moment after it was made anew.

    For the worker the process has a lane then, and it has nothing to do: it is ended and replaced, and the message of
    the lane, which is not acknowledged till then, comes again and finds nothing to do.
    """
    trial = trial_of(workers=0)
    lost = tmp_path / "lost"
    trial.add(hooks=[f"lose_end={lost}"])
    assert trial.run(quick, 1).startswith("quick#")
    lost.touch()
    assert trial.run(quick, 2).startswith("quick#")
    until(lambda: not lost.exists(), what="the loss")

    # The only slot is needed for it.
    assert trial.run(parallel(quick), 3).keys() == {"quick"}
    until(lambda: not trial.ledger.redis.hlen("unacked"), what="the end of every message")
    assert len(trial.executions("quick")) == 3

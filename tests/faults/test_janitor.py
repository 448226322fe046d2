"""F23: the janitor that leads is killed or stopped, or leads with another; and an outage that nobody noticed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import cast

import pytest

from egregore_dist import ParallelTimeoutError, Sequence, node, parallel
from tests.support import history
from tests.support.nodes import ProcessContainer
from tests.support.trial import TTL, Trial
from tests.support.waiting import let_pass, until
from tests.support.work import anap, join, long_first, nap, quick

REPLACED_WITHIN = 5.0
# A busy machine is slower than the product.
SLACK = 5.0


@node(queue="nobody")
def unserved(data: float) -> float:
    return data


# Its lanes go where no worker is: nobody but a janitor sees its deadline.
forsaken = parallel(unserved, timeout=0.5, name="forsaken")


def leader(trial: Trial) -> str:
    """The janitor that leads, "" for none."""
    return (cast(bytes | None, trial.ledger.redis.get(trial.ledger.keys.janitor)) or b"").decode()


def node_of(trial: Trial, janitor: str) -> ProcessContainer:
    """The worker that a janitor is part of."""
    return next(it for it in trial.nodes if janitor.startswith(f"{it.name}/"))


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_the_leader_is_replaced(trial_of: Callable[..., Trial], figure: Callable[[str], None], how: str) -> None:
    """When the leader is killed or stopped another leads within five seconds, and keeps deadlines."""
    trial = trial_of(workers=2, settings={"sweep_interval": "1"})
    trial.notes.late = REPLACED_WITHIN + SLACK
    until(lambda: leader(trial), what="a leader")
    before = leader(trial)
    lost = node_of(trial, before)
    run = trial.submit(forsaken, 1.0)
    if how == "kill":
        trial.kill(lost)
    else:
        lost.pause()
    gone = time.monotonic()
    until(lambda: leader(trial) not in ("", before), seconds=REPLACED_WITHIN + SLACK, what="another leader")
    figure(f"{how}: another led after {time.monotonic() - gone:.2f} s")
    assert isinstance(trial.failure(run), ParallelTimeoutError)

    if how == "pause":
        after = leader(trial)
        lost.unpause()
        assert len(trial.run(nap.map(), [0.2] * 4)) == 4
        assert leader(trial) == after
    assert trial.run(quick, 1).startswith("quick#")
    forget_forsaken(trial)


def forget_forsaken(trial: Trial) -> None:
    """Messages that nobody serves stay where they are."""
    trial.ledger.redis.delete("nobody")


def test_many_leaders_do_no_harm(trial: Trial) -> None:
    """While everybody leads in turn, and messages are lost and a worker dies, every run ends as it should."""
    stop = Event()
    led = set()

    def depose() -> None:
        while not stop.wait(0.01):
            led.add(leader(trial))
            trial.ledger.redis.delete(trial.ledger.keys.janitor)

    thread = Thread(target=depose)
    thread.start()
    try:
        third = trial.add()
        runs = [trial.submit(Sequence(parallel(nap, anap, long_first, name="work"), join), 0.2) for _ in range(6)]
        runs += [trial.submit(forsaken, 1.0) for _ in range(6)]
        trial.wait_for(3)
        trial.ledger.redis.delete(trial.cluster.settings.queue)
        trial.kill(third)
        values = [trial.result(run) for run in runs[:6]]
        failures = [trial.failure(run) for run in runs[6:]]
    finally:
        stop.set()
        thread.join()

    assert [set(value) for value in values] == [{"nap", "anap", "long_first"}] * 6
    assert {type(failure) for failure in failures} == {ParallelTimeoutError}
    assert len(led - {""}) >= 2
    forget_forsaken(trial)


def test_a_silent_outage_loses_no_lease(trial: Trial) -> None:
    """While the server stood still every report has expired: what runs is left to its lanes all the same."""
    server = trial.cluster.server
    assert server is not None
    run = trial.submit(parallel(nap, anap, name="long"), TTL + 4)
    trial.wait_for(2)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        let_pass(TTL + 1)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    value = trial.result(run)

    assert [value[name].split("#")[2] for name in ("nap", "anap")] == ["1", "1"]
    events = {event.type for event in history.read_run(trial.ledger, run.id).events}
    assert not events & history.GIVEN_BACK

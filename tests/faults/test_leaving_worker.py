"""F3: workers are asked to stop, in each of the ways there are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from egregore_dist import Sequence, parallel
from tests.support import work
from tests.support.nodes import ProcessContainer
from tests.support.trial import TTL, Trial
from tests.support.waiting import until
from tests.support.work import heedless_first, join, long_first, nap, nap_or_wait

# A branch is given back within two seconds; a busy machine is slower than the product.
GIVEN_BACK = 2.0
SLACK = 5.0


def holder(trial: Trial, node: str) -> ProcessContainer:
    """The worker that has begun a node."""
    trial.wait_for(node=node)
    group = os.getpgid(trial.executions(node)[0].pid)
    return next(it for it in trial.nodes if it.pid == group)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param(["SIGTERM"], id="SIGTERM"),
        pytest.param(["SIGQUIT"], marks=pytest.mark.long, id="SIGQUIT"),
        pytest.param(["SIGTERM", "SIGTERM"], marks=pytest.mark.long, id="SIGTERM-SIGTERM"),
    ],
)
def test_what_is_settled_is_not_run_again(trial: Trial, signals: list[str]) -> None:
    """A worker that is asked to stop in the middle of a block stops; each branch that ended has run once."""
    # More than the other worker could end within the time that this one has to leave.
    run = trial.submit(Sequence(nap.map(), join), [0.1] * 110)
    trial.wait_for(6)
    leaving = trial.nodes[0]
    for name in signals:
        leaving.kill(name)
    until(lambda: leaving.status == "exited", seconds=10, what="the worker's end")
    assert run.status == "running"
    assert len(trial.result(run)) == 110

    # An attempt that was cut short is run again; one that ended is not.
    ended = Counter(it.branch for it in trial.executions("nap") if it.value is not None)
    assert set(ended.values()) == {1}


def test_a_long_branch_is_handed_back(trial: Trial, figure: Callable[[str], None]) -> None:
    """A worker that must stop at once hands back what it runs: it runs again at once, not when its report expires."""
    run = trial.submit(parallel(long_first), 60.0)
    leaving = holder(trial, "long_first")
    leaving.kill("SIGQUIT")
    trial.wait_for(2, node="long_first")
    first, second = trial.executions("long_first")
    assert first.end is not None
    took = (second.start - first.end) / 1000

    figure(f"{took:.2f} s from its end until it runs elsewhere")
    assert trial.result(run).keys() == {"long_first"}
    assert took < GIVEN_BACK + SLACK
    assert leaving.wait(10)


@pytest.mark.parametrize("signals", [["SIGQUIT"], ["SIGTERM", "SIGQUIT"]], ids="-".join)
def test_a_branch_that_ignores_sigterm_is_handed_back(
    trial: Trial, signals: list[str], figure: Callable[[str], None]
) -> None:
    """A worker that must stop at once ends processes too that ignore SIGTERM: what they ran runs again elsewhere."""
    run = trial.submit(parallel(heedless_first), 60.0)
    leaving = holder(trial, "heedless_first")
    for name in signals:
        leaving.kill(name)
    asked = work.now()
    trial.wait_for(2, node="heedless_first")
    first, second = trial.executions("heedless_first")

    took = (second.start - asked) / 1000
    figure(f"{took:.2f} s from the signal until it runs elsewhere")
    assert took < GIVEN_BACK + SLACK
    assert trial.result(run).keys() == {"heedless_first"}
    assert leaving.wait(20)
    until(lambda: not Path(f"/proc/{first.pid}").exists(), what="the end of its process")
    assert first.end is None


# Seconds that Celery's soft shutdown leaves to what runs.
SOFT = 4.0


@pytest.mark.parametrize(
    ("signals", "env"),
    [
        pytest.param(["SIGQUIT"], {}, marks=pytest.mark.long, id="SIGQUIT"),
        pytest.param(["SIGTERM", "SIGQUIT"], {}, marks=pytest.mark.long, id="SIGTERM-SIGQUIT"),
        pytest.param(["SIGTERM"], {"REMAP_SIGTERM": "SIGQUIT"}, id="remapped"),
    ],
)
def test_a_soft_shutdown_loses_nothing(
    trial_of: Callable[..., Trial],
    signals: list[str],
    env: dict[str, str],
    figure: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """With Celery's soft shutdown what ends in its time counts, what does not is handed back, and another goes on."""
    trial = trial_of(workers=0)
    leaving = trial.add(hooks=[f"soft_shutdown={SOFT}"], env=env, concurrency=3)
    long = trial.submit(parallel(long_first), 60.0)
    trial.wait_for(node="long_first")
    trial.add()
    # The last branch keeps the block open until the worker has left, however long that takes.
    gate = tmp_path / "gate"
    many = trial.submit(Sequence(nap_or_wait.map(), join), [*[0.1] * 200, str(gate)])
    trial.wait_for(6, node="nap_or_wait", pid=leaving.pid)
    asked = work.now()
    for name in signals:
        leaving.kill(name)
    assert leaving.wait(SOFT + 20)
    gone = (work.now() - asked) / 1000
    assert many.status == "running"
    gate.touch()

    assert trial.result(long).keys() == {"long_first"}
    first, second = trial.executions("long_first")
    assert first.end is not None
    given_back = (second.start - first.end) / 1000
    figure(f"gone {gone:.2f} s after the signal; {given_back:.2f} s from its end until the long branch runs elsewhere")
    assert (first.end - asked) / 1000 > 0.9 * SOFT
    assert given_back < GIVEN_BACK + SLACK
    assert len(trial.result(many)) == 201
    naps = trial.executions("nap_or_wait")
    ended = Counter(it.branch for it in naps if it.value is not None)
    assert set(ended.values()) == {1}
    # In the time that it had, the worker went on with what it held.
    assert [it for it in naps if it.value is not None and asked + 500 < it.start < first.end]


def test_a_long_branch_outlives_docker_stop(trial: Trial) -> None:
    """A branch that is longer than the time that ``docker stop`` leaves runs again elsewhere."""
    run = trial.submit(parallel(long_first), 60.0)
    leaving = holder(trial, "long_first")
    leaving.stop(timeout=2.0)
    trial.count_kill()
    trial.wait_for(2, node="long_first", seconds=TTL + GIVEN_BACK + SLACK)

    assert trial.result(run).keys() == {"long_first"}


def test_a_short_branch_ends_before_its_worker(trial: Trial) -> None:
    """``docker stop`` lets a branch end that does so in time, and it counts."""
    run = trial.submit(parallel(nap), 1.0)
    holder(trial, "nap").stop(timeout=10.0)

    assert trial.result(run).keys() == {"nap"}
    assert len(trial.executions("nap")) == 1


def test_workers_that_are_restarted_in_turn_lose_nothing(trial: Trial) -> None:
    """A rolling restart under load: every run ends well, and no branch runs twice."""
    runs = [trial.submit(Sequence(nap.map(), join), [0.05] * 40) for _ in range(3)]
    for node in trial.nodes:
        node.restart()
        node.ready()

    for run in runs:
        assert len(trial.result(run)) == 40
    ended = Counter((it.run, it.branch) for it in trial.executions("nap") if it.value is not None)
    assert set(ended.values()) == {1}

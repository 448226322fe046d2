"""F10: the network between a worker and the server is slow, lossy, dripping, half-closed or cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from egregore_dist import Sequence, parallel
from tests.support.nodes import ProcessContainer
from tests.support.proxy import Proxy, Weather
from tests.support.trial import Trial
from tests.support.waiting import let_pass
from tests.support.work import anap, far_only, join, nap, quick

# A busy machine is slower than the product.
HEALED = 10.0 + 5.0


@pytest.fixture
def proxy(trial: Trial) -> Proxy:
    """What is between the third worker and the server."""
    assert trial.cluster.server is not None
    return trial.enter(Proxy(trial.cluster.server.socket, seed=trial.rng.random()))


@pytest.fixture
def far(trial: Trial, proxy: Proxy) -> ProcessContainer:
    """A worker behind the proxy, beside two that are not."""
    env = {"EGREGORE_BROKER_URL": proxy.url(trial.cluster.url)}
    return trial.add(env=env, queues=[trial.cluster.settings.queue, "far"])


class Load:
    """Some of everything, more than two workers end at once."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._runs = [
            trial.submit(Sequence(quick.map(), join), list(range(300))),
            trial.submit(Sequence(parallel(nap, anap, parallel(nap, quick, name="inner")), join), 0.2),
            trial.submit(nap.map(max_concurrent=2), [0.05] * 30),
            trial.submit(anap.map(), [0.1] * 100),
        ]

    def ends_well(self) -> None:
        """Wait for all of it."""
        numbers, block, limited, many = (self._trial.result(run) for run in self._runs)
        assert set(block) == {"nap", "anap", "inner"}
        assert set(block["inner"]) == {"nap", "quick"}
        assert [len(values) for values in (numbers, limited, many)] == [300, 30, 100]


WEATHERS = {
    "latency": Weather(latency=0.05),
    "loss": Weather(stall=0.1, stalled=0.3),
    "drip": Weather(drip=20_000),
}


@pytest.mark.parametrize("name", WEATHERS)
def test_bad_weather_only_delays(trial: Trial, proxy: Proxy, far: ProcessContainer, name: str) -> None:
    """Over a slow or lossy wire everything takes longer, and everything is right."""
    proxy.weather = WEATHERS[name]
    Load(trial).ends_well()
    assert far.status == "running"


@pytest.mark.parametrize("fault", ["cut", "half_close"])
def test_connections_that_break_are_made_anew(
    trial: Trial, proxy: Proxy, far: ProcessContainer, fault: str, figure: Callable[[str], None]
) -> None:
    """Connections are broken again and again under load; afterwards the worker soon serves as before."""
    load = Load(trial)
    for _ in range(5):
        let_pass(trial.rng.uniform(0.05, 0.4))
        getattr(proxy, fault)()
    load.ends_well()

    took = trial.serves(far_only, within=HEALED)
    figure(f"{took:.1f} s until the worker serves")
    assert far.status == "running"


def test_a_refusing_server_is_waited_for(
    trial: Trial, proxy: Proxy, far: ProcessContainer, figure: Callable[[str], None]
) -> None:
    """A worker whose every connection is refused for a while goes on when it is let in."""
    load = Load(trial)
    proxy.refuse()
    proxy.cut()
    let_pass(5)
    load.ends_well()
    proxy.refuse(False)

    took = trial.serves(far_only, within=HEALED)
    figure(f"{took:.1f} s until the worker serves")
    assert far.status == "running"


def test_a_frozen_wire_is_given_up(
    trial: Trial, proxy: Proxy, far: ProcessContainer, figure: Callable[[str], None]
) -> None:
    """Nothing comes through and nobody says so: the others take over, and after it the worker serves again."""
    load = Load(trial)
    let_pass(trial.rng.uniform(0, 0.3))
    proxy.freeze()
    load.ends_well()
    proxy.thaw()

    took = trial.serves(far_only, within=HEALED)
    figure(f"{took:.1f} s until the worker serves")
    assert far.status == "running"


def test_a_lease_whose_answer_is_late_is_not_begun(trial: Trial, proxy: Proxy, far: ProcessContainer) -> None:
    """Only answers are held up: what a worker was leased meanwhile has been done by others when it hears of it."""
    run = trial.submit(Sequence(nap.map(), join), [0.05] * 60)
    trial.wait_for(node="nap", pid=far.pid)
    proxy.freeze(requests=False)
    assert len(trial.result(run)) == 60
    # The run has ended: whatever begins after this breaks I6.
    let_pass(1.5)
    proxy.thaw()

    trial.serves(far_only, within=HEALED)
    assert far.status == "running"

"""F9: a worker on a host of its own is cut off from the server, in every way that a firewall can."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import pytest

from egregore_dist import Sequence, parallel
from tests.support import netns
from tests.support.netns import Host
from tests.support.nodes import ProcessContainer
from tests.support.trial import Trial
from tests.support.waiting import let_pass
from tests.support.work import anap, far_only, join, nap, quick

# A busy machine is slower than the product.
HEALED = 10.0 + 5.0
WAYS = ["both", "in", "out", "reset"]


@pytest.fixture
def host(trial: Trial) -> Host:
    """A namespace from which the trial's server can be reached."""
    if why := netns.missing():
        pytest.skip(why)
    host = trial.enter(Host())
    trial.ledger.redis.config_set("bind", f"127.0.0.1 {host.address}")
    return host


@pytest.fixture
def far(trial: Trial, host: Host) -> ProcessContainer:
    """A worker on that host, beside two that are not."""
    url = trial.cluster.url.replace("127.0.0.1", host.address)
    queues = [trial.cluster.settings.queue, "far"]
    return trial.add(before=host.prefix, env={"EGREGORE_BROKER_URL": url}, queues=queues)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("way", "seconds"),
    [
        *[(way, 5) for way in WAYS],
        ("both", 30),
        *[pytest.param(way, seconds, marks=pytest.mark.long) for way in WAYS for seconds in (30, 120)],
    ],
)
def test_a_partition_heals(
    trial: Trial,
    host: Host,
    far: ProcessContainer,
    way: str,
    seconds: int,
    figure: Callable[[str], None],
) -> None:
    """While a worker is cut off, the others do its work; ten seconds after the cut has healed it serves again."""
    runs = [
        trial.submit(Sequence(parallel(nap, anap, parallel(nap, quick, name="inner")), join), 0.2),
        trial.submit(Sequence(nap.map(), join), [0.1] * 60),
        trial.submit(anap.map(), [0.5] * 60),
    ]
    trial.wait_for(node="nap", pid=far.pid)
    began = monotonic()
    if way == "reset":
        host.reset()
    else:
        host.cut(way)  # type: ignore[arg-type]
    for run in runs:
        trial.result(run)
    let_pass(max(0.0, seconds - (monotonic() - began)))
    host.heal()
    took = trial.serves(far_only, within=HEALED)

    figure(f"{took:.1f} s from healing until the worker serves")
    assert far.status == "running"

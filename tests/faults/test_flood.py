"""F19: one queue is flooded with tiny runs, while control runs on another go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.controls import Controls, keep
from tests.support.history import percentile
from tests.support.lengths import HOURS
from tests.support.nodes import ProcessContainer
from tests.support.trial import Trial
from tests.support.work import quick

# Memory that a worker may grow by, whatever waits for it.
GROWTH = 100 * 2**20
# The flood and the control runs share two cores: their latency may be this part of the time that the flood takes, and
# so of how long they would wait behind it; of a long one no more than so many seconds.
SHARED, SHARED_MOST = 0.2, 3.0


def memory(node: ProcessContainer) -> int:
    """What a worker's main process holds, in bytes."""
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{node.name} has no memory")


@pytest.mark.timeout(3600)
@pytest.mark.long
def test_a_flood_does_not_reach_what_is_elsewhere(
    trial_of: Callable[..., Trial], figure: Callable[[str], None]
) -> None:
    """Control runs complete throughout, about as fast as before; the flooded worker's memory stays bounded."""
    trial = trial_of(workers=1, settle=1800.0 if HOURS else 60.0)
    trial.add(queues=["far"])
    flooded = trial.nodes[0]
    with Controls(0.2) as quiet:
        time.sleep(3)
    trial.run(quick, 0)
    before, began = memory(flooded), time.monotonic()
    with Controls(0.5) as during:
        runs = [trial.submit(quick, number) for number in range(100_000 if HOURS else 5_000)]
        submitted = time.monotonic() - began
        values = [trial.result(run, timeout=1800) for run in runs]
    took = time.monotonic() - began
    for run in (*quiet.runs, *during.runs):
        assert trial.result(run).startswith("far_only#")
    # Each is of an execution of its own.
    assert len({value for value in values if value.startswith("quick#")}) == len(runs)
    keep(trial, quiet, during, at_least=min(SHARED * took, SHARED_MOST))
    grown = memory(flooded) - before
    figure(
        f"{len(runs)} runs, {len(runs) / submitted:.0f}/s submitted, {len(runs) / took:.0f}/s done; control p99 "
        f"{percentile(quiet.latencies, 99) * 1000:.0f} ms quiet, {percentile(during.latencies, 99) * 1000:.0f} ms "
        f"in the flood; the worker grew by {grown / 2**20:.1f} MiB"
    )
    assert grown < GROWTH

"""F26: what is known of machines is wrong: psutil lies or fails, reports are old, unreadable, or of nobody."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from egregore_dist import Sequence, parallel
from egregore_dist.resources.report import Report
from tests.support.trial import Trial
from tests.support.work import anap, join, nap, quick

LANES = 2


def planned(trial: Trial, run: str) -> list[int]:
    """The lanes that each block of a run was planned with."""
    ledger = trial.ledger
    return [
        int(lanes)
        for block in ledger.blocks(run)
        for name, lanes in ledger.redis.hgetall(ledger.keys.block(run, "b", block.id)).items()
        if name.startswith(b"lanes:")
    ]


def serves(trial: Trial, at_most: int) -> None:
    """Blocks of every kind end, served by one lane at least and by no more than there can be."""
    for flow, data, size in (
        (Sequence(nap.map(), join), [0.02] * 30, 30),
        (Sequence(quick.map(), join), [0] * 300, 300),
        (anap.map(), [0.05] * 50, 50),
        (parallel(quick, nap, parallel(nap, quick, name="inner")), 0.02, 3),
    ):
        run = trial.submit(flow, data)
        assert len(trial.result(run)) == size
        assert run.status == "succeeded"
        assert all(1 <= lanes <= at_most for lanes in planned(trial, run.id)), planned(trial, run.id)


@pytest.mark.parametrize("lie", ["raises", "zero", "negative"])
def test_a_machine_that_cannot_be_measured_is_used_with_care(trial_of: Callable[..., Trial], lie: str) -> None:
    """Workers whose measurements fail or cannot be stay alive, and serve with some lanes: neither none nor endless."""
    trial = trial_of(workers=0, concurrency=LANES)
    for _ in range(2):
        trial.add(hooks=[f"lies={lie}"])

    serves(trial, at_most=2 * LANES)
    assert len(trial.ledger.reports()) == 2


def test_reports_that_cannot_be_are_not_counted(trial: Trial) -> None:
    """Reports of another release, of an impossible machine, and of a worker that stopped reporting harm no block."""
    ghost = Report(
        worker="ghost@node",
        host="nowhere",
        pid=1,
        cores=-1.0,
        memory_available=-(2**60),
        memory_total=-1,
        slots=10**9,
        queues=(trial.cluster.settings.queue,),
    )
    old = msgspec.structs.replace(ghost, worker="old@node", cores=4.0, memory_available=2**40, memory_total=2**40, at=1)
    for name, raw in {
        "garbage@node": b"\xc1 not a report",
        "list@node": msgspec.msgpack.encode([1, 2, 3]),
        "ghost@node": msgspec.msgpack.encode(ghost),
        "old@node": msgspec.msgpack.encode(old),
    }.items():
        trial.ledger.report(name, raw, ttl=600)

    serves(trial, at_most=len(trial.nodes) * trial.concurrency)

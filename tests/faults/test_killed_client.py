"""F4: a client is killed at each of the packets that it sends, and a worker at each message that it publishes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from egregore_dist import Run, Sequence, parallel
from tests.support.trial import Trial
from tests.support.waiting import let_pass
from tests.support.work import join, quick

BRANCHES = 200
NEVER = 10**6

CLIENT = """
import sys
from egregore_dist import connect
from tests.faults.test_killed_client import flow
session = connect()
print(flow.submit(1, id={id!r}).id, flush=True)
session.close()
"""

# Without a plan every branch is a message of its own.
block = parallel(*[quick.alias(f"b{n}") for n in range(BRANCHES)], optimization_enabled=False, name="block")
flow = Sequence(block, join, name="flow")


def client(trial: Trial, id: str, die_at: int) -> tuple[bool, int]:
    """Submit from a process that dies before one of its packets: whether the submit returned, and the packets sent."""
    sent = trial.folder / f"sent-{id}"
    command = [sys.executable, "-m", "tests.support.inside", f"die_at_send={die_at},{sent}", "--", "-c"]
    done = subprocess.run(
        [*command, CLIENT.format(id=id)],
        env=trial.cluster.worker_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, -9), done.stderr
    return done.stdout.strip() == id, int(sent.read_text()) if sent.exists() else 0


@pytest.mark.timeout(600)
def test_a_client_is_killed_at_every_packet(trial: Trial, long: bool, figure: Callable[[str], None]) -> None:
    """What was not accepted never runs; what was accepted ends without its client, and another process reads it."""
    returned, packets = client(trial, "whole", NEVER)
    assert returned
    trial.accepted("whole")
    chosen = range(packets) if long else sorted(trial.rng.sample(range(packets), k=min(8, packets)))
    known = 0
    for index in chosen:
        returned, _ = client(trial, f"killed-{index}", index)
        exists = trial.ledger.exists(f"killed-{index}")
        assert exists or not returned, f"run killed-{index} was accepted, and is not known"
        if exists:
            known += 1
            trial.accepted(f"killed-{index}")
    figure(f"{len(chosen)} of {packets} packets, {known} runs were accepted")

    for run in sorted(trial.notes.accepted):
        assert len(trial.result(Run(run))) == BRANCHES
    let_pass(1.0)
    assert {it.run for it in trial.executions()} == trial.notes.accepted


@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_worker_is_killed_at_every_message_of_a_block(
    trial_of: Callable[..., Trial], long: bool, figure: Callable[[str], None]
) -> None:
    """The process that publishes a block of 200 messages dies at one of them: all its branches run, once each."""
    trial = trial_of(workers=0)
    chosen = range(BRANCHES + 1) if long else sorted(trial.rng.sample(range(BRANCHES + 1), k=3))
    for index in chosen:
        died = trial.folder / f"died-{index}"
        worker = trial.add(hooks=[f"die_at_publish={index},{died}"])
        assert len(trial.run(flow, index)) == BRANCHES
        assert died.exists()
        # In good order, however slow the machine is: one that is killed keeps its messages.
        worker.stop(timeout=60)
    # The last one has left messages, which another one finds to be nothing to do.
    trial.add()
    figure(f"killed at messages {', '.join(map(str, chosen))} of {BRANCHES}")

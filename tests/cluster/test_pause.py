"""A run is paused and goes on, with workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import Context, LocalCluster, ParallelTimeoutError, Run, RunCancelled, Sequence, node, parallel
from egregore_dist.client import session
from tests.support.waiting import let_pass, until

pytestmark = pytest.mark.store_faults

# What must not happen would have happened in this many seconds.
LONG_ENOUGH = 0.7


def mark(folder: str, context: Context) -> None:
    """Leave a file for each execution."""
    Path(folder, f"{context.branch}.{time.monotonic_ns()}").touch()


def begun(folder: Path) -> int:
    """How many executions there were."""
    return sum(path.name not in ("gate",) for path in folder.iterdir())


@node
def gated(folder: str, context: Context) -> str:
    mark(folder, context)
    until(Path(folder, "gate").exists, what="the gate")
    return str(context.branch)


@node
async def agated(folder: str, context: Context) -> str:
    mark(folder, context)
    gate = Path(folder, "gate")
    while not gate.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)
    return str(context.branch)


@node
def after(results: dict[str, Any]) -> dict[str, Any]:
    return {"after": results}


def is_idle(run: Run) -> bool:
    """Whether no branch of it runs."""
    ledger = session.current().ledger
    return not any(ledger.running(run.id, block.id) for block in ledger.blocks(run.id) if block.id != "0")


def test_what_runs_ends_and_nothing_starts(cluster: LocalCluster, tmp_path: Path) -> None:
    """The branches that ran are kept, the others wait, and after the resume they run."""
    branches = [gated.alias(f"b{number}") for number in range(6)]
    run = Sequence(parallel(*branches, max_concurrent=2), after).submit(str(tmp_path))
    until(lambda: begun(tmp_path) == 2, what="two branches")
    assert [run.pause(), run.pause(), run.status] == ["paused"] * 3
    (tmp_path / "gate").touch()
    until(lambda: is_idle(run), what="the end of what ran")
    let_pass(LONG_ENOUGH)

    assert (begun(tmp_path), run.status) == (2, "paused")
    with pytest.raises(TimeoutError):
        run.result(timeout=0.01)
    # What waits has a gate again: the run cannot end between the two.
    (tmp_path / "gate").unlink()
    assert [run.resume(), run.resume()] == ["running"] * 2
    (tmp_path / "gate").touch()
    assert run.result(timeout=30) == {"after": {f"b{number}": f"b{number}" for number in range(6)}}
    assert begun(tmp_path) == 6


@pytest.mark.parametrize("step", [gated, agated], ids=["sync", "async"])
def test_nested_blocks_pause_too(local: LocalCluster, tmp_path: Path, step: Any) -> None:
    """A nested block that ends while the run is paused leads to nothing, and after the resume to what follows it."""
    inner = parallel(step, step.alias("other"), max_concurrent=2, name="inner")
    run = parallel(Sequence(inner, after, name="left"), max_concurrent=2).submit(str(tmp_path))
    until(lambda: begun(tmp_path) == 2, what="both branches")
    run.pause()
    (tmp_path / "gate").touch()
    states = session.current().ledger.blocks
    until(
        lambda: any((it.name, it.state) == ("inner", "ok") for it in states(run.id)), what="the end of the inner block"
    )
    let_pass(LONG_ENOUGH)
    assert run.status == "paused"

    run.resume()
    assert run.result(timeout=30) == {"left": {"after": {step.name: step.name, "other": "other"}}}


def test_a_run_may_be_paused_before_it_begins(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first message finds it paused, and it begins when it is resumed."""
    (tmp_path / "gate").touch()
    messages: list[Callable[[], None]] = []
    with monkeypatch.context() as patch:
        patch.setattr(session.current().later, "put", lambda _key, _delay, publish: messages.append(publish))
        run = parallel(gated, agated).submit(str(tmp_path))
    assert run.pause() == "paused"
    for publish in messages:
        publish()
    let_pass(LONG_ENOUGH)

    assert (begun(tmp_path), len(messages)) == (0, 1)
    assert run.resume() == "pending"
    assert run.result(timeout=30) == {"gated": "gated", "agated": "agated"}


def test_a_timeout_goes_on_while_the_run_is_paused(local: LocalCluster, tmp_path: Path) -> None:
    """Who waits for a block with a ``timeout`` gets its error in time."""
    run = parallel(gated, gated.alias("never"), max_concurrent=1, timeout=3.0, name="timed").submit(str(tmp_path))
    until(lambda: begun(tmp_path) == 1, what="a branch")
    run.pause()

    with pytest.raises(ParallelTimeoutError) as caught:
        run.result(timeout=30)
    assert (caught.value.running, caught.value.pending) == (["gated"], ["never"])
    assert [run.status, run.pause(), run.resume()] == ["failed"] * 3


def test_a_paused_run_is_cancelled_and_retried(local: LocalCluster, tmp_path: Path) -> None:
    """Cancel ends it; a retry then runs what had not ended, and is not paused."""
    run = parallel(gated, gated.alias("second"), max_concurrent=1).submit(str(tmp_path))
    until(lambda: begun(tmp_path) == 1, what="a branch")
    run.pause()
    assert [run.retry(), run.cancel(), run.resume()] == ["paused", "cancelled", "cancelled"]
    with pytest.raises(RunCancelled):
        run.result(timeout=30)
    (tmp_path / "gate").touch()
    run.retry()

    assert run.result(timeout=30) == {"gated": "gated", "second": "second"}


def test_events_tell_of_it(local: LocalCluster, tmp_path: Path) -> None:
    """Each pause and resume is an event, and no branch starts between them."""
    run = gated.map(max_concurrent=1).submit([str(tmp_path)] * 3)
    until(lambda: begun(tmp_path) == 1, what="a branch")
    run.pause()
    (tmp_path / "gate").touch()
    until(lambda: is_idle(run), what="the end of what ran")
    run.resume()
    run.result(timeout=30)

    types = [event.type for event in run.events()]
    between = types[types.index("run.paused") : types.index("run.resumed")]
    assert "branches.ended" in between
    assert "branches.started" not in between
    assert types.count("branches.started") >= 4

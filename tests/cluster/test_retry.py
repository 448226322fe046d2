"""A run that failed is run again where it failed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from egregore_dist import Context, LocalCluster, ParallelExecutionError, ParallelTimeoutError, Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.errors import RunCancelled
from tests.support.waiting import until

pytestmark = pytest.mark.store_faults


@node
def counted(folder: str, context: Context) -> int:
    """Say how often this branch has run."""
    mark = Path(folder) / str(context.branch)
    with mark.open("a") as file:
        file.write("x")
    return mark.stat().st_size


@node
def needs_key(folder: str) -> str:
    if not (Path(folder) / "key").exists():
        raise RuntimeError("no key")
    return "open"


@node
def waits_for_key(folder: str) -> str:
    while not (Path(folder) / "key").exists():
        time.sleep(0.01)
    return "open"


@node
def join(results: dict[str, object]) -> dict[str, object]:
    return {"joined": results}


def test_only_what_failed_runs_again(cluster: LocalCluster, tmp_path: Path) -> None:
    """The branches that ended well keep their values, and the run goes on behind the block."""
    flow = Sequence(parallel(counted, needs_key), join)
    run = flow.submit(str(tmp_path))
    with pytest.raises(ParallelExecutionError):
        run.result(timeout=30)
    until((tmp_path / "counted").exists)
    (tmp_path / "key").touch()
    times = (tmp_path / "counted").stat().st_size

    assert run.retry() in ("running", "succeeded")
    joined = run.result(timeout=30)["joined"]

    assert joined["needs_key"] == "open"
    # A sibling that had not committed when the block failed was cancelled, and runs again.
    assert joined["counted"] in (times, times + 1)


def test_a_nested_block_is_opened_again_where_it_stood(local: LocalCluster, tmp_path: Path) -> None:
    """A failure deep inside is run again without its ancestors' finished branches."""
    inner = parallel(counted.alias("a"), needs_key, max_concurrent=1, name="inner")
    flow = parallel(Sequence(inner, join, name="left"), counted.alias("b"), name="outer", max_concurrent=2)
    run = flow.submit(str(tmp_path))
    with pytest.raises(ParallelExecutionError):
        run.result(timeout=30)
    (tmp_path / "key").touch()

    run.retry()

    value = run.result(timeout=30)
    assert value["left"] == {"joined": {"a": 1, "needs_key": "open"}}
    assert (tmp_path / "a").stat().st_size == 1


@pytest.mark.store_faults(
    unless="a lost answer to retry costs up to 3 s, until the janitor publishes: past the deadline"
)
def test_a_timed_out_block_gets_its_whole_time_again(local: LocalCluster, tmp_path: Path) -> None:
    """After a timeout, retry starts the clock anew."""
    run = parallel(waits_for_key, timeout=0.3).submit(str(tmp_path))
    with pytest.raises(ParallelTimeoutError):
        run.result(timeout=30)
    (tmp_path / "key").touch()

    run.retry()

    assert run.result(timeout=30) == {"waits_for_key": "open"}


def test_a_cancelled_run_goes_on(local: LocalCluster, tmp_path: Path) -> None:
    """Retry of a cancelled run runs what had not ended."""
    run = parallel(waits_for_key, counted, max_concurrent=1).submit(str(tmp_path))
    until(lambda: run.status == "running")
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=30)
    (tmp_path / "key").touch()

    run.retry()

    assert run.result(timeout=30) == {"waits_for_key": "open", "counted": 1}


def say(folder: str, line: str) -> None:
    with (Path(folder) / "said").open("a") as file:
        file.write(f"{line}\n")


def said(folder: Path) -> list[str]:
    """What nodes have said so far."""
    return (folder / "said").read_text().splitlines() if (folder / "said").exists() else []


@node
def leaves_late(folder: str) -> str:
    """Takes a while to stop."""
    say(folder, "begins")
    try:
        while not (Path(folder) / "key").exists():
            time.sleep(0.01)
    finally:
        time.sleep(1.2)
        say(folder, "ends")
    return "open"


def test_a_retry_waits_for_what_the_end_has_stopped(local: LocalCluster, tmp_path: Path) -> None:
    """No branch runs beside its former attempt, though that one takes its time to stop."""
    run = parallel(leaves_late, max_concurrent=1).submit(str(tmp_path))
    until(lambda: said(tmp_path) == ["begins"])
    run.cancel()

    run.retry()

    until(lambda: said(tmp_path).count("begins") == 2)
    assert said(tmp_path) == ["begins", "ends", "begins"]
    (tmp_path / "key").touch()
    assert run.result(timeout=30) == {"leaves_late": "open"}


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_retry_waits_for_nobody_for_ever(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_alive: bool
) -> None:
    """A lane that does not say that it has left is waited for while stopping may take; a dead worker's not at all."""
    run = parallel(waits_for_key).submit(str(tmp_path))
    until(lambda: run.status == "running")
    run.cancel()
    ledger, worker = session.current().ledger, local.workers[0].name if is_alive else "gone@nowhere"
    assert session.current().let_stop(run.id)
    ledger.redis.hset(ledger.keys.block(run.id, "l", "0"), f"@{worker}/1/lane", "1:1:0:1")
    (tmp_path / "key").touch()
    monkeypatch.setattr(session, "_STOP_MARGIN", 0.0)

    began = time.monotonic()
    run.retry()
    took = time.monotonic() - began

    assert (took >= session.current().settings.stop_grace) == is_alive
    assert run.result(timeout=30) == {"waits_for_key": "open"}


def test_a_run_that_succeeded_stays_as_it_is(local: LocalCluster, tmp_path: Path) -> None:
    """Retry changes nothing in a run that ended well."""
    run = parallel(counted).submit(str(tmp_path))
    run.result(timeout=30)

    assert run.retry() == "succeeded"
    assert run.result(timeout=30) == {"counted": 1}


def test_who_waits_for_a_run_that_is_retried_waits_on(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that was about to read why a run has failed, when it is retried, gets what the retry gives."""
    run = parallel(counted, needs_key).submit(str(tmp_path))
    with pytest.raises(ParallelExecutionError):
        run.result(timeout=30)
    (tmp_path / "key").touch()
    ledger = session.current().ledger
    failures = ledger.failures

    def retried_meanwhile(*of: str) -> dict[int, bytes]:
        monkeypatch.undo()
        run.retry()
        return failures(*of)

    monkeypatch.setattr(ledger, "failures", retried_meanwhile)

    assert run.result(timeout=30)["needs_key"] == "open"

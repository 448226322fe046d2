"""A run that is missing: never there, deleted, expired, or lost."""

from __future__ import annotations

import time
import uuid

import pytest

from egregore_dist import LocalCluster, Run, RunLost, RunNotFound, node
from egregore_dist.client import session


@node
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def erase(run: str) -> None:
    """Take a run away, in one instant, as if the server had lost its last writes."""
    ledger = session.current().ledger
    every_key = "for _, name in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', name) end"
    ledger.redis.eval(every_key, 0, f"{ledger.keys.run(run)}*")


def epoch_of(value: str | None) -> None:
    """Give the server's data another epoch, or none."""
    ledger = session.current().ledger
    if value is None:
        ledger.redis.delete(ledger.keys.epoch)
    else:
        ledger.redis.set(ledger.keys.epoch, value)


def test_last_writes_that_are_lost(local: LocalCluster) -> None:
    """A run that was accepted, and not seen to end, is lost when it is missing: its handle knows that it was there."""
    run = slow.submit(30.0)
    elsewhere = Run(run.id)
    elsewhere.status  # noqa: B018
    erase(run.id)

    for handle in (run, elsewhere):
        with pytest.raises(RunLost, match=r"lost its last writes, unless somebody has deleted the run") as caught:
            handle.result(timeout=10)
        assert caught.value.run_id == run.id
    with pytest.raises(RunNotFound):
        Run(run.id).result(timeout=10)


def test_a_run_that_was_deleted_after_its_end(local: LocalCluster) -> None:
    """A run that was seen to end is not lost when it is missing: it was deleted, or has expired."""
    run = slow.submit(0.0)
    run.result(timeout=30)
    assert session.current().ledger.delete(run.id)

    with pytest.raises(RunNotFound):
        run.result(timeout=10)
    with pytest.raises(RunNotFound):
        run.retry()


def test_a_run_that_nobody_looked_at_for_long(local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was not looked at for its retention may have ended and expired since."""
    run = slow.submit(0.0)
    erase(run.id)
    now, retention = time.monotonic, local.settings.retention
    monkeypatch.setattr(time, "monotonic", lambda: now() + retention + 1)

    with pytest.raises(RunNotFound):
        run.cancel()


@pytest.mark.parametrize("epoch", [None, "another"])
def test_data_that_are_lost(local: LocalCluster, epoch: str | None) -> None:
    """With another epoch a missing run is lost, whether it was seen to end or not."""
    ledger = session.current().ledger
    ended, run = slow.submit(0.0), slow.submit(0.0)
    ended.result(timeout=30)
    erase(ended.id)
    erase(run.id)
    before = ledger.epoch()
    epoch_of(epoch)
    try:
        for handle in (ended, run):
            with pytest.raises(RunLost, match="without its data"):
                handle.status  # noqa: B018
        assert session.current().ledger.epoch() == (epoch or "")
    finally:
        epoch_of(before)


def test_another_run_of_the_same_id(local: LocalCluster) -> None:
    """The handle of a run that is lost does not take a new run of its id for its own."""
    id = uuid.uuid4().hex
    run = slow.submit(0.0, id=id)
    run.result(timeout=30)
    before = session.current().ledger.epoch()
    erase(id)
    epoch_of("another")
    try:
        again = slow.submit(0.5, id=id)
        for ask in (lambda: run.status, lambda: run.result(timeout=30)):
            with pytest.raises(RunLost, match="without its data"):
                ask()
        assert again.result(timeout=30) == 0.5
    finally:
        epoch_of(before)


def test_an_id_that_was_never_there(local: LocalCluster) -> None:
    """It is not lost, and that is said at once."""
    started = time.monotonic()
    with pytest.raises(RunNotFound, match="'absent'"):
        Run("absent").result()

    assert time.monotonic() - started < 1.0

"""Workers of a local cluster that fail are started again."""

from __future__ import annotations

import pytest

from egregore_dist.client import supervisor
from egregore_dist.client.supervisor import Supervisor


class Clock:
    """Time that goes by when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Failing:
    """A worker that fails when it is told to."""

    name = "w1@here"

    def __init__(self) -> None:
        self.has_failed = False
        self.is_refused = False
        self.started: list[float] = []

    def revive(self) -> None:
        if self.is_refused:
            raise OSError("no more processes")
        self.has_failed = False
        self.started.append(clock.now)

    def log_tail(self, lines: int) -> str:
        return "ImportError: no such module"


clock = Clock()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """A worker whose supervisor has this clock."""
    monkeypatch.setattr(supervisor, "time", clock)
    return Failing()


def pauses(worker: Failing, lives: list[float]) -> list[float]:
    """How long it pauses each time that it fails after it has lived for so long; looked at twice a second."""
    looked_after, found = Supervisor([worker]), []
    for life in lives:
        clock.now += life
        failed, worker.has_failed = clock.now, True
        while worker.has_failed:
            looked_after.look()
            clock.now += 0.5
        found.append(worker.started[-1] - failed)
    return found


def test_who_fails_soon_pauses_ever_longer(worker: Failing, caplog: pytest.LogCaptureFixture) -> None:
    """The log says each time why, and a minute is the most; who has run for long starts from the beginning."""
    assert pauses(worker, [100, 1, 1, 1, 1, 1, 1, 1, 100, 1]) == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]

    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 10
    assert all("w1@here has ended though nobody asked it to" in line and "ImportError" in line for line in said)


def test_who_cannot_be_started_is_tried_again(worker: Failing, caplog: pytest.LogCaptureFixture) -> None:
    """The others are looked after all the same, and the next try pauses as after a failure."""
    other, worker.has_failed, worker.is_refused = Failing(), True, True
    other.name, other.has_failed = "w2@here", True
    looked_after = Supervisor([worker, other])
    for _ in range(3):
        looked_after.look()
        clock.now += 1.0

    assert len(other.started) == 1
    assert any("cannot be started again" in record.getMessage() for record in caplog.records)
    worker.is_refused = False
    for _ in range(3):
        looked_after.look()
        clock.now += 1.0
    assert len(worker.started) == 1


def test_who_has_not_failed_is_left_alone(worker: Failing) -> None:
    """One that runs, and one that somebody has started meanwhile."""
    looked_after = Supervisor([worker])
    looked_after.look()
    worker.has_failed = True
    looked_after.look()
    worker.has_failed = False
    clock.now += 10
    looked_after.look()

    assert worker.started == []

"""How a worker asks a broker again that refuses it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import NotAllowed
from celery.exceptions import WorkerShutdown
from celery.worker import state

from egregore_dist.worker import refused
from egregore_dist.worker.refused import Anew, Refusals, Refused

STOCK = logging.getLogger("celery.worker.consumer.consumer")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(refused, "time", made)
    return made


@pytest.fixture
def consumer() -> Any:
    """Celery's, as far as it is used: it logs each error."""

    def handle(error: Exception) -> None:
        STOCK.error("stock: %s", error)

    return SimpleNamespace(on_connection_error_before_connected=handle, on_connection_error_after_connected=handle)


def test_the_pause_grows_up_to_half_a_minute_and_the_reason_is_told_once(
    clock: Clock, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Celery's own lines are left out, and a refusal after a long while is told again."""
    refusals = Refusals(consumer)
    pauses = []
    for _ in range(9):
        error = Refused("no")
        error.__cause__ = NotAllowed("NOT_ALLOWED - vhost x not found")
        consumer.on_connection_error_before_connected(error)
        before = clock.now
        refusals.wait()
        pauses.append(clock.now - before)

    for number, pause in enumerate(pauses):
        assert 0.7 * min(30, 2**number) <= pause <= min(30, 2**number) + 0.3
    assert [line.getMessage().partition(":")[0] for line in caplog.records] == ["the broker refuses this worker"]
    assert "create that virtual host" in caplog.text

    clock.sleep(600)
    consumer.on_connection_error_after_connected(NotAllowed("NOT_ALLOWED - vhost x not found"))
    assert len(caplog.records) == 2
    before = clock.now
    refusals.wait()
    assert clock.now - before <= 1.3


def test_a_lost_connection_is_told_by_celery_and_made_at_once(
    clock: Clock, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(consumer)
    consumer.on_connection_error_after_connected(OSError("lost"))
    consumer.on_connection_error_after_connected(Anew("in another way"))
    before = clock.now
    refusals.wait()

    assert clock.now == before
    assert [line.getMessage() for line in caplog.records] == ["stock: lost"]


def test_a_worker_that_waits_can_be_stopped(clock: Clock, consumer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = Refusals(consumer)
    consumer.on_connection_error_before_connected(NotAllowed("NOT_ALLOWED - vhost x not found"))
    monkeypatch.setattr(state, "should_stop", 0)
    with pytest.raises(WorkerShutdown):
        refusals.wait()

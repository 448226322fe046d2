"""Stopping what runs on the main thread."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time

import pytest

from egregore_dist.engine import interrupt
from egregore_dist.engine.interrupt import Interrupt, Interrupter
from egregore_dist.engine.loop import Loop


def spin(seconds: float = 20.0) -> None:
    """Compute, at most for so long."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        pass


def test_what_computes_is_stopped_in_time() -> None:
    """After its seconds the body is interrupted, and its ``finally`` runs."""
    cleaned: list[bool] = []

    def body() -> None:
        try:
            spin()
        finally:
            cleaned.append(True)

    started = time.monotonic()
    with pytest.raises(Interrupt), Interrupter().guard(0.02, lambda: False):
        body()

    assert cleaned == [True]
    assert time.monotonic() - started < 5


def test_what_blocks_is_stopped_in_time() -> None:
    """A call that blocks in the system is interrupted too."""
    with pytest.raises(Interrupt), Interrupter().guard(0.02, lambda: False):
        threading.Event().wait(20)


def test_an_event_loop_is_stopped() -> None:
    """A coroutine that runs on the main thread is interrupted, and the runner can be used again."""
    interrupter = Interrupter()
    with asyncio.Runner() as runner:
        with pytest.raises(Interrupt), interrupter.guard(0.02, lambda: False):
            runner.run(asyncio.sleep(20))

        assert runner.run(asyncio.sleep(0, "again")) == "again"


def test_except_exception_does_not_swallow_it() -> None:
    """A node that catches every `Exception` is stopped all the same."""

    def body() -> None:
        for _ in range(3):
            with contextlib.suppress(Exception):
                spin()

    with pytest.raises(Interrupt), Interrupter().guard(0.02, lambda: False):
        body()


def test_nothing_comes_after_the_body() -> None:
    """A body that ends in time is left alone, and so is what comes after it."""
    interrupter = Interrupter()
    with interrupter.guard(0.02, lambda: False):
        pass
    spin(0.05)
    with interrupter.guard(None, lambda: False):
        spin(0.05)


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies are attended to more often, so that nobody waits for it."""
    monkeypatch.setattr(interrupt, "ATTEND_EVERY", 0.05)


@pytest.fixture
def asked_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and yet so seldom that a busy machine has stopped the body before it is asked for once more."""
    monkeypatch.setattr(interrupt, "ATTEND_EVERY", 0.4)


@pytest.mark.usefixtures("attentive")
def test_it_is_raised_once() -> None:
    """What ``finally`` does after an interrupt is not interrupted again."""
    done: list[bool] = []

    def body() -> None:
        try:
            spin()
        finally:
            spin(0.3)
            done.append(True)

    with pytest.raises(Interrupt), Interrupter().guard(0.02, lambda: True):
        body()

    assert done == [True]


@pytest.mark.usefixtures("asked_in_time")
def test_the_end_of_the_block_stops_the_body() -> None:
    """Soon after ``has_ended()`` turns true, the body is interrupted; while it is false, it is not."""
    answers = iter([False, True])
    asked: list[bool] = []

    def has_ended() -> bool:
        asked.append(next(answers, True))
        return asked[-1]

    with pytest.raises(Interrupt), Interrupter().guard(None, has_ended):
        spin()

    assert asked == [False, True]


@pytest.mark.usefixtures("asked_in_time")
def test_a_question_that_fails_is_asked_again() -> None:
    """Where the ledger cannot be asked for a while, the body goes on, and the next round asks."""
    asked: list[bool] = []

    def has_ended() -> bool:
        asked.append(True)
        if len(asked) == 1:
            raise ConnectionError
        return True

    with pytest.raises(Interrupt), Interrupter().guard(None, has_ended):
        spin()

    assert len(asked) == 2


def test_other_threads_are_left_alone() -> None:
    """On a thread that is not the main one nothing is raised: there the guard only yields."""
    interrupter = Interrupter()
    ended: list[bool] = []

    def body() -> None:
        with interrupter.guard(0.01, lambda: True):
            spin(0.1)
        ended.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

    assert ended == [True]


def test_a_limit_is_over_when_its_body_is() -> None:
    """What comes after the limit's body is not interrupted by it, and the guard's own time still counts."""
    interrupter = Interrupter()

    def body() -> None:
        with interrupter.limit(0.05):
            pass
        spin(0.1)
        with pytest.raises(Interrupt), interrupter.limit(0.02):
            spin()
        spin()

    with pytest.raises(Interrupt), interrupter.guard(0.3, lambda: False):
        body()


def test_an_interrupted_coroutine_does_not_go_on() -> None:
    """What was interrupted on a loop is cancelled before the loop's next coroutine begins."""
    interrupter, steps = Interrupter(), []

    async def long() -> None:
        try:
            await asyncio.sleep(20)
        finally:
            steps.append("cleaned up")

    async def short() -> None:
        steps.append("next")

    with contextlib.closing(Loop()) as loop:
        with pytest.raises(Interrupt), interrupter.guard(0.02, lambda: False):
            loop.run(long())
        steps.append("stopped")
        loop.run(short())

    assert steps == ["cleaned up", "stopped", "next"]


def test_a_node_may_use_the_alarm_itself() -> None:
    """A handler that a node left behind does not keep the next one from being stopped."""
    interrupter = Interrupter()
    with interrupter.guard(None, lambda: False):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    with pytest.raises(Interrupt), interrupter.guard(0.02, lambda: False):
        spin()


def alarmed(interrupter: Interrupter, seconds: float) -> None:
    """Compute under a guard, with an alarm of one's own after twenty milliseconds."""
    with interrupter.guard(seconds, lambda: False):
        signal.setitimer(signal.ITIMER_REAL, min(seconds, 0.02))
        spin()


def test_an_alarm_of_the_body_s_own_is_a_stray_one() -> None:
    """Nothing here has set it; where the body's time is over as well, it is the alarm that was."""
    interrupter = Interrupter()
    for seconds in (20.0, 0.02):
        with pytest.raises(Interrupt):
            alarmed(interrupter, seconds)
        assert interrupter.is_stray == (seconds > 1)


@pytest.mark.usefixtures("attentive")
def test_what_is_attended_to_gets_no_stray_alarm() -> None:
    """Nor does what is over its time, or a limit inside of it."""
    interrupter = Interrupter()
    with pytest.raises(Interrupt), interrupter.guard(None, lambda: True):
        spin()
    assert not interrupter.is_stray
    with pytest.raises(Interrupt), interrupter.guard(20, lambda: False), interrupter.limit(0.02):
        spin()
    assert not interrupter.is_stray


def test_an_alarm_among_many_is_nobody_s() -> None:
    """On an event loop nobody knows whose it is: it does nothing."""
    interrupter = Interrupter()
    interrupter.prepare()
    interrupter.enter(lambda: False)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    spin(0.1)
    interrupter.leave()

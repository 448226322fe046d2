"""What is done a little later, or not at all."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from egregore_dist.engine import later as module
from egregore_dist.engine.later import Later
from tests.support.waiting import until


def hold(later: Later) -> threading.Event:
    """Keep its thread from what is put from now on, until the event is set."""
    began, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        goes_on.wait(20)

    later.put("hold", 0.0, wait)
    assert began.wait(20)
    return goes_on


def test_it_is_done_after_its_time() -> None:
    """It is done on another thread, the earliest first."""
    later, done, seen = Later(), threading.Event(), list[tuple[str, bool]]()

    def note(name: str) -> None:
        seen.append((name, threading.current_thread() is threading.main_thread()))
        if name == "second":
            done.set()

    later.put("b", 0.5, lambda: note("second"))
    later.put("a", 0.01, lambda: note("first"))

    assert done.wait(20)
    assert seen == [("first", False), ("second", False)]


def test_what_is_dropped_is_not_done() -> None:
    """It is not done, and what waits beside it is."""
    later, done, seen = Later(), threading.Event(), list[str]()
    goes_on = hold(later)
    later.put("dropped", 0.0, lambda: seen.append("dropped"))
    later.put("kept", 0.01, done.set)
    later.drop("dropped")
    goes_on.set()

    assert done.wait(20)
    assert seen == []


def test_what_is_put_off_is_done_once() -> None:
    """Under one key the last that was put is done, when that is due."""
    later, done, seen = Later(), threading.Event(), list[str]()
    goes_on = hold(later)
    later.put("a", 0.0, lambda: seen.append("first"))
    later.put("a", 0.0, lambda: seen.append("last"))
    later.put("b", 0.01, done.set)
    goes_on.set()

    assert done.wait(20)
    assert seen == ["last"]


def test_very_many_wait_without_holding_each_other_up() -> None:
    """What one costs does not grow with those that wait: a program may submit faster than its broker takes messages."""
    later, count, done = Later(), itertools.count(1), threading.Event()
    most = 50_000

    def action() -> None:
        if next(count) == most:
            done.set()

    for number in range(most):
        later.put(str(number), 0.0, action)

    assert done.wait(30)


def test_flush_does_it_now() -> None:
    """What waits is done before flush returns, and only once."""
    later, seen = Later(), list[str]()
    later.put("a", 60.0, lambda: seen.append("a"))
    later.flush()
    later.flush()

    assert seen == ["a"]


def test_flush_waits_for_what_has_begun() -> None:
    """What the other thread is at has ended when flush returns."""
    later, began, ended = Later(), threading.Event(), threading.Event()

    def action() -> None:
        began.set()
        ended.wait(0.2)
        ended.set()

    later.put("a", 0.0, action)
    assert began.wait(20)
    later.flush()

    assert ended.is_set()


def test_a_failure_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the next one is done."""
    later, done = Later(), threading.Event()
    later.put("broken", 0.0, lambda: 1 // 0)
    later.put("fine", 0.01, done.set)

    assert done.wait(20)
    assert "failed" in caplog.text


def test_an_idle_thread_ends_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing to do for long there is no thread; what is put then is done all the same."""
    monkeypatch.setattr(module, "_STAYS", 0.02)
    later, seen = Later(), list[threading.Thread]()

    for number in range(3):
        later.put("a", 0.0, lambda: seen.append(threading.current_thread()))
        until(lambda number=number: len(seen) == number + 1, what="it is done")
        until(lambda: not seen[-1].is_alive(), what="the end of the thread")

    assert len({*seen}) == 3


def test_what_waits_is_done_once_a_thread_can_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that has too many threads, or ends, is told so; nothing is raised, and nothing is lost."""
    later, done = Later(), threading.Event()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        later.put("a", 0.0, done.set)
    assert "no thread can be started (can't start new thread)" in caplog.text
    later.put("b", 0.0, lambda: None)

    assert done.wait(20)


def test_who_flushes_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """Where each thing takes long, those that have not begun in time are not done, and that is said."""
    later, seen = Later(), list[int]()
    goes_on = hold(later)
    for number in range(3):
        later.put(str(number), 0.0, lambda number=number: (seen.append(number), time.sleep(0.05)))  # type: ignore[misc]
    later.flush(0.04)
    goes_on.set()

    assert seen == [0]
    assert "2 things that were put off are not done" in caplog.text

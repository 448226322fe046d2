"""What is remembered, and what is shared."""

from __future__ import annotations

import threading

import pytest

from egregore_dist.monitor.kept import Kept, Shared
from tests.support.waiting import until


def test_what_is_kept_is_bounded() -> None:
    """The last values are at hand, older ones are made again."""
    made: list[int] = []

    def value(key: int) -> int:
        return kept.get(key, lambda: made.append(key) or key * 10)  # type: ignore[func-returns-value]

    kept: Kept[int, int] = Kept(2)

    assert [value(key) for key in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
    assert made == [1, 2, 3, 2]


def test_who_asks_gets_what_was_begun_after() -> None:
    """Everybody who asks while a value is made shares the next one, and nobody gets one that was begun before."""
    shared: Shared[str, int] = Shared(4, share=0.99)
    gate, begun, made, got = threading.Event(), threading.Event(), [0], []

    def make() -> int:
        made[0] += 1
        begun.set()
        assert gate.wait(20)
        return made[0]

    def ask() -> None:
        got.append(shared.get("run", make))

    first = threading.Thread(target=ask)
    first.start()
    assert begun.wait(20)
    others = [threading.Thread(target=ask) for _ in range(10)]
    for other in others:
        other.start()
    # Each has seen that one was begun before it asks for the lock.
    until(lambda: all(other.is_alive() for other in others), what="all asking")
    gate.set()
    for thread in (first, *others):
        thread.join(20)

    assert got[0] == 1
    assert set(got[1:]) <= {2, 3}
    assert shared.get("run", make) == made[0]


def test_each_asks_anew() -> None:
    """A value that was made before is never given to who asks later."""
    shared: Shared[str, int] = Shared(4, longest=0)
    made = iter(range(10))

    assert [shared.get("run", lambda: next(made)) for _ in range(4)] == [0, 1, 2, 3]


def test_what_cannot_be_made() -> None:
    """An error is for who asked; the next one tries again."""
    shared: Shared[str, int] = Shared(4)

    with pytest.raises(ZeroDivisionError):
        shared.get("run", lambda: 1 // 0)
    assert shared.get("run", lambda: 1) == 1

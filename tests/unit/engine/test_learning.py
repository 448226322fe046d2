"""How soon a process knows what was learned of functions."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, cast

import pytest

from egregore_dist.engine import learning as module
from egregore_dist.engine.learning import Learning
from egregore_dist.ledger import Ledger
from egregore_dist.resources.profile import Profile


class FakeClock:
    """Stands still until it is told to go on."""

    now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


class FakeProfiles:
    """What all processes have learned, without a ledger."""

    def __init__(self) -> None:
        self.known: dict[str, Profile] = {}
        self.reads = 0

    def read(self, functions: Set[str]) -> dict[str, Profile]:
        """What is known of these."""
        self.reads += 1
        return {name: self.known[name] for name in functions if name in self.known}

    def learn(self, news: dict[str, Profile]) -> None:
        """Known from now on."""
        self.known.update(news)


class FakeLater:
    """What was put off, and for how long; it is done when the test says so."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self._action: Callable[[], None] | None = None

    def put(self, _key: str, delay: float, action: Callable[[], None]) -> None:
        """Noted."""
        self.delays.append(delay)
        self._action = action

    def do(self) -> None:
        """What was put last."""
        assert self._action is not None
        self._action()


@pytest.fixture
def later() -> FakeLater:
    """Where `learning` puts off what it does."""
    return FakeLater()


@pytest.fixture
def profiles() -> FakeProfiles:
    """What `learning` reads and writes."""
    return FakeProfiles()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time of `learning`."""
    clock = FakeClock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def learning(clock: FakeClock, later: FakeLater, profiles: FakeProfiles, monkeypatch: pytest.MonkeyPatch) -> Learning:
    """The learning of a process that has executed nothing yet."""
    monkeypatch.setattr(module, "Profiles", lambda _ledger: profiles)
    return Learning(cast(Ledger, None), cast(Any, later), alone=True)


def record(learning: Learning) -> None:
    learning.recorder.record("f", wall=0.001, cpu=None, waits=None, memory=None, size=1)


def test_what_is_not_known_is_asked_again_soon(learning: Learning, clock: FakeClock, profiles: FakeProfiles) -> None:
    """What is known is believed for two seconds, that nothing is known for a tenth of one."""
    knows = learning.of(("f",))
    asked = []
    for passed in (0.0, 0.05, 0.1, 1.9, 0.2):
        clock.now += passed
        asked.append((knows({(0,): 1}) is not None, profiles.reads))
        profiles.known["f"] = profiles.known.get("f", Profile(count=5.0))

    assert asked == [(False, 1), (False, 1), (True, 2), (True, 2), (True, 3)]


def test_what_is_never_known_is_asked_ever_less(learning: Learning, clock: FakeClock, profiles: FakeProfiles) -> None:
    """After a tenth of a second, after two, and so on, up to two seconds; what is not believed yet is not known."""
    profiles.known["f"] = Profile(count=1.0)
    knows = learning.of(("f",))
    times = []
    for _ in range(900):
        before = profiles.reads
        knows({(0,): 1})
        if profiles.reads > before:
            times.append(round(clock.now - 100.0, 2))
        clock.now += 0.01

    assert times == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 5.1, 7.1], abs=0.05)


def test_a_process_tells_soon_what_it_learns_first(
    learning: Learning, later: FakeLater, profiles: FakeProfiles
) -> None:
    """Later it tells once a second."""
    record(learning)
    record(learning)
    later.do()
    record(learning)

    assert later.delays == [0.1, 1.0]
    assert profiles.known["f"].count == 2.0

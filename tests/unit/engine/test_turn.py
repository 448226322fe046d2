"""When a lane gives its slot back."""

from __future__ import annotations

import random

import pytest

from egregore_dist.engine import turn
from egregore_dist.engine.turn import TURN, Turn


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What turns tell the time by."""
    clock = Clock()
    monkeypatch.setattr(turn, "monotonic", clock)
    return clock


def test_a_turn_ends_where_others_wait(clock: Clock) -> None:
    """Nobody is asked before the time, and then who was seen since it began; the turn is over, and stays so."""
    asked: list[float] = []

    def wait(since: float) -> bool:
        asked.append(since)
        return True

    mine, began = Turn(wait), clock.now

    assert not mine.is_over()
    clock.now += TURN
    assert mine.is_over()
    clock.now += 1000
    assert mine.is_over()
    assert asked == [began]


def test_a_turn_goes_on_while_nobody_waits(clock: Clock) -> None:
    """It asks at every lease: that costs nothing."""
    answers = iter([*[False] * 50, True])
    mine, leases = Turn(lambda since: next(answers)), 0
    while not mine.is_over():
        clock.now += 0.001
        leases += 1

    assert leases == pytest.approx(1000 * TURN + 50, abs=1)


@pytest.mark.parametrize(("took", "turn"), [(0.02, 0.06), (0.3, 0.9), (0.5, 1.0), (3.0, 3.0), (300.0, 10.0)])
def test_a_turn_is_long_where_coming_took_long(took: float, turn: float, clock: Clock) -> None:
    """Three times what it took to come, within a second or what it took up to ten; the first branches are no part."""
    mine = Turn(lambda since: True)
    clock.now += took
    mine.came()
    clock.now += 0.9 * turn
    mine.came()

    assert not mine.is_over()
    clock.now += 0.2 * turn
    assert mine.is_over()


def test_a_turn_is_extended_where_branches_go_on(clock: Clock) -> None:
    """A lane of which much is idle behind a few branches leases others again, and for some time others have to wait."""
    mine = Turn(lambda since: True)
    clock.now += TURN
    assert mine.is_over()

    mine.extend(1, of=50)
    assert mine.is_over()
    clock.now += 1.1
    mine.extend(1, of=50)
    assert not mine.is_over()
    clock.now += 2.9
    assert not mine.is_over()
    clock.now += 0.2
    assert mine.is_over()


@pytest.mark.parametrize("seconds", [0.5, 5.0, 500.0])
def test_a_turn_is_not_extended_where_nothing_stands_idle(seconds: float, clock: Clock) -> None:
    """All branches that the lane has at a time go on: that others could run beside them is not so."""
    mine = Turn(lambda since: True)
    clock.now += TURN
    assert mine.is_over()

    for _ in range(100):
        mine.extend(50, of=50)
        clock.now += seconds
        assert mine.is_over()


def test_a_lane_of_two_does_not_stand_idle_behind_one(clock: Clock) -> None:
    """While nothing ends but one goes on, half of its slot is idle: it serves for a good part of the time."""
    mine, began, ended = Turn(lambda since: True), clock.now, 0
    while clock.now < began + 20:
        clock.now += 0.02
        if mine.is_over():
            mine.extend(1, of=2)
        else:
            ended += 1

    assert ended > 300


def leaving(longest: float, clock: Clock, *, alone: float) -> tuple[float, float]:
    """Seconds that a lane, which was alone before, holds up others, and the part of its slot that was idle.

    Its branches take a fourth of the longest at least.
    """
    chance, width, began = random.Random(longest), 50, clock.now
    mine = Turn(lambda since: clock.now >= began + alone)

    def some(count: int) -> list[float]:
        return [clock.now + chance.uniform(longest / 4, longest) for _ in range(count)]

    held, idle = some(width), 0.0
    while held:
        before = clock.now
        clock.now = min(held)
        idle += (width - len(held)) * (clock.now - before)
        held.remove(clock.now)
        leaves = mine.is_over()
        if held:
            mine.extend(len(held), of=width)
        if not leaves:
            held += some(width - len(held))
        assert clock.now - began - alone < 30 + 10 * longest
    return clock.now - began - alone, idle / width / (clock.now - began)


@pytest.mark.parametrize("alone", [0.0, 1.5, 60.0])
@pytest.mark.parametrize("longest", [0.5, 1.5, 4.0, 8.0, 60.0, 600.0])
def test_a_lane_of_many_leaves_at_last(longest: float, alone: float, clock: Clock) -> None:
    """Where somebody waits, whatever its branches take, and it is idle for a part of its time only."""
    held_up, idle = leaving(longest, clock, alone=alone)

    assert held_up <= 30 + 6 * longest
    assert idle <= 0.5


@pytest.mark.parametrize("alone", [0.0, 1.5, 60.0])
@pytest.mark.parametrize("longest", [0.5, 1.5, 4.0, 8.0, 30.0])
def test_a_lane_of_many_leaves_with_the_last_of_its_branches(longest: float, alone: float, clock: Clock) -> None:
    """Where they take about as long as one another."""
    held_up, _ = leaving(longest, clock, alone=alone)

    assert held_up <= longest + TURN

"""When a worker looks whether somebody waits, and what it says."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from egregore_dist.engine import others
from egregore_dist.worker import lookout
from egregore_dist.worker.lookout import OFTEN, SELDOM, Lookout


class World:
    """A clock, lanes that ask and a broker, all set by hand. ``looks`` are the times that the broker was asked."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0.0
        self.said: bool | None = None
        self.said_for_room = False
        self.messages: int | None = 0
        self.looks: list[float] = []
        self.closed = False
        self.names: list[str] = []

    def waiting(self, names: Iterable[str]) -> int | None:
        self.looks.append(self.now)
        self.names = list(names)
        return self.messages

    def close(self) -> None:
        self.closed = True

    def say(self, waiting: bool, *, for_room: bool = False) -> None:
        self.said, self.said_for_room = waiting, for_room


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The world of one worker."""
    world = World()
    monkeypatch.setattr(lookout, "monotonic", lambda: world.now)
    monkeypatch.setattr(others, "asked", lambda: world.asked)
    monkeypatch.setattr(others, "say", world.say)
    return world


def look(
    mine: Lookout,
    world: World,
    seconds: float,
    *,
    asks: bool = False,
    lanes: int = 1,
    received: int = 0,
    slots: int = 1,
    is_short: bool = False,
) -> None:
    """Let time pass with so many lanes at work."""
    until = world.now + seconds
    while world.now < until:
        if asks:
            world.asked = world.now
        world.now += mine.look(lanes=lanes, at_work=lanes, received=received, slots=slots, is_short=is_short)


def test_nobody_is_asked_before_a_lane_asks(world: World) -> None:
    """An idle worker asks the broker nothing, nor does one whose lanes are in their turn or that has none."""
    mine = Lookout(world, lambda: ["egregore"])

    assert mine.look(lanes=0, at_work=1, received=5, slots=1) == SELDOM
    look(mine, world, 60, lanes=0)
    look(mine, world, 60, lanes=1)

    assert world.looks == []
    assert world.said is None


def test_every_queue_is_asked_while_a_lane_asks(world: World) -> None:
    """Often, and of all queues of the worker; what is said is what was seen last."""
    mine = Lookout(world, lambda: ["egregore", "gpu"])
    look(mine, world, 1, asks=True)
    assert len(world.looks) == pytest.approx(1 / OFTEN, abs=2)
    assert world.names == ["egregore", "gpu"]
    assert world.said is False

    world.messages = 1
    look(mine, world, 0.1, asks=True)
    assert world.said is True

    world.messages = 0
    look(mine, world, 0.1, asks=True)
    assert world.said is False


def test_what_the_worker_has_received_waits_too(world: World) -> None:
    """It is on no queue any more."""
    look(Lookout(world, lambda: ["egregore"]), world, 0.1, asks=True, received=3)

    assert world.said is True


def test_where_a_slot_is_free_nobody_waits(world: World) -> None:
    """What is on a queue comes at once, and no lane has to leave for it."""
    world.messages = 1
    look(Lookout(world, lambda: ["egregore"]), world, 0.1, asks=True, received=1, slots=2)

    assert world.looks == []
    assert world.said is False


def test_of_a_pool_that_shall_be_smaller_lanes_leave(world: World) -> None:
    """Until no more are at work than shall be, whoever waits; but not where none could publish its successor."""
    mine = Lookout(world, lambda: ["egregore"])
    look(mine, world, 0.1, asks=True, lanes=8, slots=4)
    assert world.said is True

    look(mine, world, 0.1, asks=True, lanes=4, slots=4)
    assert world.said is False

    world.messages = None
    look(mine, world, 0.1, asks=True, lanes=8, slots=4)
    assert world.said is False


def test_room_of_the_machine_is_for_those_who_have_it_to_give(world: World) -> None:
    """It is said beside what is said of slots: of a lane that has none nobody would gain."""
    look(Lookout(world, lambda: ["egregore"]), world, 0.1, asks=True, is_short=True)

    assert (world.said, world.said_for_room) == (False, True)


def test_without_the_broker_lanes_stay(world: World) -> None:
    """One that leaves publishes its successor: it could not, whoever waits."""
    world.messages = None
    look(Lookout(world, lambda: ["egregore"]), world, 0.1, asks=True, received=3)

    assert world.said is False


def test_a_long_branch_is_looked_after_less_often(world: World) -> None:
    """A lane that cannot leave yet is told all the same, by looks that are a second apart at most."""
    mine = Lookout(world, lambda: ["egregore"])
    look(mine, world, 0.1, asks=True)
    world.looks.clear()
    look(mine, world, 100)

    assert 100 <= len(world.looks) <= 140
    world.messages = 1
    look(mine, world, 1.1)
    assert world.said is True


def test_what_a_lane_before_has_asked_is_forgotten(world: World) -> None:
    """Once no lane was at work for a while, the next one has to ask anew."""
    mine = Lookout(world, lambda: ["egregore"])
    look(mine, world, 0.1, asks=True)
    look(mine, world, 5, lanes=0)
    assert not world.closed
    world.looks.clear()
    look(mine, world, 10)
    look(mine, world, 1, lanes=0)

    assert world.looks == []
    assert world.closed

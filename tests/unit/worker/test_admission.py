"""Which lanes a worker lets in, and of which queues it takes none meanwhile."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.ledger.rooms import Answer, Grant
from egregore_dist.resources.report import Report
from egregore_dist.settings import Settings
from egregore_dist.worker import admission, pool
from egregore_dist.worker.admission import Admission
from egregore_dist.worker.intake import Intake

GIB = 2**30
HEAVY = f"home@memory:{2 * GIB}"
SAID = Report(
    worker="w@a", host="a", pid=1, slots=2, queues=("home",), cores=2.0, memory_available=8 * GIB, memory_total=8 * GIB
)


class Rooms:
    """A machine where there is room, or not; what was asked of it."""

    def __init__(self) -> None:
        self.has_room = True
        self.is_stale = False
        self.away = False
        self.waits = False
        # That others have: of the group, and on the machine.
        self.cores = (0.0, 0.0)
        self.asked: list[tuple[str, str]] = []
        self.told: list[set[str]] = []
        self.left: list[str] = []

    def admit(self, queue: str, lane: str, **how: Any) -> Answer:
        if self.away:
            raise errors.BrokerUnavailable("away")
        self.asked.append((queue, lane))
        self.how = how
        return Answer(
            has_room=self.has_room and not self.is_stale,
            is_stale=self.is_stale,
            memory=5 * GIB,
            cores=self.cores[0],
            machine_cores=self.cores[1],
            lanes=3,
            others_first=False,
            grant=Grant(how["memory"], how["cores"], "", ""),
        )

    def sync(self, has: dict[str, Grant]) -> bool:
        if self.away:
            raise errors.BrokerUnavailable("away")
        self.told.append(set(has))
        return self.waits

    def leave(self, queue: str) -> None:
        self.left.append(queue)


class Message(SimpleNamespace):
    """A lane's message, as the worker gets it."""

    def __init__(self, queue: str = HEAVY, id: str = "lane", task: str = apps.LANE) -> None:
        arguments = ["run", "0.0-1", 0][: 3 if task == apps.LANE else 2]
        super().__init__(
            delivery_info={"routing_key": queue},
            headers={"id": id, "task": task},
            payload=(arguments, {}, {}),
            requeued=0,
            ack_log_error=lambda: None,
            reject_log_error=lambda requeue=False: None,
        )

    def requeue(self) -> None:
        self.requeued += 1


class World:
    """A worker with its admission."""

    def __init__(self) -> None:
        self.worker = SimpleNamespace(
            consumer=None, egregore_heartbeat=SimpleNamespace(said=SAID, hurry=lambda: None), egregore_intake=None
        )
        self.intake = self.worker.egregore_intake = Intake(self.worker)
        self.step = Admission(self.worker)
        self.rooms = Rooms()
        self.waiting: int | None = 1
        self.lanes: tuple[str, ...] = ()
        self.handled: list[str] = []
        self.dropped: list[str] = []
        self.step.settings = Settings()
        self.step._rooms = self.rooms  # type: ignore[assignment]
        self.step._queues = SimpleNamespace(waiting=lambda _: self.waiting, close=lambda: None)  # type: ignore[assignment]

    def serve(self, message: Message) -> Message:
        id = message.headers["id"]
        self.step.serve(message, lambda: self.handled.append(id), lambda: self.dropped.append(id))
        return message

    def tick(self) -> None:
        self.step.tick(self.worker)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A worker of 8 GiB whose ledger is a fake."""
    world = World()
    monkeypatch.setattr(pool, "lanes", lambda: world.lanes)
    assert admission.pool is pool
    return world


@pytest.mark.parametrize("queue", ["home", "home@zone=eu", "home@gpus:1", "somebody's", ""])
def test_a_lane_that_needs_little_costs_nothing(world: World, queue: str) -> None:
    """It is handled at once, and nobody is asked."""
    message = world.serve(Message(queue))

    assert (world.handled, world.rooms.asked, message.requeued) == (["lane"], [], 0)


def test_what_a_lane_needs_is_asked_for(world: World) -> None:
    """Of a lane with its block, which may be wide; what carries on after a block is one branch."""
    world.serve(Message())
    assert world.rooms.how["of"] == ("run", "0.0-1", 0)
    assert (world.rooms.how["memory"], world.rooms.how["bounds"].memory) == (2 * GIB, int(0.70 * 8 * GIB))

    world.serve(Message(task=apps.COLLECT, id="other"))
    assert world.rooms.how["of"] == ("run", None, 0)
    assert world.handled == ["lane", "other"]


def test_cores_of_a_quota_and_of_the_machine_are_asked_for(world: World) -> None:
    """With the groups that share them, of a release that names none the machine's; what is short is said."""
    said = msgspec.structs.replace(SAID, group="m", cpu_group="c", cores=2.0, machine_cores=8.0)
    world.worker.egregore_heartbeat.said = said
    world.rooms.has_room = False
    found = []
    for number, world.rooms.cores in enumerate([(2.0, 3.0), (1.0, 7.5)]):
        world.serve(Message(f"home@cpus:{number + 2}"))
        found.append(world.intake.closed()[f"home@cpus:{number + 2}"].partition(" are")[0])

    bounds = world.rooms.how["bounds"]
    assert (bounds.group, bounds.cpu_group, bounds.cores, bounds.machine_cores) == ("m", "c", 2.0, 8.0)
    assert found == ["2 of 2 cores", "7.5 of 8 cores"]
    world.worker.egregore_heartbeat.said = SAID
    world.serve(Message("home@cpus:1.5"))
    assert (world.rooms.how["bounds"].cpu_group, world.rooms.how["bounds"].machine_cores) == ("", 2.0)


def test_who_does_not_see_its_machine_is_bounded_by_its_groups(world: World) -> None:
    """A container that is shown no more than itself takes nothing of what others of its machine may have."""
    own = {"group": "m", "cpu_group": "c"}
    seen = {"machine_cores": 8.0, "machine_total": 64 * GIB}
    bounds = []
    for more in ({}, own, own | seen):
        world.worker.egregore_heartbeat.said = msgspec.structs.replace(SAID, **more)
        world.serve(Message("home@cpus:2"))
        bounds.append(world.rooms.how["bounds"])

    assert [(each.cores, each.memory) for each in bounds] == [(2.0, int(0.70 * 8 * GIB))] * 3
    assert (bounds[0].machine_cores, bounds[0].machine) == (2.0, bounds[0].memory)
    assert min(bounds[1].machine_cores, bounds[1].machine) > 10**12
    assert (bounds[2].machine_cores, bounds[2].machine) == (8.0, int(0.70 * 64 * GIB))


def test_what_finds_no_room_goes_back(world: World) -> None:
    """Its queue is closed, so what was on its way goes back unasked; it is open again when there is room."""
    world.rooms.has_room = False
    first, second = world.serve(Message()), world.serve(Message(id="second"))

    assert (first.requeued, second.requeued, world.handled) == (1, 1, [])
    assert world.rooms.asked == [(HEAVY, "lane")]
    assert world.intake.closed() == {HEAVY: "5.37 GB of 6.01 GB are reserved for 3 lanes there"}
    assert world.step.interval() < 1
    world.tick()
    assert HEAVY in world.intake.closed()
    world.rooms.has_room = True
    world.tick()
    assert not world.intake.closed()
    assert world.rooms.left == []
    world.serve(first)
    assert world.handled == ["lane"]


def test_where_nothing_waits_nothing_is_kept(world: World) -> None:
    """Once others have taken what waited, its queue is open again, and nobody waits for its turn."""
    world.rooms.has_room = False
    world.serve(Message())
    world.waiting = None
    world.tick()
    assert HEAVY in world.intake.closed()
    world.waiting = 0
    world.tick()

    assert (world.intake.closed(), world.rooms.left) == ({}, [HEAVY])


def test_a_worker_that_takes_nothing_waits_for_nothing(world: World) -> None:
    """One that is drained has no turn that others would wait for."""
    world.rooms.has_room = False
    world.serve(Message())
    world.intake.hold("drained", "")
    world.tick()

    assert (world.intake.closed(), world.rooms.left) == ({}, [HEAVY])


def test_a_machine_that_became_too_small_waits_for_nothing(world: World) -> None:
    """It takes nothing of that queue any more, and has no turn there."""
    world.rooms.has_room = False
    world.serve(Message(f"home@memory:{7 * GIB}"))
    world.tick()

    assert world.rooms.left == [f"home@memory:{7 * GIB}"]
    assert "too small" in world.intake.closed()[f"home@memory:{7 * GIB}"]


def test_without_the_ledger_nothing_is_admitted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what runs: the lane goes back, and is asked for again later. Others meanwhile go back unasked."""
    world.rooms.away = True
    assert world.serve(Message()).requeued == 1
    world.rooms.away = False
    assert world.serve(Message(f"home@memory:{GIB}")).requeued == 1
    assert world.rooms.asked == []
    world.tick()
    assert not world.intake.closed()
    later = time.monotonic() + 6
    monkeypatch.setattr(time, "monotonic", lambda: later)
    world.serve(Message())
    assert world.handled == ["lane"]
    world.worker.egregore_heartbeat.said = None
    assert world.serve(Message()).requeued == 1


def test_a_lane_that_has_nothing_to_do_is_dropped(world: World) -> None:
    """Its run was cancelled, or others do the rest; where it was refused before, its queue is opened for it."""
    world.rooms.has_room = False
    message = world.serve(Message())
    assert message.requeued == 1
    world.rooms.is_stale = True
    # It may take a while until it comes.
    for _ in range(3):
        world.tick()
        assert world.rooms.how["of"] == ("run", "0.0-1", 0)
        assert not world.intake.closed()
    world.serve(message)
    assert (world.handled, world.dropped, message.requeued) == ([], ["lane"], 1)

    # What comes after it on the queue is asked for by itself.
    world.tick()
    assert world.rooms.how["of"] is None


def test_a_turn_is_kept_until_its_lane_has_come(world: World) -> None:
    """The queue is open, and all slots are taken by what needs little: what else would fit goes on waiting."""
    world.rooms.has_room = False
    message = world.serve(Message())
    world.rooms.has_room = True
    for _ in range(3):
        world.tick()
    assert not world.intake.closed()
    assert world.rooms.asked == [(HEAVY, "lane"), *[(HEAVY, "")] * 3]
    assert world.step.interval() < 1

    world.lanes = ("lane",)
    world.serve(message)
    world.tick()
    assert world.rooms.asked[4:] == [(HEAVY, "lane")]


def test_what_its_lanes_have_is_said_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each report: it may have been taken from them while this worker, or the ledger, was away."""
    world.rooms.away = True
    with pytest.raises(errors.BrokerUnavailable):
        world.tick()
    world.rooms.away = False
    # What an earlier worker of the name had is given back as soon as that can be said.
    world.tick()
    assert world.rooms.told == [set()]

    world.lanes = ("lane",)
    world.serve(Message())
    later = time.monotonic() + 10
    monkeypatch.setattr(time, "monotonic", lambda: later)
    world.tick()
    world.tick()
    assert world.rooms.told == [set(), {"lane"}]


def test_lanes_hear_who_waits_for_what_they_have(world: World) -> None:
    """On whichever worker of the machine; those of a worker whose lanes have nothing would leave in vain."""
    world.rooms.has_room = False
    world.serve(Message())
    assert not world.step.is_short()
    world.intake.open(HEAVY)
    world.rooms.has_room, world.lanes = True, ("lane",)
    world.serve(Message())
    assert not world.step.is_short()
    world.rooms.waits = True
    world.tick()
    assert world.step.is_short()


def test_what_has_ended_is_given_back(world: World) -> None:
    """When the worker does not have the lane any more, however it ended; it is looked for when it is acknowledged."""
    message, other = Message(), Message(id="other")
    world.lanes = ("lane", "other")
    world.serve(message)
    world.serve(other)
    world.tick()
    assert world.rooms.told[-1] == {"lane", "other"}
    assert world.step.interval() < 1

    world.lanes = ("other",)
    message.ack_log_error()
    assert world.step._hurried.is_set()
    world.tick()
    told = len(world.rooms.told)
    world.tick()
    assert world.rooms.told[-1] == {"other"}
    assert len(world.rooms.told) == told

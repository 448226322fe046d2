"""The room of a machine: what lanes that need much have there, together."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis
from hypothesis import strategies as st

from egregore_dist.ledger import Ledger
from egregore_dist.ledger.rooms import Answer, Bounds, Rooms
from tests.cluster.ledger.play import Play, track
from tests.support.waiting import until

HOST = "here"
GIB = 2**30
BOUNDS = Bounds(group="", memory=7 * GIB, machine=7 * GIB, cores=4.0)


def worker(ledger: Ledger, name: str) -> Rooms:
    """A live worker of the machine."""
    ledger.report(name, b"alive", 60.0)
    return Rooms(ledger, HOST, name)


def ask(
    rooms: Rooms, lane: str, memory: int, cores: float = 0.0, queue: str = "q@memory:1", bounds: Bounds = BOUNDS
) -> Answer:
    return rooms.admit(queue, lane, memory=memory, cores=cores, bounds=bounds)


def test_memory_is_given_once(ledger: Ledger) -> None:
    """Workers of one machine share it; asked again for the same lane it is the same; what ended gives it back."""
    one, other = worker(ledger, "one@here"), worker(ledger, "other@here")

    assert ask(one, "a", 4 * GIB).has_room
    assert ask(one, "a", 4 * GIB).has_room
    refused = ask(other, "b", 4 * GIB)
    assert refused == Answer(has_room=False, memory=4 * GIB, cores=0.0, lanes=1, others_first=False)
    assert ask(other, "c", 3 * GIB).has_room
    other.free(["a"])
    assert not ask(other, "b", 4 * GIB).has_room
    one.free(["a", "unknown"])
    assert ask(other, "b", 4 * GIB).has_room


def test_names_of_workers_may_have_several_words(ledger: Ledger) -> None:
    """What such a worker's lanes have counts, and goes with it alone."""
    one, other = worker(ledger, "one of us"), worker(ledger, "one")

    assert ask(one, "a", 7 * GIB).has_room
    other.begin()
    assert not ask(other, "b", GIB).has_room
    one.begin()
    assert ask(other, "b", GIB).has_room


def test_cores_are_given_once(ledger: Ledger) -> None:
    """Cores that lanes were declared to need do not go beyond those of the machine."""
    rooms = worker(ledger, "one@here")

    assert ask(rooms, "a", 0, 2.5).has_room
    assert not ask(rooms, "b", 0, 1.501).has_room
    assert ask(rooms, "b", 0, 1.5).cores == 2.5


def test_groups_have_limits_of_their_own(ledger: Ledger) -> None:
    """A control group has no more than its limit, and all of them together no more than the machine."""
    group = {name: Bounds(group=name, memory=4 * GIB, machine=6 * GIB, cores=4.0) for name in ("/a b", "/c", "")}
    rooms = worker(ledger, "one@here")

    assert ask(rooms, "1", 3 * GIB, bounds=group["/a b"]).has_room
    assert not ask(rooms, "2", 2 * GIB, bounds=group["/a b"]).has_room
    assert ask(rooms, "3", 3 * GIB, bounds=group["/c"]).has_room
    assert not ask(rooms, "4", 1, bounds=group[""]).has_room


def test_a_worker_that_is_gone_has_nothing(ledger: Ledger) -> None:
    """When its report ends, what its lanes had is for others; one that is not alive is given nothing."""
    gone, left = worker(ledger, "gone@here"), worker(ledger, "left@here")
    assert ask(gone, "a", 7 * GIB).has_room
    assert not ask(left, "b", GIB).has_room

    ledger.retire("gone@here")

    assert ask(left, "b", 7 * GIB).has_room
    left.free(["b"])
    assert not ask(gone, "a", GIB).has_room


def test_a_worker_that_begins_has_nothing(ledger: Ledger) -> None:
    """One that was started anew under its name gives back what it had before, and not what others have."""
    rooms, other = worker(ledger, "w@here"), worker(ledger, "w@here2")
    assert ask(rooms, "a", 3 * GIB).has_room
    assert ask(other, "a", 3 * GIB).has_room

    rooms.begin()

    assert ask(rooms, "b", GIB).memory == 3 * GIB


def test_who_waits_for_longer_is_first(ledger: Ledger) -> None:
    """What was refused has its turn before what comes later and would fit, while a worker goes on asking for it."""
    rooms = worker(ledger, "w@here")
    assert ask(rooms, "a", 4 * GIB, queue="q@memory:4").has_room
    assert not ask(rooms, "large", 6 * GIB, queue="q@memory:6").has_room
    until(lambda: ask(rooms, "small", GIB, queue="q@memory:4").others_first, what="a later millisecond")
    rooms.free(["a"])

    # To see whether there is room takes none.
    assert ask(rooms, "", 6 * GIB, queue="q@memory:6").has_room
    assert not ask(rooms, "small", GIB, queue="q@memory:4").has_room
    assert ask(rooms, "large", 6 * GIB, queue="q@memory:6").has_room
    assert ask(rooms, "small", GIB, queue="q@memory:4").has_room


def test_who_asks_no_more_keeps_nobody_waiting(ledger: Ledger) -> None:
    """A turn is over when nothing waits any more, and when nobody has asked for seconds."""
    rooms = worker(ledger, "w@here")
    for end in (lambda: rooms.leave("q@memory:9"), lambda: None):
        assert not ask(rooms, "large", 9 * GIB, queue="q@memory:9").has_room
        end()
        until(lambda: ask(rooms, "small", GIB).has_room, seconds=10, what="room for the small one")


def test_a_lane_of_many_needs_as_much_as_many(ledger: Ledger) -> None:
    """A lane that may run several branches at a time reserves what they need together, at most all that there is."""
    play = Play.submit(ledger)
    block = play.block(9, tracks=[track(9, width=3)])
    rooms, of = worker(ledger, "w@here"), (play.run, block, 0)

    assert rooms.admit("q@memory:1", "a", memory=2 * GIB, cores=0.0, bounds=BOUNDS, of=of).has_room
    assert ask(rooms, "b", 2 * GIB).memory == 6 * GIB
    rooms.free(["a"])
    assert rooms.admit("q@memory:1", "a", memory=6 * GIB, cores=0.0, bounds=BOUNDS, of=of).has_room
    assert ask(rooms, "b", 1).memory == 7 * GIB


@dataclass(frozen=True)
class Step:
    """What one worker does: a lane comes and needs this, or ends; or the worker dies, or is started anew."""

    what: str
    worker: str
    lane: str
    memory: int
    cores: float


steps = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(["come", "come", "come", "end", "die", "start"]),
        worker=st.sampled_from(["a@h", "b@h", "c@h"]),
        lane=st.sampled_from("1234"),
        memory=st.integers(1, 8) | st.sampled_from([7, 8]),
        cores=st.sampled_from([0.0, 0.0, 1.5, 2.0, 4.0, 5.0]),
    ),
    max_size=30,
)


@hypothesis.given(steps=steps)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None)
def test_never_more_than_there_is(ledger: Ledger, steps: list[Step]) -> None:
    """Whatever comes, ends and dies: those admitted never need more than there is, and what fits is admitted."""
    ledger.redis.delete(ledger.keys.machine(HOST))
    workers = {name: worker(ledger, name) for name in ("a@h", "b@h", "c@h")}
    alive, admitted = set(workers), dict[tuple[str, str], Step]()

    def end(of: str) -> None:
        for key in [key for key in admitted if key[0] == of]:
            del admitted[key]

    for step in steps:
        rooms, key = workers[step.worker], (step.worker, step.lane)
        if step.what == "end":
            rooms.free([step.lane])
            admitted.pop(key, None)
        elif step.what == "die":
            ledger.retire(step.worker)
            alive.discard(step.worker)
            end(step.worker)
        elif step.what == "start":
            workers[step.worker] = worker(ledger, step.worker)
            workers[step.worker].begin()
            alive.add(step.worker)
            end(step.worker)
        else:
            queue = f"q@memory:{step.memory}"
            others = [it for at, it in admitted.items() if at != key]
            answer = rooms.admit(
                queue,
                step.lane,
                memory=step.memory,
                cores=step.cores,
                bounds=Bounds(group="", memory=7, machine=7, cores=4.0),
            )
            assert answer.memory == sum(it.memory for it in others)
            assert answer.lanes == len(others)
            fits = answer.memory + step.memory <= 7 and answer.cores + step.cores <= 4.0 and step.worker in alive
            assert answer.has_room == (fits and not answer.others_first)
            if answer.has_room:
                admitted[key] = step
            # Nobody goes on asking.
            rooms.leave(queue)
        assert sum(it.memory for it in admitted.values()) <= 7
        assert sum(it.cores for it in admitted.values()) <= 4.0

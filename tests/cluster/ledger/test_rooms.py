"""The room of a machine: what lanes that need much have there, together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import hypothesis
import pytest
from hypothesis import strategies as st

from egregore_dist.ledger import Ledger
from egregore_dist.ledger.rooms import Answer, Bounds, Grant, Rooms
from tests.cluster.ledger.play import Play, track
from tests.support.waiting import let_pass, until

HOST = "here"
GIB = 2**30
BOUNDS = Bounds(group="", memory=7 * GIB, machine=7 * GIB, cpu_group="", cores=4.0, machine_cores=4.0)


def worker(ledger: Ledger, name: str, ttl: float = 60.0) -> Rooms:
    """A live worker of the machine."""
    ledger.report(name, b"alive", 60.0)
    return Rooms(ledger, HOST, name, ttl=ttl)


def gib(count: float) -> Grant:
    """So much memory."""
    return Grant(int(count * GIB), 0.0, "", "")


def bounds_of(
    group: str = "",
    memory: int = 7 * GIB,
    machine: int = 7 * GIB,
    *,
    cpu_group: str = "",
    cores: float = 4.0,
    machine_cores: float = 4.0,
) -> Bounds:
    """What the lanes of one control group may have."""
    return Bounds(
        group=group, memory=memory, machine=machine, cpu_group=cpu_group, cores=cores, machine_cores=machine_cores
    )


def let_be_silent(ledger: Ledger, seconds: float) -> None:
    """All that was said was said so much earlier, and since then nobody has asked."""
    key, by = ledger.keys.machine(HOST), round(seconds * 1000)
    for name, value in cast(dict[bytes, bytes], ledger.redis.hgetall(key)).items():
        first, _, rest = value.decode().partition(" ")
        ledger.redis.hset(key, name, f"{int(first) - by} {rest}")


def ask(
    rooms: Rooms, lane: str, memory: int, cores: float = 0.0, queue: str = "q@memory:1", bounds: Bounds = BOUNDS
) -> Answer:
    return rooms.admit(queue, lane, memory=memory, cores=cores, bounds=bounds)


def test_memory_is_given_once(ledger: Ledger) -> None:
    """Workers of one machine share it; asked again for the same lane it is the same; what ended gives it back."""
    one, other = worker(ledger, "one@here"), worker(ledger, "other@here")

    assert ask(one, "a", 4 * GIB).has_room
    assert ask(one, "a", 4 * GIB).grant == gib(4)
    refused = ask(other, "b", 4 * GIB)
    assert refused == Answer(
        has_room=False, memory=4 * GIB, cores=0.0, machine_cores=0.0, lanes=1, others_first=False, grant=gib(4)
    )
    assert ask(other, "c", 3 * GIB).has_room
    other.sync({"c": gib(3)})
    assert not ask(other, "b", 4 * GIB).has_room
    one.sync({})
    assert ask(other, "b", 4 * GIB).has_room


def test_names_of_workers_may_have_several_words(ledger: Ledger) -> None:
    """What such a worker's lanes have counts, and goes with it alone."""
    one, other = worker(ledger, "one of us"), worker(ledger, "one")

    assert ask(one, "a", 7 * GIB).has_room
    other.sync({})
    assert not ask(other, "b", GIB).has_room
    one.sync({})
    assert ask(other, "b", GIB).has_room


def test_cores_are_given_once(ledger: Ledger) -> None:
    """Cores that lanes were declared to need do not go beyond those of the machine."""
    rooms = worker(ledger, "one@here")

    assert ask(rooms, "a", 0, 2.5).has_room
    assert not ask(rooms, "b", 0, 1.501).has_room
    assert ask(rooms, "b", 0, 1.5).cores == 2.5


def test_cores_are_those_of_a_quota_and_of_the_machine(ledger: Ledger) -> None:
    """Whatever groups share the memory, lanes have no more cores than their quota, and all no more than the machine."""
    rooms = worker(ledger, "one@here")
    limited = {name: bounds_of(name, 4 * GIB) for name in ("/a", "/b")}
    assert ask(rooms, "1", 0, 3.0, bounds=limited["/a"]).has_room
    refused = ask(rooms, "2", 0, 3.0, bounds=limited["/b"])
    assert (refused.has_room, refused.cores, refused.machine_cores) == (False, 3.0, 3.0)
    rooms.leave("q@memory:1")
    rooms.sync({})

    quota = {name: bounds_of(cpu_group=name, cores=2.0) for name in ("/a", "/b", "/c")}
    assert [ask(rooms, name, 0, 2.0, bounds=quota[name]).has_room for name in ("/a", "/b")] == [True, True]
    full = ask(rooms, "3", 0, 2.0, bounds=quota["/c"])
    assert (full.has_room, full.cores, full.machine_cores) == (False, 0.0, 4.0)
    assert ask(rooms, "4", GIB, bounds=quota["/c"]).has_room
    rooms.sync({"/a": Grant(0, 2.0, "", "/a"), "/b": Grant(0, 2.0, "", "/b")})
    assert ask(rooms, "5", 0, 1.0, bounds=quota["/a"]).cores == 2.0


@pytest.mark.parametrize("cores", [2.01, 2.03, 4.02, 8.03, 32.3])
def test_all_cores_of_a_machine_can_be_asked_for(ledger: Ledger, cores: float) -> None:
    """Numbers of cores are compared as they are written, whatever a computer makes of them."""
    bounds = bounds_of(cores=cores, machine_cores=cores)

    assert ask(worker(ledger, "one@here"), "a", 0, cores, bounds=bounds).has_room


def test_a_clock_that_is_set_back_holds_nobody_up(ledger: Ledger) -> None:
    """What a worker that died had is free after its time, and who waited and went is forgotten, as if it was not."""
    one, other = worker(ledger, "one@here", ttl=0.3), worker(ledger, "other@here")
    assert ask(one, "a", 4 * GIB).has_room
    assert not ask(one, "b", 6 * GIB, queue="q@memory:2").has_room
    key = ledger.keys.machine(HOST)
    for name, value in cast(dict[bytes, bytes], ledger.redis.hgetall(key)).items():
        first, _, rest = value.decode().partition(" ")
        if name == b"clock":
            # An hour later by the server's clock, and by the machine's too: then it is set right.
            ledger.redis.hset(key, name, f"{int(first) + 3_600_000} 0")
        elif name.startswith(b"lane"):
            ledger.redis.hset(key, name, f"{int(first) + 3_600_000} {rest}")
        else:
            seen, _, rest = rest.partition(" ")
            ledger.redis.hset(key, name, f"{int(first) + 3_600_000} {int(seen) + 3_600_000} {rest}")

    until(lambda: ask(other, "c", 4 * GIB).has_room, what="room that a dead worker had")


def test_what_another_release_wrote_counts(ledger: Ledger) -> None:
    """A lane or a wait that names no CPU group is of the machine's."""
    one, other = worker(ledger, "one@here"), worker(ledger, "other@here")
    key = ledger.keys.machine(HOST)
    assert not ask(other, "b", 8 * GIB, queue="q@memory:8").has_room
    since = cast(bytes, ledger.redis.hget(key, "wait q@memory:8\nother@here")).decode().split()[0]
    ledger.redis.hset(key, "wait q@memory:8\nother@here", f"{since} {int(since) + 60000} group /a b")
    assert ask(one, "c", GIB, queue="q@memory:1").has_room
    # In a later millisecond.
    let_pass(0.005)
    assert ask(one, "", GIB, bounds=bounds_of("/a b")).others_first

    first = cast(bytes, ledger.redis.hget(key, "lane one@here c")).decode().split()[0]
    ledger.redis.hset(key, "lane one@here c", f"{first} {GIB} 3000 /a b")
    answer = ask(one, "e", 0, 2.0)
    assert (answer.memory, answer.cores, answer.machine_cores, answer.has_room) == (GIB, 3.0, 3.0, False)


def test_groups_have_limits_of_their_own(ledger: Ledger) -> None:
    """A control group has no more than its limit, and all of them together no more than the machine."""
    group = {name: bounds_of(name, 4 * GIB, 6 * GIB) for name in ("/a b", "/c", "")}
    rooms = worker(ledger, "one@here")

    assert ask(rooms, "1", 3 * GIB, bounds=group["/a b"]).has_room
    assert not ask(rooms, "2", 2 * GIB, bounds=group["/a b"]).has_room
    assert ask(rooms, "3", 3 * GIB, bounds=group["/c"]).has_room
    assert not ask(rooms, "4", 1, bounds=group[""]).has_room


def test_a_full_group_keeps_nobody_of_others_waiting(ledger: Ledger) -> None:
    """Who waits for its own group alone has no turn on the machine; who waits for the machine has."""
    group = {
        name: bounds_of(name, 4 * GIB, 9 * GIB, cpu_group=name, cores=2.0, machine_cores=6.0) for name in ("/a", "/b")
    }
    rooms, other = worker(ledger, "one@here"), worker(ledger, "other@here")
    assert ask(rooms, "1", 4 * GIB, cores=2.0, bounds=group["/a"]).has_room
    assert not ask(rooms, "2", GIB, queue="q@memory:2", bounds=group["/a"]).has_room

    # So it is with cores.
    assert ask(other, "3", GIB, cores=2.0, bounds=group["/b"]).has_room
    assert not ask(other, "6", 0, cores=1.0, queue="q@cpus:1", bounds=group["/b"]).has_room
    assert ask(other, "7", 0, cores=1.0, queue="q@cpus:2", bounds=bounds_of(cpu_group="/d", machine_cores=6.0)).has_room
    large = bounds_of("/c", 9 * GIB, 9 * GIB, cpu_group="/c", cores=2.0)
    assert not ask(rooms, "5", 9 * GIB, queue="q@memory:9", bounds=large).has_room
    until(lambda: ask(other, "4", GIB, bounds=group["/b"]).others_first, what="a later millisecond")


def test_a_worker_that_is_gone_has_nothing(ledger: Ledger) -> None:
    """What its lanes had is for others when it has not said for so long that they have it; it is given nothing then."""
    gone, left = worker(ledger, "gone@here", ttl=1.0), worker(ledger, "left@here")
    assert ask(gone, "a", 7 * GIB).has_room
    assert not ask(left, "b", GIB).has_room
    ledger.retire("gone@here")

    until(lambda: ask(left, "b", 7 * GIB).has_room, what="the end of what it had")
    left.sync({})
    assert not ask(gone, "a", GIB).has_room


def test_an_outage_takes_nothing_away(ledger: Ledger) -> None:
    """While nobody could ask, nobody could say what it has: it counts until its worker has had the time for it."""
    one, other = worker(ledger, "one@here", ttl=2.0), worker(ledger, "other@here")
    assert ask(one, "a", 7 * GIB).has_room
    let_be_silent(ledger, 3600)

    assert not ask(other, "b", GIB).has_room
    until(lambda: ask(other, "b", GIB).has_room, what="its end, since it says nothing")


def test_what_was_taken_away_is_said_again(ledger: Ledger) -> None:
    """A worker that was taken for dead, and lives, has what its lanes have; nothing is left of the other ones."""
    one, other = worker(ledger, "one@here"), worker(ledger, "other@here")
    assert ask(one, "a", 3 * GIB).has_room
    # The answer was lost: the worker does not know of it.
    assert ask(one, "b", 2 * GIB).has_room
    ledger.redis.hdel(ledger.keys.machine(HOST), "lane one@here a")

    assert not one.sync({"a": gib(3)})
    assert ask(other, "c", GIB).memory == 3 * GIB


def test_a_worker_hears_who_waits(ledger: Ledger) -> None:
    """Lanes of one worker may have what those of another wait for."""
    one, other = worker(ledger, "one@here"), worker(ledger, "other@here")
    assert ask(one, "a", 7 * GIB).has_room
    assert not one.sync({"a": gib(7)})
    assert not ask(other, "b", GIB, queue="q@memory:1").has_room
    assert one.sync({"a": gib(7)})
    other.leave("q@memory:1")
    assert not one.sync({"a": gib(7)})


def test_who_waits_for_longer_is_first(ledger: Ledger) -> None:
    """What was refused has its turn before what comes later and would fit, while a worker goes on asking for it."""
    rooms = worker(ledger, "w@here")
    assert ask(rooms, "a", 4 * GIB, queue="q@memory:4").has_room
    assert not ask(rooms, "large", 6 * GIB, queue="q@memory:6").has_room
    until(lambda: ask(rooms, "small", GIB, queue="q@memory:4").others_first, what="a later millisecond")
    rooms.sync({})

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
    rooms.sync({})
    assert rooms.admit("q@memory:1", "a", memory=6 * GIB, cores=0.0, bounds=BOUNDS, of=of).has_room
    assert ask(rooms, "b", 1).memory == 7 * GIB
    rooms.sync({})
    rooms.leave("q@memory:1")
    wide = rooms.admit("q@cpus:1", "a", memory=0, cores=1.0, bounds=BOUNDS, of=of)
    assert (wide.has_room, wide.grant) == (True, Grant(0, 3.0, "", ""))


def test_a_lane_that_has_nothing_to_do_needs_nothing(ledger: Ledger) -> None:
    """Its block has ended, or is served by others to its end: it has no turn, whatever it would need."""
    play = Play.submit(ledger)
    block = play.block(2, tracks=[track(2)])
    rooms = worker(ledger, "w@here")
    of: tuple[str, str | None, int] = (play.run, block, 0)

    def asked() -> Answer:
        return rooms.admit("q@memory:9", "", memory=9 * GIB, cores=0.0, bounds=BOUNDS, of=of)

    assert (asked().has_room, asked().is_stale) == (False, False)
    rooms.leave("q@memory:9")
    for lane in (play.lane(), play.lane()):
        assert play.serve(block, lane)
    assert asked().is_stale
    of = (play.run, None, 0)
    assert not asked().is_stale
    rooms.leave("q@memory:9")
    ledger.cancel(play.run)
    assert asked().is_stale
    of = ("unknown", None, 0)
    assert asked().is_stale
    assert ask(rooms, "small", 7 * GIB).has_room


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
        what=st.sampled_from(["come", "come", "come", "end", "die", "start", "say"]),
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

    def sync(of: str) -> None:
        has = {lane: Grant(it.memory, it.cores, "", "") for (name, lane), it in admitted.items() if name == of}
        workers[of].sync(has)

    for step in steps:
        rooms, key = workers[step.worker], (step.worker, step.lane)
        if step.what == "end":
            admitted.pop(key, None)
            sync(step.worker)
        elif step.what == "die":
            # What it had counts until it has not said so for long enough.
            ledger.retire(step.worker)
            alive.discard(step.worker)
        elif step.what == "start":
            workers[step.worker] = worker(ledger, step.worker)
            alive.add(step.worker)
            end(step.worker)
            sync(step.worker)
        elif step.what == "say":
            sync(step.worker)
        else:
            queue = f"q@memory:{step.memory}"
            others = [it for at, it in admitted.items() if at != key]
            answer = rooms.admit(
                queue,
                step.lane,
                memory=step.memory,
                cores=step.cores,
                bounds=bounds_of(memory=7, machine=7),
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

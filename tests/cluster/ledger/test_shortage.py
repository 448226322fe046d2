"""What follows where a process was killed for want of memory, on a real ledger."""

from __future__ import annotations

import msgspec
import pytest

from egregore_dist import node, parallel
from egregore_dist.engine.board import NEVER, NOBODY, Call, Note, Where
from egregore_dist.ledger import Ledger, Work
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources.profile import MOST_RESERVED, Profile
from egregore_dist.resources.report import Report
from egregore_dist.worker import shortage
from egregore_dist.workflow import describe
from tests.cluster.ledger.play import QUEUE, WORKER, Play, track

GIB = 2**30
TTL = 60.0


@node
def light(value: int) -> int:
    return value


@node("heavy", memory="1GiB")
def heavy(value: int) -> int:
    return value + 1


@pytest.fixture
def block(ledger: Ledger) -> tuple[Play, str]:
    """A run of two nodes, and its block, whose second branch is at the one with memory declared."""
    described = describe.describe(parallel(light, heavy))
    play = Play(ledger, "oom-run")
    functions = msgspec.msgpack.encode(["m:light", "m:heavy"])
    ledger.submit(play.run, Work("flow", described.encoded, functions, QUEUE), code={}, input=b"\x01", queue=QUEUE)
    lane = play.lane()
    play.serve(ROOT, lane)
    return play, play.nest(ROOT, 0, lane, 2, path=(), tracks=[track(2)])


def at(play: Play, block: str, branch: int = 1, name: str = "heavy", *, token: str = "", loop: bool = False) -> Note:
    """What a process was executing."""
    call = Call(branch=branch, attempt=1, calls=1, retries=0, called=0.0, stop_at=NEVER, node=name)
    where = Where(play.run, block, 0, token or play.lane())
    return Note(number=1, where=where, loop=loop, since=0.0, stop_at=NEVER, call=call, watched=(), asked=NEVER)


def says(ledger: Ledger, name: str, memory: int, queues: tuple[str, ...] = (QUEUE,)) -> None:
    """Have a worker report."""
    machine = {"host": name, "cores": 4.0, "memory_available": memory, "memory_total": memory}
    said = Report(worker=name, pid=1, slots=4, queues=queues, at=ledger.now(), **machine)  # type: ignore[arg-type]
    ledger.report(name, msgspec.msgpack.encode(said), TTL)


def test_what_is_reserved_is_doubled_once_a_plan(block: tuple[Play, str]) -> None:
    """Twice what it was planned with; what had begun before does not double it again, what begins after that does."""
    play, of = block
    says(play.ledger, "small", 2 * GIB)
    note, known = at(play, of), Profiles(play.ledger)
    first = shortage.after(play.ledger, note, held=0, lasted=60.0, ttl=TTL)
    beside = shortage.after(play.ledger, note, held=0, lasted=60.0, ttl=TTL)
    reserved = known.read(["m:heavy", "m:light"])
    later = shortage.after(play.ledger, note, held=0, lasted=-1.0, ttl=TTL)

    assert first is not None
    assert first.text.startswith("2.15 GB are reserved for node 'heavy' from now on, which no live worker of queue")
    assert first.text.endswith("the largest, 'small', has 1.5 GB (70% of 2.15 GB)")
    assert first == beside
    assert reserved.keys() == {"m:heavy"}
    assert reserved["m:heavy"].reserved == pytest.approx(2 * GIB, rel=0.01)
    assert later is not None
    assert later.text.startswith("4.2")


def test_what_a_worker_did_not_have_was_not_too_little(block: tuple[Play, str]) -> None:
    """An attempt on a worker that has less than is reserved does not double it; what it held counts all the same."""
    play, of = block
    says(play.ledger, WORKER, GIB)

    for held, begins in ((0, "1.07 GB"), (GIB, "2.15 GB"), (GIB // 2, "2.1")):
        found = shortage.after(play.ledger, at(play, of), held=held, lasted=-1.0, ttl=TTL)
        assert found is not None
        assert found.text.startswith(begins)


def test_it_goes_where_that_fits(block: tuple[Play, str]) -> None:
    """On a queue of the workers that have it; where none has, on one of those that have most."""
    play, of = block
    ledger = play.ledger

    def queue(held: int) -> str:
        found = shortage.after(ledger, at(play, of), held=held, lasted=60.0, ttl=TTL)
        assert found is not None
        return found.queue

    says(ledger, "small", 4 * GIB)
    says(ledger, "elsewhere", 400 * GIB, ("other",))
    assert queue(0) == f"{QUEUE}@learned:{2 * GIB}"
    says(ledger, "large", 40 * GIB)
    assert queue(3 * GIB) == f"{QUEUE}@learned:{6 * GIB}"
    found = shortage.after(ledger, at(play, of), held=3 * GIB, lasted=60.0, ttl=TTL)
    assert found is not None
    assert found.lanes == 4
    assert "which no live worker" not in found.text
    assert queue(30 * GIB) == f"{QUEUE}@learned:{int(0.70 * 40 * GIB)}"


@pytest.mark.parametrize("known", [False, True])
def test_branches_that_ran_together_are_taken_to_need_their_parts(ledger: Ledger, known: bool) -> None:
    """Twice that: so that of the next plan half as many run together; nothing is moved for what others held."""
    described = describe.describe(heavy.map())
    play = Play(ledger, "oom-run")
    functions = msgspec.msgpack.encode(["m:heavy"])
    ledger.submit(play.run, Work("flow", described.encoded, functions, QUEUE), code={}, input=b"\x01", queue=QUEUE)
    root, token = play.lane(), play.lane()
    play.serve(ROOT, root)
    block = play.nest(ROOT, 0, root, 20, path=(), tracks=[track(20, width=10)])
    assert len(play.serve(block, token).leases) == 10
    says(ledger, "small", 2 * GIB)

    branch, name = (3, "heavy") if known else (NOBODY, "")
    note = at(play, block, branch, name, token=token, loop=True)
    found = shortage.after(ledger, note, held=GIB, lasted=1.0, ttl=TTL)

    assert found is not None
    assert found.queue == QUEUE
    assert found.text == "215 MB are reserved for node 'heavy' from now on"
    assert Profiles(ledger).read(["m:heavy"])["m:heavy"].reserved == pytest.approx(GIB / 5, rel=0.01)


def test_what_is_reserved_is_bounded(block: tuple[Play, str]) -> None:
    """However often a node's process is killed."""
    play, of = block
    Profiles(play.ledger).learn({"m:heavy": Profile(reserved=MOST_RESERVED)})

    assert shortage.after(play.ledger, at(play, of), held=0, lasted=60.0, ttl=TTL) is not None
    assert Profiles(play.ledger).read(["m:heavy"])["m:heavy"].reserved <= MOST_RESERVED


@pytest.mark.parametrize(("branch", "name"), [(NOBODY, ""), (1, "unknown"), (0, "heavy")])
def test_where_the_node_is_not_known_nothing_follows(block: tuple[Play, str], branch: int, name: str) -> None:
    """Between two branches, or at a node that the branch does not have, nothing is reserved for anybody."""
    play, of = block

    assert shortage.after(play.ledger, at(play, of, branch, name), held=GIB, lasted=1.0, ttl=TTL) is None
    assert Profiles(play.ledger).everything() == {}


def test_what_has_expired_is_not_known(ledger: Ledger) -> None:
    """Of a run that is gone nothing can be told."""
    play = Play(ledger, "nobodys")

    assert shortage.after(ledger, at(play, ROOT), held=GIB, lasted=1.0, ttl=TTL) is None

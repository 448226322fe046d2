"""An id that is used again after its run was deleted: what the former run has left changes nothing of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.ledger import OTHERS, Lease, Ledger, NewBlock, Presence, Work
from egregore_dist.ledger.calls import Calls
from egregore_dist.ledger.keys import ROOT
from egregore_dist.workflow.limits import Rule
from tests.cluster.ledger.play import QUEUE, Play, limited, numbers, ok, track
from tests.support.waiting import until

ONE = Rule(concurrent=1)


def use_again(play: Play) -> None:
    """Cancel and delete the run, unless that was done, and submit another one under its id."""
    if play.ledger.exists(play.run):
        created = play.ledger.work(play.run).created
        play.ledger.cancel(play.run)
        assert play.ledger.delete(play.run)
        until(lambda: play.now() > created, what="the next millisecond")
    work = Work("other", b"spec", b"functions")
    assert play.ledger.submit(play.run, work, code={}, input=b"in", queue=QUEUE).new


def test_a_lane_of_the_former_run_is_leased_nothing(play: Play) -> None:
    """It would execute what that run was: it asks for more, comes to a block, opens one, or goes on behind one."""
    former = play.ledger.work(play.run).created
    use_again(play)
    block = play.block(2)
    before = play.ledger.block(play.run, block)

    served = play.ledger.serve(play.run, block, 0, play.lane(), commits=ok(0, 1), created=former)
    entered = play.ledger.enter(play.run, block, 0, play.lane(), work=False, created=former)
    new = NewBlock(
        id=block,
        name="block",
        path=(0,),
        n=2,
        limit=0,
        timeout=0.0,
        on_error="cancel",
        input=b"data",
        tracks=(track(2),),
    )
    parked, begun = play.ledger.begin(play.run, ROOT, Lease(0), 0, play.lane(), new, created=former)
    with pytest.raises(errors.RunNotFound):
        play.ledger.look(play.run, block, former)

    assert (served.state, served.leases, served.late) == ("gone", (), 2)
    assert entered is not None
    assert begun is not None
    assert (entered.served.leases, begun.served.leases, parked) == ((), (), False)
    assert play.ledger.block(play.run, block) == before
    assert play.ledger.running(play.run, block) == []
    present = play.ledger.work(play.run).created
    assert play.ledger.look(play.run, block, present)[0] == before
    assert numbers(play.ledger.serve(play.run, block, 0, play.lane(), created=present)) == [0]


@pytest.mark.parametrize("call", ["cancel", "pause", "resume", "retry", "delete"])
def test_a_call_that_is_made_again_means_the_former_run(play: Play, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Its answer was lost, and meanwhile somebody has deleted the run, and used its id."""
    once, lost = Calls.one, list[Any]()
    states = {"cancel": "pending", "pause": "pending", "resume": "paused", "retry": "cancelled", "delete": "cancelled"}

    def one(self: Calls, name: str, *asked: Any) -> Any:
        answer = once(self, name, *asked)
        if name != call or lost:
            return answer
        lost.append(answer)
        use_again(play)
        if states[call] != "pending":
            (play.ledger.pause if call == "resume" else play.ledger.cancel)(play.run)
        return once(self, name, *asked)

    monkeypatch.setattr(Calls, "one", one)
    if call in ("retry", "delete"):
        play.ledger.cancel(play.run)
    elif call == "resume":
        play.ledger.pause(play.run)
    asked: Callable[[str], object] = getattr(play.ledger, call)
    if call == "delete":
        assert asked(play.run) is False
    else:
        with pytest.raises(errors.RunNotFound):
            asked(play.run)

    assert lost
    assert play.ledger.run(play.run).state == states[call]


@pytest.mark.parametrize("is_limited", [False, True])
def test_a_track_that_waited_for_a_limit_leaves_nothing(ledger: Ledger, is_limited: bool) -> None:
    """Neither who gives a place back nor a janitor stumbles over it, and the present run has its turn."""
    other, play = Play.submit(ledger), Play.submit(ledger)
    held = other.block(1, tracks=[limited(1, "api/b", ONE)])
    holder = other.lane()
    assert numbers(other.serve(held, holder)) == [0]
    waits = play.block(2, tracks=[limited(1, "api/a", ONE, of=[0]), limited(1, "api/b", ONE, of=[1])])
    assert numbers(play.serve(waits, play.lane(), track=1)) == []
    use_again(play)
    present = play.block(1, tracks=[limited(1, "api/b", ONE) if is_limited else track(1)])
    if is_limited:
        assert numbers(play.serve(present, play.lane())) == []

    ledger.tend("api/b", "janitor", workers={OTHERS: Presence(at=0)})
    given_back = other.serve(held, holder, ok(0))

    assert given_back.resumed is not None
    assert [message.track for message in given_back.messages if message.run == play.run] == [0] * is_limited
    assert numbers(play.serve(present, play.lane())) == [0]


def test_messages_say_which_run_they_are_for(ledger: Ledger) -> None:
    """Also those that a transition of another run wants published."""
    other, play = Play.submit(ledger), Play.submit(ledger)
    created = ledger.work(play.run).created
    held = other.block(1, tracks=[limited(1, "api", ONE)])
    holder = other.lane()
    assert numbers(other.serve(held, holder)) == [0]
    waits = play.block(1, tracks=[limited(1, "api", ONE)])
    assert [message.created for message in play.sweep("hint", waits)] == [created]
    assert numbers(play.serve(waits, play.lane())) == []

    (message,) = (message for message in other.serve(held, holder, ok(0)).messages if message.run)
    assert (message.run, message.created) == (play.run, created)

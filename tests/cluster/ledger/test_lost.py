"""Giving back at once what a dead process held: `Ledger.lost`."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from egregore_dist.ledger import Lease, Loss, Message, Overrun, Shortage
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.ledger import ATTEMPTS
from egregore_dist.workflow.limits import Rule
from tests.cluster.ledger.play import QUEUE, Play, bad, limited, numbers, ok, track

KILLED = "its process was killed by SIGKILL"


def lost(branch: int | None = None, why: str = KILLED, node: str = "crunch") -> Loss:
    """A branch that has cost its process."""
    return Loss(verdict="lost", branch=branch, why=why, node=node)


def late(*branches: int, calls: int, most: int) -> Loss:
    """Branches whose nodes were over their timeouts."""
    return Loss(
        verdict="stopped",
        overruns=tuple(
            Overrun(branch=branch, node="crunch", calls=calls, most=most, failure=bad(branch)[0].payload)
            for branch in branches
        ),
    )


def test_the_branch_at_work_is_leased_again(play: Play) -> None:
    """It is first in its queue, with the next attempt; a lane is asked for, and the late one is refused."""
    block, dying, other = play.block(3), play.lane(), play.lane()
    assert numbers(play.serve(block, dying)) == [0]

    assert play.ledger.lost(play.run, block, dying, lost(0)) == [Message("lane", block, 0, QUEUE)]
    assert play.serve(block, other).leases == (Lease(0, 2),)
    assert play.serve(block, dying, ok(0)).late == 1
    (event,) = play.events("branch.lost")
    assert event["why"].decode() == KILLED


def test_only_the_branch_at_work_is_blamed(play: Play) -> None:
    """What the lane held beside it, or had not begun, is leased again as if nothing had been."""
    block, dying = play.block(40, tracks=[track(40, lanes=1)]), play.lane()
    held = numbers(play.serve(block, dying, want=5))
    assert len(held) == 5

    play.ledger.lost(play.run, block, dying, lost(2))
    again = play.serve(block, play.lane(), want=5).leases
    assert {lease.branch for lease in again} <= set(held)
    assert all(lease.attempt == 1 for lease in again if lease.branch != 2)
    assert play.record(block).running == 1


def test_who_has_cost_a_process_is_alone(play: Play) -> None:
    """At once: others shall not die with it a second time."""
    block, dying = play.block(40, tracks=[track(40, width=10, lanes=1)]), play.lane()
    assert len(play.serve(block, dying).leases) == 10

    play.ledger.lost(play.run, block, dying, lost(2))
    lane = play.lane()
    held: list[int] = []
    while 2 not in held:
        held = numbers(play.serve(block, lane, ok(*held)))
    assert held == [2]


def test_where_nobody_is_known_all_are_blamed(play: Play) -> None:
    """A process that died between two branches may have died of any: none is tried for ever."""
    block, dying = play.block(40, tracks=[track(40, lanes=1)]), play.lane()
    held = numbers(play.serve(block, dying, want=3))

    play.ledger.lost(play.run, block, dying, lost())
    assert [lease.attempt for lease in play.serve(block, play.lane()).leases] == [2]
    assert {int(event["branch"]) for event in play.events("branch.lost")} == set(held)


def short_of_memory(branch: int | None = None) -> Loss:
    """A process was killed for want of memory: in a branch's turn, or while none had one."""
    return replace(lost(branch), lacked_memory=True)


def companies(play: Play, block: str) -> list[list[int]]:
    """What lanes execute together until the block ends, where nothing else goes wrong."""
    found = []
    while held := numbers(play.serve(block, lane := play.lane())):
        while held:
            found.append(held)
            served = play.serve(block, lane, ok(*held))
            held = numbers(served) if served.state == "open" else []
    return found


def test_those_that_lacked_memory_are_halved(play: Play) -> None:
    """It is not known who took it: nobody is blamed, and half as many run together, of their track too."""
    block, dying = play.block(40, tracks=[track(40, width=16, lanes=1)]), play.lane()
    together = numbers(play.serve(block, dying))
    assert len(together) == 16

    play.ledger.lost(play.run, block, dying, short_of_memory())
    assert not play.events("branch.lost")
    assert len(play.events("branch.stopped")) == 16
    found = companies(play, block)
    assert [len(company) for company in found] == [8] * 5
    assert {*found[0], *found[1]} == set(together)


def test_one_that_takes_the_memory_is_found(play: Play) -> None:
    """Those that die again are halved again, and their track is not: in the end it is alone, and is blamed."""
    block, greedy = play.block(64, tracks=[track(64, width=32, lanes=1)], on_error="collect"), 5
    sizes, most = [], []
    while held := numbers(play.serve(block, lane := play.lane())):
        while held:
            if greedy in held:
                sizes.append(len(held))
                short = short_of_memory(greedy if len(held) == 1 and len(sizes) % 2 else None)
                play.ledger.lost(play.run, block, lane, short)
                break
            most.append(len(held))
            served = play.serve(block, lane, ok(*held))
            held = numbers(served) if served.state == "open" else []

    assert sizes == [32, 16, 8, 4, 2, 1, 1, 1]
    assert sorted(play.ledger.failures(play.run, block)) == [greedy]
    assert most.count(16) >= 2
    assert sum(most) == 63


def test_whose_turn_it_was_is_taken_to_be_to_blame_once(play: Play) -> None:
    """It runs alone, and the others as before; where it comes to those again, it is their number."""
    block, dying = play.block(64, tracks=[track(64, width=16, lanes=1)]), play.lane()
    first = numbers(play.serve(block, dying))
    play.ledger.lost(play.run, block, dying, short_of_memory(first[3]))
    assert play.record(block).widths == (16,)

    second = play.lane()
    beside = numbers(play.serve(block, second))
    assert set(beside) == {*first[4:]}
    play.ledger.lost(play.run, block, second, short_of_memory(beside[0]))
    assert play.record(block).widths == (6,)
    found = companies(play, block)
    assert [first[3]] in found
    assert [beside[0]] in found
    assert max(map(len, found)) == 6


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("room", [1, 7, 25])
def test_branches_of_which_too_many_run_together(play: Play, room: int, is_known: bool) -> None:
    """All take as much: few processes are killed until as many run as there is memory for, and all end well."""
    block = play.block(300, tracks=[track(300, width=50, lanes=1)], on_error="collect")
    killed = 0
    while held := numbers(play.serve(block, lane := play.lane())):
        while held:
            if len(held) > room:
                killed += 1
                play.ledger.lost(play.run, block, lane, short_of_memory(held[room] if is_known else None))
                break
            served = play.serve(block, lane, ok(*held))
            held = numbers(served) if served.state == "open" else []

    assert play.record(block).state == "ok"
    assert killed < 60 if room == 1 else killed < 20


def test_a_lane_goes_on_with_what_it_has_begun(play: Play) -> None:
    """Where its track becomes narrower meanwhile it counts for all that it runs, and takes no more until those end."""
    block = play.block(40, limit=20, tracks=[track(40, width=16, lanes=2)])
    other, dying = play.lane(), play.lane()
    held = numbers(play.serve(block, other))
    assert len(held) == 16
    assert len(play.serve(block, dying).leases) == 4
    play.ledger.lost(play.run, block, dying, short_of_memory())
    assert play.record(block).widths == (2,)

    while held:
        assert play.record(block).running == len(held)
        branch = held.pop()
        served = play.serve(block, other, ok(branch), held=len(held))
        assert len(served.leases) == (0 if held else 2)


def test_one_that_is_left_of_many_is_to_blame(play: Play) -> None:
    """Nobody had a turn, and only one was there: it goes where there is more memory."""
    block, dying = play.block(1, tracks=[track(1, width=8, lanes=1)]), play.lane()
    assert numbers(play.serve(block, dying)) == [0]

    play.ledger.lost(play.run, block, dying, replace(short_of_memory(), short=SHORT))
    assert play.serve(block, play.lane(), track=1).leases == (Lease(0, 2),)


def test_one_that_was_beside_what_has_ended_is_not_to_blame(play: Play) -> None:
    """The branch at work is not held any more: whoever is left is not taken for it."""
    block, dying = play.block(2, tracks=[track(2, width=2, lanes=1)]), play.lane()
    assert len(play.serve(block, dying).leases) == 2
    play.serve(block, dying, ok(0), held=1)

    play.ledger.lost(play.run, block, dying, short_of_memory(0))
    assert play.serve(block, play.lane()).leases == (Lease(1, 1),)


ROOMY = f"{QUEUE}@learned:1000"
SHORT = Shortage(queue=ROOMY, lanes=2, text="9 GB are reserved")


def test_what_needs_more_memory_goes_where_there_is(play: Play) -> None:
    """It waits on the queue of those that have it, alone, as one of a track of its own; others stay where they are."""
    block, dying = play.block(5, on_error="collect"), play.lane()
    assert numbers(play.serve(block, dying)) == [0]

    asked = play.ledger.lost(play.run, block, dying, replace(lost(0), short=SHORT))
    assert asked == [Message("lane", block, 0, QUEUE), Message("lane", block, 1, ROOMY)]
    assert play.ledger.queues() == [ROOMY]
    assert play.record(block).queues == (QUEUE, ROOMY)
    assert play.serve(block, play.lane(), track=1).leases == (Lease(0, 2),)
    other = play.lane()
    assert numbers(play.serve(block, other)) == [1]
    play.ledger.lost(play.run, block, other, replace(lost(1), short=SHORT))
    assert play.record(block).queues == (QUEUE, ROOMY)
    assert play.serve(block, play.lane(), track=1).leases == (Lease(1, 2),)
    assert play.finish(block).state == "open"


def test_what_fits_nowhere_comes_back_and_ends_with_the_numbers(play: Play) -> None:
    """Each attempt goes where it is told to; the failure begins with the reason, and says what is reserved."""
    block = play.block(2, on_error="collect")
    for number, queue in enumerate([ROOMY, QUEUE, QUEUE]):
        lane = play.lane()
        assert play.serve(block, lane, track=1 if number == 1 else 0).leases[0].branch == 0
        short = Shortage(queue=queue, lanes=1, text="9 GB are reserved")
        play.ledger.lost(play.run, block, lane, replace(lost(0), short=short))

    failure = msgspec.msgpack.decode(play.ledger.failures(play.run, block)[0])
    assert failure["kind"] == "lost"
    assert failure["message"] == f"out of memory: it was lost 3 times: {KILLED}; 9 GB are reserved"
    assert play.record(block).queues == (QUEUE, ROOMY)
    assert play.finish(block).resumed is not None


def test_where_the_large_workers_have_gone_others_are_asked(play: Play) -> None:
    """A janitor asks the workers of the queue itself for a lane, where nobody has that much memory any more."""
    block, dying = play.block(1), play.lane()
    play.serve(block, dying)
    play.ledger.lost(play.run, block, dying, replace(lost(0), short=SHORT))

    play.make_due("hint", block)
    assert play.ledger.sweep(play.run, "hint", block, workers={}) == [Message("lane", block, 1, ROOMY)]
    play.make_due("hint", block)
    play.ledger.redis.hdel(play.ledger.keys.block(play.run, "b", block), "ask_after")
    instead = play.ledger.sweep(play.run, "hint", block, workers={}, instead={ROOMY: QUEUE})
    assert instead == [Message("lane", block, 1, QUEUE)]


def test_a_limit_goes_with_the_branch(play: Play) -> None:
    """A branch of a node with a limit gives back its place, and waits its turn for one where it goes on."""
    rule = Rule(concurrent=1)
    block, dying = play.block(2, tracks=[limited(2, f"{play.run}-l", rule)]), play.lane()
    assert numbers(play.serve(block, dying)) == [0]
    play.ledger.lost(play.run, block, dying, replace(lost(0), short=SHORT))

    other = play.lane()
    assert numbers(play.serve(block, other)) == [1]
    assert play.serve(block, play.lane(), track=1).leases == ()
    assert play.serve(block, other, ok(1)).messages == (Message("lane", block, 1, ROOMY),)
    assert play.serve(block, play.lane(), track=1).leases == (Lease(0, 2),)
    assert play.record(block).limits[1] == play.record(block).limits[0] != ""


def test_it_ends_as_lost(play: Play) -> None:
    """After all its attempts the failure names the node, the number, and each way that its processes ended."""
    block = play.block(2, on_error="collect")
    for why in (KILLED, "its process ended with exit code 3", KILLED):
        lane = play.lane()
        assert play.serve(block, lane).leases[0].branch == 0
        play.ledger.lost(play.run, block, lane, lost(0, why))

    failure = msgspec.msgpack.decode(play.ledger.failures(play.run, block)[0])
    assert (failure["kind"], failure["type"], failure["attempt"]) == ("lost", "WorkerLost", ATTEMPTS)
    assert failure["node"] == "crunch"
    assert failure["message"] == f"it was lost 3 times: {KILLED}; its process ended with exit code 3"
    assert play.record(block).state == "open"
    assert play.finish(block).resumed is not None


def test_it_ends_its_block(play: Play) -> None:
    """Where errors are not collected, the block ends with the lost branch, and with it the run."""
    block = play.block(2)
    for _ in range(ATTEMPTS):
        lane = play.lane()
        play.serve(block, lane)
        play.ledger.lost(play.run, block, lane, lost(0))

    assert (play.record(block).state, play.record(block).failed) == ("error", 0)
    assert play.state == "failed"


def test_a_node_over_its_timeout_is_called_again(play: Play) -> None:
    """The next lease says how often it has been called; it counts as an attempt, and not towards lost."""
    block, dying, other = play.block(3), play.lane(), play.lane()
    play.serve(block, dying)

    assert play.ledger.lost(play.run, block, dying, late(0, calls=2, most=3)) == [Message("lane", block, 0, QUEUE)]
    assert play.serve(block, other).leases == (Lease(0, 3, tried=2, node="crunch"),)
    assert play.events("branch.lost") == []
    (event,) = play.events("branch.stopped")
    assert (event["branch"], event["node"]) == (b"0", b"crunch")


def test_the_last_call_over_its_timeout_is_the_end(play: Play) -> None:
    """When it has been called as often as it may be, the branch fails with what the warden says."""
    block, dying = play.block(1), play.lane()
    play.serve(block, dying)
    play.ledger.lost(play.run, block, dying, late(0, calls=1, most=1))

    assert play.record(block).state == "error"
    assert play.ledger.failures(play.run, block) == {0: bad(0)[0].payload}
    assert play.state == "failed"


def test_each_that_is_over_its_timeout_has_been_called(play: Play) -> None:
    """Of what a lane of many held, those fail, and only the others are leased again, as if nothing had been."""
    block, dying = play.block(6, on_error="collect", tracks=[track(6, width=6, lanes=1)]), play.lane()
    assert len(play.serve(block, dying).leases) == 6

    assert play.ledger.lost(play.run, block, dying, late(0, 2, 3, 5, calls=1, most=1)) == [
        Message("lane", block, 0, QUEUE)
    ]
    assert play.ledger.failures(play.run, block).keys() == {0, 2, 3, 5}
    assert set(play.serve(block, play.lane()).leases) == {Lease(1, 1), Lease(4, 1)}


def test_those_that_are_called_again_are_among_themselves(play: Play) -> None:
    """They run at the same time, and what has not been over a timeout does not run beside them."""
    block, dying = play.block(8, tracks=[track(8, width=8, lanes=1)]), play.lane()
    assert len(play.serve(block, dying).leases) == 8
    play.ledger.lost(play.run, block, dying, late(1, 2, 5, calls=1, most=2))

    first, second = play.lane(), play.lane()
    leases = play.serve(block, first).leases
    assert {lease.branch for lease in leases} == {1, 2, 5}
    assert {lease.attempt for lease in leases} == {2}
    assert play.serve(block, first, held=3).leases == ()
    assert play.serve(block, first, ok(1), held=2).leases == ()
    assert {lease.branch for lease in play.serve(block, second).leases} == {0, 3, 4, 6, 7}


def test_who_is_given_back_too_often_runs_alone(play: Play) -> None:
    """A branch is given back for the timeouts of others a second time, and no more: it is not beside them then."""
    block = play.block(5, on_error="collect", tracks=[track(5, width=5, lanes=1)])
    for branch in range(2):
        dying = play.lane()
        assert len(play.serve(block, dying).leases) == 5 - branch
        play.ledger.lost(play.run, block, dying, late(branch, calls=1, most=1))

    lanes = [play.lane() for _ in range(3)]
    for lane in lanes:
        (lease,) = play.serve(block, lane).leases
        assert lease.attempt == 1
        assert play.serve(block, lane, held=1).leases == ()
    play.ledger.cancel(play.run)
    play.ledger.retry(play.run)
    assert len(play.serve(block, play.lane()).leases) == 5


def test_a_retry_forgets_the_calls(play: Play) -> None:
    """A branch of a run that is retried has all its attempts and calls again."""
    block, dying = play.block(1), play.lane()
    play.serve(block, dying)
    play.ledger.lost(play.run, block, dying, late(0, calls=1, most=2))
    play.ledger.cancel(play.run)
    play.ledger.retry(play.run)

    assert play.serve(block, play.lane()).leases == (Lease(0, 1),)


def test_a_second_call_changes_nothing(play: Play) -> None:
    """What was given back is not given back again, whoever has it by now."""
    block, dying, other = play.block(3), play.lane(), play.lane()
    play.serve(block, dying)
    play.ledger.lost(play.run, block, dying, lost(0))
    play.serve(block, other)

    assert play.ledger.lost(play.run, block, dying, lost(0)) == []
    assert play.ledger.running(play.run, block) == [0]
    assert play.record(block).running == 1


@pytest.mark.parametrize("after", ["end", "retry"])
def test_a_block_that_has_ended_is_left_alone(play: Play, after: str) -> None:
    """Nothing is leased again in a block that has ended, nor is what a retry has given to others taken away."""
    block, dying = play.block(2), play.lane()
    play.serve(block, dying)
    play.ledger.cancel(play.run)
    if after == "retry":
        play.ledger.retry(play.run)
        held = play.serve(block, play.lane())
        assert held.leases

    assert play.ledger.lost(play.run, block, dying, lost(0)) == []
    assert play.events("branch.lost") == []


def test_a_process_that_died_on_its_way_up(play: Play) -> None:
    """The commit that ended a block leased the parent's branch to a lane that never heard of it: it is given back."""
    block, dying = play.block(1), play.lane()
    play.serve(block, dying)
    assert play.serve(block, dying, ok(0)).resumed is not None

    assert play.ledger.lost(play.run, block, dying, lost(0)) == [Message("lane", ROOT, 0, QUEUE)]
    assert play.serve(ROOT, play.lane()).leases == (Lease(0, 1, block),)


def test_a_process_that_died_on_its_way_down(play: Play) -> None:
    """A lane opened a block, was leased branches of it, and never heard of it: they are given back."""
    dying = play.lane()
    assert numbers(play.serve(ROOT, dying)) == [0]
    block = play.nest(ROOT, 0, dying, 3)
    assert play.serve(block, dying).leases

    assert play.ledger.lost(play.run, ROOT, dying, Loss(verdict="lost", why=KILLED)) == [
        Message("lane", block, 0, QUEUE)
    ]
    assert play.serve(block, play.lane()).leases == (Lease(0, 1),)


# How long stopping takes


@pytest.mark.parametrize("how", ["comes back", "dies"])
def test_the_last_lane_of_an_ended_block(play: Play, how: str) -> None:
    """A block that has ended has stopped when the last of its lanes, and of those inside it, has come back or died."""
    outer = play.block(3, timeout=60.0)
    first, second = play.lane(), play.lane()
    play.serve(outer, first)
    play.serve(outer, second)
    inner = play.nest(outer, 1, second, 2)
    play.serve(inner, second)
    play.sweep("deadline", outer)
    assert play.ledger.stopped(play.run, outer) is None

    play.serve(outer, first, ok(0))
    assert play.ledger.stopped(play.run, outer) is None
    if how == "comes back":
        play.serve(inner, second)
    else:
        play.ledger.lost(play.run, inner, second, Loss(verdict="stopped"))

    stopped, record = play.ledger.stopped(play.run, outer), play.record(outer)
    assert stopped is not None
    assert record.ended is not None
    assert stopped >= record.ended


def test_who_is_stuck_inside_may_end_what_is_around_it(play: Play) -> None:
    """A nested block ends with the first deadline around it: who sees that one pass knows of the inner block alone."""
    outer, lane = play.block(1, timeout=60.0), play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 2)
    play.sweep("deadline", inner, due=False)
    assert play.record(outer).state == "open"

    play.make_due("deadline", outer)
    play.sweep("deadline", inner, due=False)
    assert play.record(outer).state == "timeout"


def test_a_lane_of_many_says_when_it_has_ended_them(play: Play) -> None:
    """One that still holds branches as it hears of the end has not stopped; it says so once it has."""
    block = play.block(4, timeout=60.0, tracks=[track(4, width=4, lanes=1)])
    lane = play.lane()
    assert len(play.serve(block, lane).leases) == 4
    play.sweep("deadline", block)

    assert play.serve(block, lane, held=4).state == "timeout"
    assert play.ledger.stopped(play.run, block) is None
    play.serve(block, lane)
    assert play.ledger.stopped(play.run, block) is not None

"""The server did it, but the lane saw a time-out and asks again with the same words; or the answer came late."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import WORKER, Play, bad, numbers, ok, track


def test_a_commit_that_was_taken_counts_once(play: Play) -> None:
    """The lane learns what it was leased the first time, and nothing is leased twice."""
    block, lane = play.block(3), play.lane()
    play.serve(block, lane)
    lost = play.serve(block, lane, ok(0))
    again = play.serve(block, lane, ok(0))

    assert numbers(lost) == numbers(again) == [1]
    assert again.resync
    assert play.record(block).done == 1
    assert play.ledger.running(play.run, block) == [1]


def test_a_batch_is_recovered_whole(play: Play) -> None:
    """All that the lane holds is told again, with attempts."""
    block, lane = play.block(64), play.lane()
    lost = play.serve(block, lane, want=8)
    again = play.serve(block, lane, want=8)

    assert set(again.leases) == set(lost.leases)
    assert len(again.leases) == 8
    assert play.record(block).running == 1


def test_a_wide_lane_recovers_what_it_was_given(play: Play) -> None:
    """A lane of many is told all that it holds, old and new."""
    block, lane = play.block(9, tracks=[track(9, width=3, lanes=1)]), play.lane()
    play.serve(block, lane)
    play.serve(block, lane, ok(1), held=2)
    again = play.serve(block, lane, ok(1), held=2)

    assert again.resync
    assert sorted(numbers(again)) == [0, 2, 3]
    assert play.record(block).done == 1


def test_a_first_lease_is_recovered(play: Play) -> None:
    """A lane that comes again to a block after a time-out has what it was leased."""
    token = play.lane()
    play.ledger.enter(play.run, ROOT, 0, token, work=True)
    again = play.ledger.enter(play.run, ROOT, 0, token, work=True)

    assert again is not None
    assert numbers(again.served) == [0]


def test_branches_given_back_twice_are_not_doubled(play: Play) -> None:
    """Whatever was leased in between, each branch is in one place."""
    block, lane = play.block(64, tracks=[track(64, lanes=2)]), play.lane()
    held = numbers(play.serve(block, lane, want=4))
    for _ in range(2):
        served = play.serve(block, lane, ok(held[0]), want=2, releases=held[1:])
    rest = numbers(served)
    other = play.lane()
    leased = play.serve(block, other, want=1000)
    while leased.leases:
        rest += numbers(leased)
        leased = play.serve(block, other, ok(*numbers(leased)), want=1000)

    assert sorted([held[0], *rest]) == list(range(64))


def test_a_failure_that_was_taken_is_told_again(play: Play) -> None:
    """The lane learns that the block has ended."""
    block, lane = play.block(3), play.lane()
    play.serve(block, lane)
    first = play.serve(block, lane, bad(0))
    again = play.serve(block, lane, bad(0))

    assert (first.state, again.state) == ("error", "error")
    assert play.ends() == 1


def test_what_a_sweep_took_away_is_not_believed_to_be_held(play: Play) -> None:
    """A lane of a worker that was thought dead learns that it holds nothing."""
    block, lane = play.block(9, tracks=[track(9, width=3, lanes=1)]), play.lane("gone@there")
    play.serve(block, lane)
    play.sweep("hint", block)
    served = play.serve(block, lane, ok(0), held=2)

    assert (served.late, served.resync, served.leases) == (1, True, ())
    assert play.record(block).running == 0


@pytest.fixture
def meanwhile(play: Play, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let the next answer of a transition be five seconds late, and something happen before it comes."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=time.sleep)
    monkeypatch.setattr("egregore_dist.ledger.ledger.time", clock)
    transition, waiting = play.ledger._transition, list[Callable[[], object]]()

    def late(*args: Any) -> Any:
        answer = transition(*args)
        if waiting:
            happens = waiting.pop()
            happens()
            clock.now += 5.0
        return answer

    monkeypatch.setattr(play.ledger, "_transition", late)
    return waiting.append


def test_what_a_late_answer_leases_may_be_gone(play: Play, meanwhile: Callable[[Callable[[], object]], None]) -> None:
    """What was taken back before the answer came is not begun."""
    block, lane, other = play.block(2), play.lane("slow@there"), play.lane()
    meanwhile(lambda: (play.sweep("hint", block, alive=[WORKER]), play.serve(block, other)))
    late = play.serve(block, lane)

    assert (late.state, late.leases) == ("open", ())
    assert play.ledger.running(play.run, block) == [0]


def test_a_late_answer_may_still_be_true(play: Play, meanwhile: Callable[[Callable[[], object]], None]) -> None:
    """A lane that still holds what it was leased begins it."""
    block, lane = play.block(2), play.lane()
    meanwhile(lambda: None)

    assert numbers(play.serve(block, lane)) == [0]


def test_a_block_that_ended_before_a_late_answer(play: Play, meanwhile: Callable[[Callable[[], object]], None]) -> None:
    """Nothing of it is begun."""
    block, lane = play.block(2), play.lane()
    meanwhile(lambda: play.ledger.cancel(play.run))
    late = play.serve(block, lane)

    assert (late.state, late.leases) == ("cancelled", ())


def test_a_parent_that_was_taken_back_before_a_late_answer(
    play: Play, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """The lane that completed a block does not go on after it where its lease of the parent's branch is gone."""
    lane = play.lane("slow@there")
    play.serve(ROOT, lane)
    block = play.nest(ROOT, 0, lane, 1)
    play.serve(block, lane)
    meanwhile(lambda: play.sweep("hint", ROOT, alive=[WORKER]))

    assert play.serve(block, lane, ok(0)).resumed is None

"""When what ran where, as the events tell it."""

from __future__ import annotations

import tracemalloc

import pytest

from egregore_dist.client.events import FailedCall, Spent
from egregore_dist.client.timeline import Timeline
from egregore_dist.ledger import RunRecord
from tests.support import glances
from tests.unit.client.stories import STORY, event, timeline


def test_attempts_are_told_from_events() -> None:
    """Each lease is an attempt: when it began, when and how it ended, and where."""
    found = timeline(*STORY).attempts

    assert [(a.start, a.end, a.how, a.worker) for a in found["0.0-1", 0]] == [(103.0, 108.0, "error", "w1")]
    assert [(a.start, a.end, a.how, a.worker) for a in found["0.0-1", 1]] == [
        (103.0, 104.0, "lost", "w1"),
        (106.0, 107.0, "ok", "w2"),
    ]
    assert ("0.0-1", 2) not in found


def test_what_ran_when_its_block_ended_ended_with_it() -> None:
    """A branch without an end of its own ends with its block, and as that did."""
    found = timeline(*STORY[:5], event(110.0, "block.ended", "0.0-1", state="timeout")).attempts

    assert [(a.end, a.how) for a in found["0.0-1", 0]] == [(110.0, "timeout")]


def test_a_branch_that_was_given_back_did_not_run() -> None:
    """Leased again without an end in between: the lane had not begun it."""
    found = timeline(*STORY[:5], event(105.0, "branches.started", "0.0-1", branches=(0,), worker="w2")).attempts

    assert [(a.start, a.worker) for a in found["0.0-1", 0]] == [(105.0, "w2")]


def test_a_branch_that_was_stopped_did_run() -> None:
    """Each call that was over its node's timeout is an attempt; the last one has failed with that."""
    again = event(106.0, "branches.started", "0.0-1", branches=(0,), worker="w2")
    stopped = [event(at, "branch.stopped", "0.0-1", branches=(0,)) for at in (105.0, 108.0)]
    failed = event(108.0, "branches.ended", "0.0-1", failed=(0,))
    found = timeline(*STORY[:5], stopped[0], again, stopped[1], failed).attempts

    assert [(a.start, a.end, a.how) for a in found["0.0-1", 0]] == [(103.0, 105.0, "stopped"), (106.0, 108.0, "error")]


def test_a_stream_without_its_beginning_says_so() -> None:
    """What is missing is told, not guessed."""
    assert timeline(*STORY[2:]).partial
    assert not timeline(*STORY).partial


def test_what_is_remembered_of_a_run_is_bounded() -> None:
    """A run of a million branches does not fill the monitor's memory."""
    made = timeline(*STORY[:4])
    for start in range(0, 100_000, 1000):
        made.add(event(103.0, "branches.started", "0.0-1", branches=tuple(range(start, start + 1000)), worker="w"))

    assert len(made.attempts) < 25_000
    assert made.partial


def test_what_is_remembered_of_nested_blocks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that opens ever more blocks does not fill the monitor's memory either."""
    monkeypatch.setattr("egregore_dist.client.timeline._ATTEMPTS_KEPT", 200)
    monkeypatch.setattr("egregore_dist.client.timeline._BLOCKS_KEPT", 200)
    made, taken = timeline(*STORY[:4]), []
    tracemalloc.start()
    try:
        for number in range(3000):
            id = f"0.0-1.{number}-0"
            made.add(event(103.0, "branches.started", "0.0-1", branches=(number,), worker="w"))
            made.add(event(104.0, "block.opened", id, name="inner", n="1"))
            made.add(event(104.0, "branches.started", id, branches=(0,), worker="w"))
            made.add(event(105.0, "block.ended", id, state="ok"))
            made.add(event(106.0, "branches.ended", "0.0-1", branches=(number,), worker="w"))
            if number % 1000 == 999:
                taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert taken[2] < 1.1 * taken[0]
    assert made.partial


def test_the_last_attempt_of_a_branch_is_remembered() -> None:
    """A branch that was remembered before there were too many is told by its last attempt, not by a former one."""
    made = timeline(*STORY[:6])
    for start in range(0, 100_000, 1000):
        made.add(event(105.0, "branches.started", "0.0-1", branches=tuple(range(start + 9, start + 1009)), worker="w"))
    made.add(event(106.0, "branches.started", "0.0-1", branches=(1,), worker="w2", attempts={1: 2}))
    made.add(event(107.0, "branches.ended", "0.0-1", branches=(1,), worker="w2", attempts={1: 2}))

    assert [(a.start, a.end, a.how, a.number) for a in made.attempts["0.0-1", 1]] == [(106.0, 107.0, "ok", 2)]
    assert made.blocks["0.0-1"].partial


def test_no_critical_branch_where_some_are_not_known() -> None:
    """Of a block whose attempts are not all known, nobody knows which one ended last."""
    made = timeline(*STORY[:5])
    made.miss()
    made.add(event(107.0, "branches.ended", "0.0-1", branches=(0,), worker="w1"))

    assert made.critical(110.0) == {"0.0-1"}


def test_what_was_seen_to_go_on_was_begun_before() -> None:
    """A branch whose beginning is missing, and that goes on after its block, is not taken to begin there."""
    made = timeline(
        event(105.0, "block.opened", "0.0-1.0-0", name="inner", n=1),
        event(106.0, "block.ended", "0.0-1.0-0", state="ok"),
        event(106.0, "branches.started", "0.0-1", branches=(0,), worker="w2"),
        event(107.0, "branches.ended", "0.0-1", branches=(0,), worker="w2"),
    )
    record = RunRecord(id="r", state="running", workflow="flow", created=100.0, started=101.0, ended=None)

    made.learn(record, [glances.block((1,), n=3, opened=102_000)])

    assert made.attempts["0.0-1", 0][0].cut is not None
    assert made.known("0.0-1") == (0, 3)


def test_the_critical_path() -> None:
    """The end waited for the branch that ended last, and for the block inside that branch."""
    made = timeline(
        *STORY[:5],
        event(104.0, "block.opened", "0.0-1.0-0", name="inner", n=1),
        event(105.0, "branches.started", "0.0-1.0-0", branches=(0,), worker="w"),
        event(106.0, "branches.ended", "0.0-1", branches=(1,), worker="w"),
        event(107.0, "branches.ended", "0.0-1.0-0", branches=(0,), worker="w"),
        event(108.0, "branches.ended", "0.0-1", branches=(0,), worker="w"),
    )

    assert made.critical(110.0) == {"0.0-1", ("0.0-1", 0), "0.0-1.0-0", ("0.0-1.0-0", 0)}


def test_a_branch_goes_on_after_its_block() -> None:
    """Leased again after the block that it has met, it is the same attempt."""
    found = timeline(
        *STORY[:5],
        event(104.0, "block.opened", "0.0-1.0-0", name="inner", n=1),
        event(105.0, "block.ended", "0.0-1.0-0", state="ok"),
        event(106.0, "branches.started", "0.0-1", branches=(0,), worker="w2"),
        event(107.0, "branches.ended", "0.0-1", branches=(0,), worker="w2"),
    ).attempts

    assert [(a.start, a.end, a.how, a.worker) for a in found["0.0-1", 0]] == [(103.0, 107.0, "ok", "w1")]


def test_a_retry_opens_blocks_again() -> None:
    """The branch that waits for a block that a retry opens again runs again, and the whole run is no block."""
    made = timeline(
        *STORY,
        event(120.0, "run.retried"),
        event(120.0, "block.opened", "0.0-1", name="fetch", n=3),
        event(120.0, "block.opened", "0", name="flow", n=1),
        event(121.0, "branches.started", "0.0-1", branches=(0,), worker="w2"),
        event(122.0, "branches.ended", "0.0-1", branches=(0,), worker="w2"),
        event(122.0, "block.ended", "0.0-1", state="ok"),
        event(123.0, "branches.ended", "0", branches=(0,), worker="w2"),
    )

    assert made.retried == [120.0]
    assert list(made.blocks) == ["0.0-1"]
    assert [(a.start, a.end, a.how) for a in made.attempts["0.0-1", 0]] == [
        (103.0, 108.0, "error"),
        (121.0, 122.0, "ok"),
    ]
    assert made.attempts["0", 0][-1].how == "ok"


def test_an_attempt_knows_its_number_and_what_it_took() -> None:
    """Which attempt it was, and, once it has ended, its size and what was measured."""
    again = event(106.0, "branches.started", "0.0-1", branches=(1,), worker="w2", attempts={1: 2})
    spent = Spent(cpu=0.5, memory=10)
    ended = event(107.0, "branches.ended", "0.0-1", branches=(1,), attempts={1: 4}, sizes={1: 99}, spent={1: spent})
    running = timeline(*STORY[:6], again).attempts["0.0-1", 1]
    found = timeline(*STORY[:6], again, ended).attempts["0.0-1", 1]

    assert [(a.number, a.size, a.spent) for a in running] == [(1, None, None), (2, None, None)]
    assert [(a.number, a.size, a.spent) for a in found] == [(1, None, None), (4, 99, spent)]


def ended(*, since: float, took: dict[int, float], failed: tuple[int, ...] = ()) -> list[tuple[float, float]]:
    """When branches ran that were leased together then, and committed together at 107."""
    branches = tuple(branch for branch in took if branch not in failed)
    found = timeline(
        *STORY[:4],
        event(since, "branches.started", "0.0-1", branches=tuple(took), worker="w"),
        event(107.0, "branches.ended", "0.0-1", branches=branches, failed=failed, took=took),
    ).attempts
    return [(found["0.0-1", branch][-1].start, found["0.0-1", branch][-1].end or 0.0) for branch in took]


def test_a_lane_executes_what_it_has_leased_one_after_the_other() -> None:
    """Each branch of a lease has its own time, the last one up to the commit."""
    assert ended(since=103.0, took={0: 1.0, 1: 2.0, 2: 0.5}, failed=(2,)) == [
        (103.5, 104.5),
        (104.5, 106.5),
        (106.5, 107.0),
    ]
    # Instants are whole milliseconds.
    times = ended(since=106.998, took={0: 0.0015, 1: 0.001})
    assert [time for each in times for time in each] == pytest.approx([106.9975, 106.999, 106.999, 107.0], abs=1e-6)


def test_a_lane_of_many_executes_them_at_the_same_time() -> None:
    """Where their times are more than the lease, they ran side by side."""
    assert ended(since=103.0, took={0: 3.0, 1: 3.5}) == [(104.0, 107.0), (103.5, 107.0)]


def test_a_branch_alone_ran_for_as_long_as_it_says() -> None:
    """The way of its commit is not its time; and one whose time is not known has that of its lease."""
    assert ended(since=103.0, took={1: 3.75}) == [(103.25, 107.0)]
    found = timeline(*STORY[:4], event(103.0, "branches.started", "0.0-1", branches=(0, 1), worker="w"))
    found.add(event(107.0, "branches.ended", "0.0-1", branches=(0, 1), took={1: 3.0}))
    assert [(a[-1].start, a[-1].end) for a in (found.attempts["0.0-1", 0], found.attempts["0.0-1", 1])] == [
        (103.0, 107.0),
        (104.0, 107.0),
    ]


CALLS = (
    FailedCall(node="b", ago=3.0, took=1.0, waited=0.5),
    FailedCall(node="b", ago=2.0, took=0.5, waited=1.0),
)


def parts(made: Timeline, place: tuple[str, int]) -> list[tuple[float, float | None, str, int, str, str]]:
    """What is told of a branch's attempts."""
    return [(a.start, a.end, a.how, a.number, a.node, a.at) for a in made.attempts[place]]


def test_calls_that_failed_are_attempts_of_their_own() -> None:
    """Each ends when it failed, and the next begins when it was made; the last one has what was measured."""
    spent = Spent(cpu=0.5, memory=10)
    more = {"attempts": {1: 3}, "calls": {1: CALLS}, "took": {1: 5.0}, "spent": {1: spent}}
    made = timeline(*STORY[:5], event(108.0, "branches.ended", "0.0-1", branches=(1,), worker="w1", **more))

    assert parts(made, ("0.0-1", 1)) == [
        (103.0, 105.0, "error", 1, "b", ""),
        (105.5, 106.0, "error", 2, "b", "b"),
        (107.0, 108.0, "ok", 3, "", "b"),
    ]
    assert [a.spent for a in made.attempts["0.0-1", 1]] == [None, None, spent]
    assert made.known("0.0-1") == (2, 3)


def test_calls_that_failed_before_a_block() -> None:
    """They are told as the block is opened, of the branch that met it, which goes on behind them."""
    opened = event(107.0, "block.opened", "0.0-1.1-2", name="inner", n=1, calls={1: CALLS})
    made = timeline(*STORY[:5], opened)

    assert parts(made, ("0.0-1", 1)) == [
        (103.0, 104.0, "error", 1, "b", ""),
        (104.5, 105.0, "error", 2, "b", "b"),
        (106.0, None, "running", 3, "", "b"),
    ]
    assert made.attempts["0.0-1", 1][-1].met == "0.0-1.1-2"


def test_more_calls_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left out, and the timeline says that it is not whole."""
    monkeypatch.setattr("egregore_dist.client.timeline._ATTEMPTS_KEPT", 4)
    made = timeline(*STORY[:5], event(108.0, "branches.ended", "0.0-1", branches=(1,), calls={1: CALLS}))

    assert [how for _, _, how, *_ in parts(made, ("0.0-1", 1))] == ["ok"]
    assert made.lacks("0.0-1")


def test_what_failed_is_what_the_end_waited_for() -> None:
    """Its siblings, which are stopped for it in the same instant, are not."""
    made = timeline(
        *STORY[:5],
        event(108.0, "branches.ended", "0.0-1", failed=(1,), worker="w1"),
        event(108.0, "block.ended", "0.0-1", state="error"),
    )

    assert made.critical(108.0) == {"0.0-1", ("0.0-1", 1)}

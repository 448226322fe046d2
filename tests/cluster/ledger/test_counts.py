"""What the transitions count of runs, blocks and branches."""

from __future__ import annotations

import re
import uuid
from importlib import resources

from egregore_dist.ledger import SINCE_BLOCK, Aside, Commit, Ledger, Loss, Work, counts
from egregore_dist.ledger.counts import BOUNDS, OTHER, Counts
from egregore_dist.ledger.keys import ROOT
from egregore_dist.workflow.limits import Rule
from tests.cluster.ledger.play import QUEUE, Play, bad, limited, numbers, ok
from tests.support.waiting import let_pass


def of(ledger: Ledger, series: str = "flow") -> Counts:
    """What was counted of a series."""
    return counts.read(ledger)[0].get(series, Counts())


def timed(*commits: tuple[int, float, float]) -> list[Commit]:
    """Commits of branches with how long they were executed and had waited, in seconds."""
    return [Commit(branch, "ok", b"v", (int(took * 1e6), int(waited * 1e6))) for branch, took, waited in commits]


def end(play: Play, block: str) -> None:
    """Serve a block, and the run after it, to the end."""
    token = play.lane()
    served = play.serve(block, token)
    while served.leases:
        served = play.serve(block, token, ok(*numbers(served)))
    play.serve(ROOT, token, ok(0))
    assert play.state == "succeeded"


def test_bounds_are_those_of_the_transitions() -> None:
    """Python reads the buckets that Lua writes."""
    text = (resources.files("egregore_dist.ledger") / "lua" / "_counts.lua").read_text("utf-8")
    found = re.search(r"BOUNDS = \{ (.*?) \}", text)

    assert found is not None
    assert [int(bound) / 1000 for bound in found[1].split(", ")] == list(BOUNDS)


def test_a_run_is_counted_when_it_ends(play: Play) -> None:
    """Its submission, its wait, and its duration by state; the block and its branches."""
    end(play, play.block(2))
    found = of(play.ledger)

    assert found.numbers == {"submitted": 1, "branches:ok": 2}
    assert {what: took.count for what, took in found.durations.items()} == {"wait": 1, "block": 1, "run:succeeded": 1}


def test_branches_are_counted_with_their_times(play: Play) -> None:
    """Each committed branch is in the bucket of its duration and of its wait, once; sums are exact."""
    block, lane = play.block(9), play.lane()
    held = numbers(play.serve(block, lane, want=3))
    assert len(held) == 3
    play.serve(block, lane, timed((0, 0.0002, 0.02), (1, 0.003, 0.02), (2, 90.0, 5000.0)))
    late = play.serve(block, lane, timed((1, 1.0, 1.0)), held=1)
    found = of(play.ledger).durations

    assert late.late == 1
    assert found["branch:ok"].count == 3
    assert found["branch:ok"].sum == 90.0032
    assert found["branch:ok"].up_to[:3] == (1, 2, 2)
    assert found["queue"].count == 3
    assert found["queue"].up_to[BOUNDS.index(0.05)] == 2
    assert found["queue"].up_to[BOUNDS.index(3600)] == 2
    assert of(play.ledger).numbers["late"] == 1


def test_a_clock_that_was_set_back_makes_no_time_of_less_than_nothing(play: Play) -> None:
    """What cannot be is counted as nothing."""
    block, lane = play.block(2), play.lane()
    play.serve(block, lane)
    play.serve(block, lane, [Commit(0, "ok", b"v", (5, -7))])

    assert of(play.ledger).durations["queue"].sum == 0


def test_a_branch_with_a_block_took_as_long_as_both(play: Play) -> None:
    """A branch that met a block is counted from when it was begun first, whoever goes on with it."""
    outer, lane = play.block(1), play.lane()
    assert numbers(play.serve(outer, lane)) == [0]
    inner = play.nest(outer, 0, lane, 1)
    other = play.lane()
    play.serve(inner, other)
    let_pass(0.06)
    served = play.serve(inner, other, ok(0))
    assert served.resumed is not None
    play.serve(outer, other, [Commit(0, "ok", b"v", (-1, -1))])
    found = of(play.ledger).durations["branch:ok"]

    assert found.count == 1
    assert 0.05 <= found.sum < 5


def test_a_branch_that_is_tried_again_has_not_ended(play: Play) -> None:
    """One more call of a node with a limit is counted as that; its branch ends once, with the times of the last one."""
    block = play.block(2, on_error="collect", tracks=[limited(2, "a-limit", Rule(concurrent=1))])
    lane = play.lane()
    assert numbers(play.serve(block, lane)) == [0]
    for call in (1, 2):
        play.serve(block, lane, [Commit(0, "again", f"{call} node".encode())])
    assert of(play.ledger).numbers == {"submitted": 1, "again": 2}
    assert "queue" not in of(play.ledger).durations

    play.serve(block, lane, timed((0, 0.5, 3.0)))
    play.serve(block, lane, [Commit(1, "error", b"", (1000, 7_000_000))])
    found = of(play.ledger)
    assert found.numbers == {"submitted": 1, "again": 2}
    assert [found.durations[f"branch:{outcome}"].sum for outcome in ("ok", "error")] == [0.5, 0.001]
    assert (found.durations["queue"].count, found.durations["queue"].sum) == (2, 10.0)


def test_a_branch_that_begins_with_a_limited_node_and_meets_a_block(play: Play) -> None:
    """It is counted once, from when it was begun the last time; what it gave its place to is counted by itself."""
    outer = play.block(1, tracks=[limited(1, "a-limit", Rule(concurrent=1))])
    lane = play.lane()
    assert numbers(play.serve(outer, lane)) == [0]
    assert numbers(play.serve(outer, lane, [Commit(0, "again", b"1 node")])) == [0]
    inner = play.nest(outer, 0, lane, 1)
    other = play.lane()
    play.serve(inner, other)
    served = play.serve(inner, other, timed((0, 0.25, 0.0)))
    assert served.resumed is not None
    play.serve(outer, other, [Commit(0, "ok", b"v", SINCE_BLOCK)])
    found = of(play.ledger)

    assert found.numbers == {"submitted": 1, "again": 1}
    assert found.durations["branch:ok"].count == 2
    assert 0.25 <= found.durations["branch:ok"].sum < 5
    assert found.durations["block"].count == 2


def test_branches_that_were_not_committed(play: Play) -> None:
    """What a cancelled or late block leaves undone, and what a dead lane has cost, is counted by its outcome."""
    block, lane = play.block(5), play.lane()
    play.serve(block, lane)
    play.serve(block, lane, bad(0))
    assert of(play.ledger).numbers == {"submitted": 1, "branches:error": 1, "branches:cancelled": 4}
    assert of(play.ledger).durations["run:failed"].count == 1

    late = Play.submit(play.ledger)
    block = late.block(3, timeout=60.0)
    late.sweep("deadline", block)
    assert of(play.ledger).numbers["branches:timeout"] == 3
    assert counts.read(play.ledger)[1].numbers["deadlines"] == 1

    lost = Play.submit(play.ledger)
    block = lost.block(1)
    for _ in range(3):
        lane = lost.lane()
        lost.serve(block, lane)
        lost.ledger.lost(lost.run, block, lane, Loss(verdict="lost", branch=0, why="died"))
    assert of(play.ledger).numbers["branches:lost"] == 1
    assert of(play.ledger).numbers["lost"] == 3


def test_nested_blocks_that_fail(play: Play) -> None:
    """A branch whose block fails is an error, once, and the run itself is no branch."""
    outer, lane = play.block(2, on_error="collect"), play.lane()
    play.serve(outer, lane)
    inner = play.nest(outer, 0, lane, 1)
    lane = play.lane()
    play.serve(inner, lane)
    play.serve(inner, lane, bad(0))

    assert of(play.ledger).numbers["branches:error"] == 2
    play.ledger.cancel(play.run)
    assert of(play.ledger).numbers["branches:cancelled"] == 1
    assert of(play.ledger).durations["run:cancelled"].count == 1
    assert of(play.ledger).durations["block"].count == 2


def test_what_one_call_cannot_end_is_counted_all_the_same(play: Play) -> None:
    """Of a run with more blocks than are closed at once each one is counted, and the run once."""
    outer, lane = play.block(1200), play.lane()
    served = play.serve(outer, lane)
    while served.leases:
        play.nest(outer, served.leases[0].branch, lane, 2)
        served = play.serve(outer, lane)
    play.ledger.cancel(play.run)

    found = of(play.ledger)
    assert found.numbers == {"submitted": 1, "branches:cancelled": 1200 + 2 * 1200}
    assert found.durations["block"].count == 1 + 1200
    assert found.durations["run:cancelled"].count == 1


def test_a_retry_counts_from_when_it_was_asked_for(play: Play) -> None:
    """The time between the failure and the retry belongs to no run, block or branch."""
    block, lane = play.block(1), play.lane()
    play.serve(block, lane)
    play.serve(block, lane, bad(0))
    long_ago = int(play.now()) - 1_000_000
    play.ledger.redis.hset(play.ledger.keys.run(play.run), "started", long_ago)
    play.ledger.redis.hset(play.ledger.keys.block(play.run, "b", block), "opened", long_ago)
    play.ledger.retry(play.run)
    end(play, block)
    found = of(play.ledger)

    assert found.numbers["retried"] == 1
    assert found.durations["run:succeeded"].sum < 500
    assert found.durations["block"].count == 2
    assert found.durations["block"].sum < 500
    assert play.record(block).ready > play.record(block).opened


def test_series_are_bounded(ledger: Ledger) -> None:
    """Of very many workflows those that came first have series; the rest is counted as other, until one is old."""

    def submit(workflow: str) -> None:
        ledger.submit(uuid.uuid4().hex, Work(workflow, b"spec", b"functions"), code={}, input=b"in", queue=QUEUE)

    for number in range(60):
        submit(f"flow-{number}")
    submit("flow-7")
    series, _ = counts.read(ledger)
    assert len(series) == 51
    assert series[OTHER].numbers == {"submitted": 10}
    assert series["flow-7"].numbers == {"submitted": 2}

    ledger.redis.zadd(ledger.keys.counts, {"flow-3": 1})
    submit("flow-59")
    series, _ = counts.read(ledger)
    assert len(series) == 51
    assert series["flow-59"].numbers == {"submitted": 1}
    assert not ledger.redis.exists(ledger.keys.counts_of("flow-3"))


def test_what_janitors_do_is_counted(play: Play) -> None:
    """Lanes that are gone, messages that are asked for again, entries that cannot be dealt with, messages set aside."""
    block, lane = play.block(3), play.lane("gone@there")
    play.serve(block, lane)
    play.sweep("hint", block)
    play.ledger.put_off(play.run, "hint", block, 60.0)
    play.ledger.set_aside([Aside(reason="no", worker="w"), Aside(reason="no", worker="w")])
    _, cluster = counts.read(play.ledger)

    assert cluster.numbers["lanes"] == 1
    assert cluster.numbers["messages"] >= 1
    assert cluster.numbers["failed"] == 1
    assert cluster.numbers["aside"] == 2


def test_deleting_a_run_leaves_what_was_counted(play: Play) -> None:
    """Counters never go down."""
    play.finish()
    before = of(play.ledger)
    play.ledger.delete(play.run)

    assert of(play.ledger) == before
    assert not play.ledger.exists(play.run)
    assert before.durations["run:succeeded"].count == 1


def test_the_whole_run_is_no_branch(play: Play) -> None:
    """A run without blocks counts no branch."""
    play.serve(ROOT, lane := play.lane())
    play.serve(ROOT, lane, timed((0, 1.0, 1.0)))

    assert "branch:ok" not in of(play.ledger).durations

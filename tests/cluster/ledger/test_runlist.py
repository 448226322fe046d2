"""Looking through the list of runs."""

from __future__ import annotations

import random

import pytest

from egregore_dist.ledger import Ledger, openblocks, runlist, waits
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.runlist import Glance, Listed, Wanted
from tests.cluster.ledger.play import Play, bad, ok

STATES = ("pending", "running", "succeeded", "failed", "cancelled")


GOING_ON = ("pending", "running")


def write(ledger: Ledger, count: int, *, seed: int = 1) -> list[tuple[int, str, str, str]]:
    """Many runs, some in the same millisecond: when, id, state and workflow of each, newest first."""
    chance = random.Random(seed)
    runs = []
    pipe = ledger.redis.pipeline(transaction=False)
    for number in range(count):
        at, state, workflow = 1_000_000 + number // 3, chance.choice(STATES), f"flow-{number % 4}"
        id = f"Order-{number}"
        runs.append((at, id, state, workflow))
        pipe.hset(ledger.keys.run(id), mapping={"state": state, "workflow": workflow, "created": at})
        pipe.zadd(ledger.keys.runs, {id: at})
        if state in GOING_ON:
            pipe.zadd(ledger.keys.agenda, {f"{id} hint 0": at, f"{id} hint 0.0-0": at})
    pipe.execute()
    return sorted(runs, reverse=True)


def pages(ledger: Ledger, wanted: Wanted, *, limit: int, **options: int) -> list[list[str]]:
    """The ids of all pages."""
    found = []
    while True:
        page = runlist.find(ledger, wanted, limit=limit, seconds=60, **options)
        found.append([glance.record.id for glance in page.runs])
        if page.next is None:
            return found
        wanted = Wanted(
            states=wanted.states,
            workflow=wanted.workflow,
            text=wanted.text,
            since=wanted.since,
            until=wanted.until,
            before=page.next,
        )


def test_pages_hold_every_run_once(ledger: Ledger) -> None:
    """The pages together are the list, newest first, also where runs share their millisecond with the page's end."""
    runs = write(ledger, 100)

    found = pages(ledger, Wanted(), limit=7)

    assert [id for page in found for id in page] == [id for _, id, _, _ in runs]
    assert [len(page) for page in found] == [7] * 14 + [2]


@pytest.mark.parametrize("limit", [1, 10, 100, 1000])
def test_filters(ledger: Ledger, limit: int) -> None:
    """Each filter, and all of them together, give exactly the runs that fit."""
    runs = write(ledger, 300)
    for wanted in (
        Wanted(states=frozenset({"failed"})),
        Wanted(states=frozenset({"running"})),
        Wanted(states=frozenset({"pending", "running"}), text="1", since=1_000_003, until=1_000_090),
        Wanted(workflow="flow-2"),
        Wanted(text="oRDER-1"),
        Wanted(text="order-1", before=Listed(2_000_000, "x")),
        Wanted(text="FLOW-3"),
        Wanted(since=1_000_010, until=1_000_050),
        Wanted(states=frozenset({"failed", "running"}), workflow="flow-1", text="2", since=1_000_003),
        Wanted(workflow="nothing"),
    ):
        expected = [
            id
            for at, id, state, workflow in runs
            if (not wanted.states or state in wanted.states)
            and wanted.workflow in ("", workflow)
            and (wanted.text.lower() in id.lower() or wanted.text.lower() in workflow)
            and (wanted.since is None or at >= wanted.since)
            and (wanted.until is None or at <= wanted.until)
        ]

        assert [id for page in pages(ledger, wanted, limit=limit) for id in page] == expected


def test_many_runs_of_one_millisecond(ledger: Ledger) -> None:
    """However many there are, paging comes to an end and misses none."""
    pipe = ledger.redis.pipeline(transaction=False)
    for number in range(500):
        pipe.hset(ledger.keys.run(f"r{number}"), mapping={"state": "failed", "workflow": "w", "created": 5})
        pipe.zadd(ledger.keys.runs, {f"r{number}": 5})
    pipe.execute()

    assert sorted(id for page in pages(ledger, Wanted(), limit=9) for id in page) == sorted(f"r{n}" for n in range(500))


def test_a_whole_id_finds_its_run(ledger: Ledger) -> None:
    """However many runs there are, the one whose id was given is found, if the other filters want it."""
    runs = write(ledger, 3000)
    (at, id, state, _), limits = runs[-1], {"limit": 50, "look_at_most": 100}

    found = runlist.find(ledger, Wanted(text=id), **limits)

    assert [glance.record.id for glance in found.runs] == [id]
    assert runlist.find(ledger, Wanted(text=id, states=frozenset({state})), **limits).runs == found.runs
    for unwanted in (Wanted(text=id, workflow="nothing"), Wanted(text=id, since=at + 1), Wanted(text=id, until=at - 1)):
        assert runlist.find(ledger, unwanted, **limits).runs == ()


def test_a_whole_id_comes_first(ledger: Ledger) -> None:
    """The others of which it is a part come after it, each once, on whichever page."""
    runs = write(ledger, 300)
    others = [id for _, id, _, _ in runs if id.startswith("Order-1") and id != "Order-1"]

    for limit in (7, 50, 1000):
        found = pages(ledger, Wanted(text="Order-1"), limit=limit)

        assert [id for page in found for id in page] == ["Order-1", *others]
        assert {len(page) for page in found[:-1]} <= {limit}


def test_runs_that_go_on_are_found_at_once(ledger: Ledger) -> None:
    """However many have ended, the few that go on are found without looking at those."""
    write(ledger, 3000)
    play = Play.submit(ledger)
    ledger.pause(play.run)

    page = runlist.find(ledger, Wanted(states=frozenset({"paused"})), limit=50, seconds=30)

    assert [glance.record.id for glance in page.runs] == [play.run]
    assert page.next is None
    assert page.looked < 2000


def test_s20_a_search_ends_before_it_takes_long(ledger: Ledger) -> None:
    """A search that finds nothing looks at so many runs, and says where to go on."""
    write(ledger, 3000)

    page = runlist.find(ledger, Wanted(workflow="nothing"), limit=50, look_at_most=1000, seconds=60)

    assert page.runs == ()
    assert page.looked == 1000
    assert page.next is not None
    assert pages(ledger, Wanted(workflow="nothing"), limit=50, look_at_most=1000) == [[], [], []]


def test_runs_that_have_expired(ledger: Ledger) -> None:
    """A run that the list still names, and that is gone, is left out."""
    write(ledger, 10)
    ledger.redis.delete(ledger.keys.run("Order-5"))

    (found,) = pages(ledger, Wanted(), limit=50)

    assert len(found) == 9
    assert "Order-5" not in found


def test_new_runs_do_not_move_the_pages(ledger: Ledger) -> None:
    """Runs that come while somebody pages are not seen twice, and push none out."""
    runs = write(ledger, 20)
    first = runlist.find(ledger, Wanted(), limit=10)
    ledger.redis.zadd(ledger.keys.runs, {"new": 9_000_000})
    ledger.redis.hset(ledger.keys.run("new"), mapping={"state": "pending", "workflow": "w", "created": 9_000_000})

    second = runlist.find(ledger, Wanted(before=first.next), limit=10)

    assert [glance.record.id for glance in (*first.runs, *second.runs)] == [id for _, id, _, _ in runs]


def glance(play: Play) -> Glance:
    """The run as the list shows it."""
    (found,) = runlist.find(play.ledger, Wanted(text=play.run), limit=1).runs
    return found


def test_how_far_a_run_is(play: Play) -> None:
    """A run in the list shows the outermost block that it is at, and how many of its branches have ended and failed."""
    assert glance(play).n == 0
    block = play.block(5, on_error="collect")
    token = play.lane()
    play.serve(block, token, want=2)
    play.serve(block, token, [*ok(0), *bad(1)])

    found = glance(play)

    assert (found.block, found.n, found.done, found.failed) == ("block", 5, 2, 1)


def test_counts(ledger: Ledger) -> None:
    """Runs are counted by state, and what is to be done by blocks and branches."""
    plays = [Play.submit(ledger) for _ in range(4)]
    plays[0].block(5, limit=2)
    ledger.cancel(plays[1].run)
    ledger.pause(plays[2].run)

    states = {("running", "flow"): 1, ("paused", "flow"): 1, ("pending", "flow"): 1}
    assert runlist.count(ledger) == {**states, ("cancelled", "flow"): 1}
    assert runlist.count_going_on(ledger) == states
    backlog = openblocks.backlog(ledger)
    assert (backlog.blocks, backlog.running, backlog.waiting) == (4, 1, 7)
    assert runlist.known(ledger) == 4


def test_more_open_blocks_than_are_looked_at(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is of all is projected from those."""
    monkeypatch.setattr(openblocks, "_LOOKED_AT", 5)
    for _ in range(20):
        Play.submit(ledger)
    look, backlog = openblocks.look(ledger), openblocks.backlog(ledger)

    assert (len(look.blocks), look.share, look.of_all(len(look.blocks))) == (5, 0.25, 20)
    assert (backlog.blocks, backlog.waiting, backlog.running) == (20, 20, 0)


def test_deadlines(play: Play) -> None:
    """The first deadline of each open block is told with the block whose it is, by the server's clock."""
    outer = play.block(2, timeout=60.0)
    token = play.lane()
    play.serve(outer, token)
    inner = play.nest(outer, 0, token, 1, timeout=90.0)
    play.serve(outer, token)
    sooner = play.nest(outer, 1, token, 1, timeout=30.0)

    found, cursor = openblocks.deadlines(play.ledger, play.run)
    assert set(found) == {outer, sooner}
    assert (50 < found[outer] <= 60, 20 < found[sooner] <= 30, cursor) == (True, True, 0)
    play.pass_deadline(outer)
    assert openblocks.deadlines(play.ledger, play.run)[0].keys() == {outer}
    assert openblocks.deadlines(play.ledger, play.run)[0][outer] < -1000
    play.ledger.sweep(play.run, "deadline", inner, workers=None)
    assert play.state == "running"
    play.make_due("deadline", outer)
    play.ledger.sweep(play.run, "deadline", inner, workers=None)
    assert play.state == "failed"


def test_ids_that_begin_alike(ledger: Ledger) -> None:
    """They are looked for among the newest runs alone, as many as are asked for, without those that have expired."""
    runs = [id for _, id, _, _ in write(ledger, 2500)]
    alike = [id for id in runs if id.startswith("Order-24")]
    ledger.redis.delete(ledger.keys.run(alike[0]))

    assert runlist.beginning_with(ledger, "Order-24", limit=200) == alike[1:]
    assert runlist.beginning_with(ledger, "Order-24", limit=2) == alike[1:3]
    assert runlist.beginning_with(ledger, "Order-7", limit=1, look_at_most=1700) == []
    assert runlist.beginning_with(ledger, runs[1699], limit=1, look_at_most=1700) == [runs[1699]]
    assert runlist.beginning_with(ledger, runs[1700], limit=1, look_at_most=1700) == []
    assert runlist.beginning_with(ledger, "rder-24", limit=1) == []


@pytest.mark.parametrize("entry", [b"\xff hint 0", b"x hint \xff", b"hint", b"x hint 0 0"])
def test_an_unreadable_entry_of_the_agenda_is_in_no_list(play: Play, entry: bytes) -> None:
    """The runs of all other entries are listed and counted."""
    ledger, other = play.ledger, Play.submit(play.ledger)
    lane = other.lane()
    other.serve(ROOT, lane)
    ledger.redis.zadd(ledger.keys.agenda, {entry: 1})

    page = runlist.find(ledger, Wanted(states=frozenset(GOING_ON)), limit=10)
    assert {glance.record.id for glance in page.runs} == {play.run, other.run}
    assert sum((runlist.count_going_on(ledger) or {}).values()) == 2
    assert {run.id for run in ledger.unfinished()} == {play.run, other.run}
    assert openblocks.backlog(ledger).blocks == 2
    assert waits.others(ledger, play.run) == {other.run: (lane,)}

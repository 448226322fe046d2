"""What runs cost the server: limits that a busy machine keeps, and a change in the order of growth would not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.connection import AbstractConnection

from egregore_dist.cli import picture
from egregore_dist.client.run import Run
from egregore_dist.client.server import Server
from egregore_dist.ledger import Commit, Ledger, waits
from egregore_dist.ledger.keys import ROOT
from egregore_dist.wire import codec
from egregore_dist.workflow import spec
from tests.cluster.ledger.play import Play, bad, numbers, ok, track
from tests.support.waiting import until

KILOBYTE = 1024


@pytest.fixture
def alone() -> Iterator[Ledger]:
    """A ledger on a server that nobody else uses, so that its counters are this test's."""
    with Server.start() as server:
        ledger = Ledger(server.url, retries=0)
        yield ledger
        ledger.close()


def took(act: Callable[[], object]) -> float:
    """Seconds."""
    before = time.perf_counter()
    act()
    return time.perf_counter() - before


def commands(ledger: Ledger, act: Callable[[], object]) -> dict[str, int]:
    """How often each command ran, those that scripts call included."""

    def counters() -> dict[str, int]:
        found = cast(dict[str, dict[str, int]], ledger.redis.info("commandstats"))
        return {name.removeprefix("cmdstat_"): said["calls"] for name, said in found.items()}

    before = counters()
    act()
    after = counters()
    grown = {name: calls - before.get(name, 0) for name, calls in after.items()}
    return {name: calls for name, calls in grown.items() if calls and name != "info"}


def memory(ledger: Ledger) -> int:
    """Bytes of the data set; buffers, scripts and fragmentation are not counted."""
    ledger.redis.memory_purge()
    stats = cast(dict[str, int], ledger.redis.memory_stats())
    return stats["dataset.bytes"]


def test_opening_a_block_costs_the_same_for_any_number_of_branches(play: Play) -> None:
    """A block of 100 000 branches writes as many keys as one of 10, and takes milliseconds."""
    few, many = Play.submit(play.ledger), play
    few.block(10)

    def opens(one: Play) -> float:
        token = one.lane()
        one.serve(ROOT, token)
        return took(lambda: one.open(ROOT, 0, token, 100_000, limit=8, timeout=60.0))

    # A busy machine is late now and then, and not each time.
    seconds = [opens(one) for one in (many, Play.submit(play.ledger), Play.submit(play.ledger))]

    assert len(many.written()) == len(few.written())
    assert min(seconds) < 0.05
    assert (many.ledger.redis.memory_usage(many.ledger.keys.block(many.run, "b", "0.0-0")) or 0) < 2 * KILOBYTE


def test_a_branch_costs_one_round_trip(alone: Ledger) -> None:
    """Committing a branch and leasing the next is one script, and few commands inside it."""
    play = Play.submit(alone)
    block, lane = play.block(100), play.lane()
    play.serve(block, lane)
    commits = [Commit(branch, "ok", b"v", (100, 20_000)) for branch in range(50)]
    rounds = commands(alone, lambda: [play.serve(block, lane, [commit]) for commit in commits])

    assert rounds["evalsha"] == 50
    assert sum(rounds.values()) <= 50 * 26


def test_a_batch_costs_little_more_than_a_branch(alone: Ledger) -> None:
    """The commands of one call grow with what it commits by three a branch at most."""
    play = Play.submit(alone)
    block, lane = play.block(4000, tracks=[track(4000, lanes=1)]), play.lane()
    held = numbers(play.serve(block, lane, want=1000))
    assert len(held) == 1000
    commits = [Commit(branch, "ok", b"v", (100 * branch, 20_000 * branch)) for branch in held]
    rounds = commands(alone, lambda: play.serve(block, lane, commits, want=1000))

    assert rounds["evalsha"] == 1
    assert sum(rounds.values()) <= 3 * 1000 + 80


def test_showing_a_run_takes_as_many_round_trips_whatever_is_open(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with very many open blocks is read as one with two: what runs in each, and the names of that, too."""
    inner = spec.MapSpec(name="inner", body=spec.NodeSpec(name="node", function=0))
    workflow = spec.WorkflowSpec(name="flow", root=spec.SequenceSpec("flow", (spec.MapSpec(name="outer", body=inner),)))
    sent = 0
    send = AbstractConnection.send_packed_command

    def count(self: Any, *args: Any, **options: Any) -> None:
        nonlocal sent
        sent += 1
        send(self, *args, **options)

    def show(items: int) -> tuple[picture.Picture, int]:
        play = Play.submit(ledger, spec=spec.encode(workflow))
        outer, token = (
            play.block(items, input=codec.encode({f"k{at}": at for at in range(items)}, where="")),
            play.lane(),
        )
        for lease in play.serve(outer, token, want=items).leases:
            given = {"a": 1, "b": 2} if lease.branch else [1, 2]
            block = play.nest(outer, lease.branch, token, 2, path=(0, 0), input=codec.encode(given, where=""))
            play.serve(block, play.lane(), want=1)
        before = sent
        found = picture.take(ledger, cast(Run, SimpleNamespace(id=play.run, why=list)))
        return found, sent - before

    monkeypatch.setattr(AbstractConnection, "send_packed_command", count)

    (_, few), (found, many) = show(2), show(100)

    assert many == few
    assert found.running["0.0-0.0-0,0"] == [0]
    assert found.running["0.0-0.7-0,0"] == ["a"]
    assert found.branch["0.0-0.7-0,0"] == "k7"


@pytest.mark.parametrize("batch", [1, 1000])
def test_a_branch_takes_less_than_a_kilobyte(alone: Ledger, batch: int) -> None:
    """1000 trivial branches, with all their events, and the server is back where it was when the run is deleted."""
    for _ in range(2):  # the first also pays for the scripts
        base = memory(alone)
        play = Play.submit(alone)
        block, lane = play.block(1000), play.lane()
        served = play.serve(block, lane, want=batch)
        while served.state == "open":
            served = play.serve(block, lane, ok(*numbers(served)), want=batch)
        play.serve(ROOT, lane, ok(0))
        assert play.state == "succeeded"
        full = memory(alone)
        alone.delete(play.run)

    assert full - base < 1000 * KILOBYTE
    # The server frees what was unlinked on a thread of its own.
    until(lambda: memory(alone) - base < 20 * KILOBYTE, what="the memory of before")
    kept = (alone.keys.epoch, alone.keys.counts, alone.keys.counts_of("flow"))
    assert sorted(cast(list[bytes], alone.redis.keys())) == sorted(key.encode() for key in kept)


def test_the_events_of_a_run_are_bounded(play: Play) -> None:
    """A run of very many branches keeps its last events only."""
    block, lane = play.block(20_000), play.lane()
    served = play.serve(block, lane)
    for branch in range(6000):
        served = play.serve(block, lane, ok(branch))
    assert served.state == "open"

    assert play.ledger.redis.xlen(play.ledger.keys.part(play.run, "events")) <= 11_000


def nest(play: Play, children: int, *, on_error: str) -> tuple[str, str, list[str]]:
    """A block whose every branch has met a block of its own."""
    block, lane = play.block(children, on_error=on_error), play.lane()
    inner = []
    served = play.serve(block, lane)
    while served.leases:
        (branch,) = numbers(served)
        inner.append(play.nest(block, branch, lane, 2, input=ROOT))
        served = play.serve(block, lane)
    return block, lane, inner


def test_thousands_of_nested_blocks_end_quickly(play: Play) -> None:
    """Ending, retrying and deleting a run of 3000 blocks holds the server up for a fraction of a second each."""
    nest(play, 3000, on_error="cancel")

    assert took(lambda: play.ledger.cancel(play.run)) < 1.0
    assert took(lambda: play.ledger.retry(play.run)) < 1.0
    assert took(lambda: play.ledger.cancel(play.run)) < 1.0
    assert took(lambda: play.ledger.delete(play.run)) < 1.0


def test_a_failing_child_costs_what_is_below_it(alone: Ledger) -> None:
    """Where errors are collected, a block that fails among 1000 open ones looks at its own branches only."""
    play = Play.submit(alone)
    _, lane, inner = nest(play, 1000, on_error="collect")
    play.serve(inner[0], lane)
    rounds = commands(alone, lambda: play.serve(inner[0], lane, bad(0)))

    assert "smembers" not in rounds
    assert sum(rounds.values()) <= 60


def test_what_a_client_may_send_at_once(play: Play) -> None:
    """A commit of 1024 branches with a value of 10 kB each is one call."""
    block, lane = play.block(10_000, tracks=[track(10_000, lanes=1)]), play.lane()
    held = numbers(play.serve(block, lane, want=1024))
    value = b"x" * 10_000
    served = play.serve(block, lane, [Commit(branch, "ok", value) for branch in held], want=1024)

    assert served.late == 0
    assert play.record(block).done == 1024
    assert play.ledger.results(play.run, block)[1023] == value


def test_a_look_at_what_waits_costs_the_same_for_any_number_of_blocks(alone: Ledger) -> None:
    """A run of 2000 nested blocks, in a block of 100 000 branches, costs no more reads than one of a tenth of it."""

    def nested(count: int) -> Play:
        play = Play.submit(alone)
        outer, lane = play.block(100_000, tracks=[track(100_000, width=count, lanes=10)]), play.lane()
        for lease in play.serve(outer, lane).leases:
            play.nest(outer, lease.branch, lane, 2)
        return play

    few, many = nested(200), nested(2000)
    rounds = [commands(alone, lambda play=play: waits.look(alone, play.run)) for play in (few, many)]  # type: ignore[misc]
    found = waits.look(alone, many.run)

    assert sum(rounds[1].values()) <= sum(rounds[0].values()) + 5
    assert found is not None
    assert len(found.blocks) == waits.BLOCKS
    assert found.open == 2002

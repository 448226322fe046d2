"""Plans as they are shown, and what becomes of them on a running cluster."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import pytest

from egregore_dist import LocalCluster, Sequence, errors, node, parallel
from egregore_dist.client import session
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources import report
from egregore_dist.resources.profile import Profile
from egregore_dist.resources.report import Report
from egregore_dist.wire.code import ship
from tests.support.waiting import until


def test_a_lane_whose_track_is_dry_serves_the_others(local: LocalCluster) -> None:
    """Sync and async branches share two slots; when the async ones have ended, both slots serve the sync ones."""

    @node
    def works(_data: object) -> int:
        time.sleep(0.2)
        return os.getpid()

    @node
    async def waits(_data: object) -> int:
        await asyncio.sleep(0.01)
        return os.getpid()

    flow = parallel(waits, *(works.alias(f"w{number}") for number in range(12)))
    found = flow(0)

    assert len({pid for name, pid in found.items() if name != "waits"}) == 2


def reports() -> tuple[Report, ...]:
    current = session.current()
    return report.read(current.ledger.reports().values(), now=current.ledger.now(), ttl=current.settings.report_ttl)


def learned(function: Callable[..., object]) -> Profile | None:
    """What the workers have learned of a function that travels by value, whose code no other test's is."""
    current = session.current()
    ref = ship(function, current.signer).ref
    return Profiles(current.ledger).read([ref]).get(ref)


def test_workers_learn_what_nodes_take(local: LocalCluster) -> None:
    """Wall time, CPU time, memory and size of the results are in the ledger soon after the branches have ended."""

    def heavy(number: int) -> bytes:
        time.sleep(0.05)
        return (b"x" * 60_000_000)[:1000]

    node("heavy")(heavy).map()(list(range(6)))

    until(
        lambda: (found := learned(heavy)) is not None and round(found.count) >= 6, what="six executions being learned"
    )
    found = learned(heavy)
    assert found is not None
    assert found.wall.mean >= 0.05
    assert found.cpu.quantile(0.5) < found.wall.mean
    assert 0.97 * 60_000_000 <= found.memory.quantile(0.95) < 100_000_000
    assert 1000 <= found.size.mean <= 1010


def test_async_branches_are_learned_by_their_time(local: LocalCluster) -> None:
    """Of branches that take turns on one thread the wall time is learned, and what nobody can tell is left out."""

    async def waits(number: int) -> int:
        await asyncio.sleep(0.05)
        return number

    node("waits")(waits).map()(list(range(20)))

    until(
        lambda: (found := learned(waits)) is not None and round(found.count) >= 20,
        what="twenty executions being learned",
    )
    found = learned(waits)
    assert found is not None
    assert found.wall.mean >= 0.05
    assert (found.cpu.buckets, found.memory.buckets) == ({}, {})


@node
def small(value: int) -> int:
    return value


@node("big", memory="800TB")
def big(value: int) -> int:
    return value


def test_a_block_tells_how_it_would_be_served(local: LocalCluster) -> None:
    """``plan()`` gives the decision and what it came from, for a block and for the blocks in it; nothing is run."""
    needy = node("needy", memory="100MB", cpus=0.5)(small.fn)
    block = parallel(small, needy, max_concurrent=5, name="both")

    found = block.plan()

    [_, track] = found.plan.tracks
    slots = sum(said.slots for said in reports())
    assert (found.name, found.kind, found.branches, found.path) == ("both", "parallel", 2, ())
    assert (found.lanes, found.plan.slots, found.plan.max_concurrent) == (2, slots, 5)
    assert (track.memory_per_node, track.memory_from, track.cpus) == (100_000_000, "declared", 0.5)
    assert track.memory_available > 0
    said = str(found)
    for number in ("'both'", "2 branches", "max_concurrent=5", f"{slots} slots", "100 MB (declared)", "0.5 (declared)"):
        assert number in said


def test_a_map_is_planned_with_an_assumption(local: LocalCluster) -> None:
    """A map gets its items only when it runs, so the plan is told how many, and says that it was."""
    found = small.map(max_concurrent=1).plan(items=7)

    assert (found.branches, found.lanes, found.plan.tracks[0].bound) == (7, 1, "max_concurrent")
    assert "7 branches (assumed), max_concurrent=1" in str(found)
    with pytest.raises(errors.WorkflowError, match="items"):
        small.map().plan(items=0)
    with pytest.raises(errors.WorkflowError, match="no branches"):
        parallel().plan()


def test_what_was_learned_is_planned_with(local: LocalCluster) -> None:
    """After a run the plan of the same nodes says what they took, and plans with it."""

    def heavy(number: int) -> int:
        time.sleep(0.01)
        return len(b"x" * 150_000_000) + number

    each = node("heavy")(heavy).map(name="heavies")
    before = each.plan(items=8).plan.tracks[0]
    each(list(range(8)))
    until(
        lambda: (found := learned(heavy)) is not None and round(found.count) >= 8, what="eight executions being learned"
    )

    found = each.plan(items=8)
    after = found.plan.tracks[0]
    assert (before.learned, before.memory_from) == (None, "assumed")
    assert after.learned is not None
    assert after.learned.wall >= 0.01
    assert after.memory_from == "learned"
    assert 0.97 * 150_000_000 <= after.memory_per_node < 200_000_000
    assert after.room < before.room
    assert "learned of 8 executions" in str(found)


def test_what_fits_nowhere_is_refused_at_once(local: LocalCluster) -> None:
    """A node that needs more than the largest worker has is refused by submit and by plan: nothing is started."""
    flow = Sequence(small, parallel(big, small.alias("other")))

    for refused in (lambda: flow.submit(1, id="never"), parallel(big).plan, lambda: big.submit(1)):
        with pytest.raises(
            errors.WorkflowError, match=r"node 'big' needs 800 TB of memory, and the largest worker"
        ) as told:
            refused()
        assert any(said.worker in str(told.value) for said in reports())
    assert not session.current().ledger.exists("never")


def test_a_queue_that_nobody_serves_yet_refuses_nothing(local: LocalCluster) -> None:
    """Where the workers of a queue are still to come, a run is accepted and waits, and the plan says so."""
    later = node("later", queue="nobody", memory="800TB")(small.fn)

    run = later.submit(1)
    found = parallel(later).plan()

    assert (found.plan.workers, found.plan.tracks[0].bound) == (0, "branches")
    assert run.status == "pending"
    run.cancel()


def test_the_command_shows_every_block(local: LocalCluster) -> None:
    """``plan MODULE:WORKFLOW`` shows the plan of each block, and as JSON every number of it."""
    from tests.cluster.test_cli import FLOWS, ask, environment, read

    text = ask("plan", f"{FLOWS}:flow", "--items", "12", env=environment(local))
    said = read("plan", f"{FLOWS}:flow", "--items", "12", env=environment(local))
    none = ask("plan", f"{FLOWS}:double", env=environment(local))

    assert text.exit_code == none.exit_code == 0, text.stderr
    assert said.keys() == {"workflow", "blocks"}
    assert [block["branches"] for block in said["blocks"]] == [12]
    assert said["blocks"][0].keys() == {
        *("name", "path", "kind", "branches", "max_concurrent", "lanes", "workers", "slots", "tracks"),
        "advice",
    }
    assert said["blocks"][0]["tracks"][0].keys() == {
        *("queue", "branches", "lanes", "width", "width_of", "lease", "bound", "wanted", "workers", "slots", "cores"),
        *("room", "fitting", "memory_available", "memory_per_node", "memory_from", "cpus", "gpus", "labels", "learned"),
    }
    assert "12 branches (assumed)" in text.stdout
    assert "has no blocks" in none.stdout

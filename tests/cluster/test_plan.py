"""Plans as they are shown, and what becomes of them on a running cluster."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from egregore_dist import LocalCluster, node, parallel
from egregore_dist.client import session
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.resources.profile import Profile
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

    until(lambda: (found := learned(heavy)) is not None and round(found.count) >= 6, what="six executions being learned")
    found = learned(heavy)
    assert found is not None
    assert found.wall.mean >= 0.05
    assert found.cpu.quantile(0.5) < found.wall.mean
    assert 60_000_000 <= found.memory.quantile(0.95) < 100_000_000
    assert 1000 <= found.size.mean <= 1010


def test_async_branches_are_learned_by_their_time(local: LocalCluster) -> None:
    """Of branches that take turns on one thread the wall time is learned, and what nobody can tell is left out."""

    async def waits(number: int) -> int:
        await asyncio.sleep(0.05)
        return number

    node("waits")(waits).map()(list(range(20)))

    until(lambda: (found := learned(waits)) is not None and round(found.count) >= 20, what="twenty executions being learned")
    found = learned(waits)
    assert found is not None
    assert found.wall.mean >= 0.05
    assert (found.cpu.buckets, found.memory.buckets) == ({}, {})

"""Plans as they are shown, and what becomes of them on a running cluster."""

from __future__ import annotations

import asyncio
import os
import time

from egregore_dist import LocalCluster, node, parallel


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

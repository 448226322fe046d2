"""A server that begins to evict keys while workflows run: nothing new begins until it has stopped."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from egregore_dist import LocalCluster, node
from egregore_dist.cli import main
from egregore_dist.client import session
from tests.support.redis_server import RedisServer, redis_server
from tests.support.waiting import until

# A server that has stopped evicting is trusted after half a minute.
GOES_ON = 60.0


@node
def gated(folder: str) -> str:
    """Leave a mark, and wait until there is a gate."""
    import os
    from pathlib import Path

    from tests.support.waiting import until

    (Path(folder) / f"{os.urandom(8).hex()}.began").touch()
    until((Path(folder) / "gate").exists, seconds=100)
    return "through"


def crowd(server: RedisServer, stopped: threading.Event) -> None:
    """Write what expires, so that the server goes on evicting."""
    number = 0
    while not stopped.wait(0.05):
        for _ in range(20):
            number += 1
            server.client.set(f"filler {number}", b"x" * 100_000, ex=600)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_evictions_that_begin_later(tmp_path: Path) -> None:
    """No worker is taken for dead, nothing begins until they have stopped, and runs and doctor say so."""
    with (
        redis_server(tmp_path) as server,
        LocalCluster(2, broker_url=server.url, queue="q", prefix="p") as cluster,
    ):
        run = gated.map(max_concurrent=2).submit([str(tmp_path)] * 4)
        until(lambda: len(list(tmp_path.glob("*.began"))) == 2, what="two branches")
        server.client.config_set("maxmemory-policy", "volatile-lru")
        server.client.config_set("maxmemory", int(server.client.info("memory")["used_memory"]) + 2**22)
        stopped = threading.Event()
        writer = threading.Thread(target=crowd, args=(server, stopped))
        writer.start()
        try:
            until(lambda: any(it.kind == "evictions" for it in run.why()), what="that it is said")
            ledger = session.current().ledger
            before = ledger.evicted()
            (tmp_path / "gate").touch()
            until(lambda: any(it.done == 2 for it in ledger.blocks(run.id)), what="what had begun")
            # Lanes would come, and reports would have their time, many times.
            until(lambda: ledger.evicted() > before + 2000, seconds=60, what="more evictions")
            assert run.status == "running"
            assert len(list(tmp_path.glob("*.began"))) == 2
            said = CliRunner(env=cluster.worker_environment()).invoke(main, ["doctor", "--json"]).stdout
            memory = next(check for check in json.loads(said)["checks"] if check["name"] == "memory")
            assert memory["status"] == "problem"
            assert "nothing is started" in memory["detail"]
        finally:
            stopped.set()
            writer.join()
        server.client.config_set("maxmemory-policy", "noeviction")
        server.client.config_set("maxmemory", 0)

        assert run.result(timeout=GOES_ON) == ["through"] * 4
        assert len(list(tmp_path.glob("*.began"))) == 4
        assert run.why() == []
        assert not [event for event in run.events() if event.type == "branch.lost"]

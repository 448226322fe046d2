"""Connections to a primary that Sentinel names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.asyncio.sentinel
import redis.sentinel

from egregore_dist.ledger import connection
from tests.support.redis_server import RedisServer, redis_server

URL = "sentinel://127.0.0.1:1/0?master_name=mymaster"


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_connection_that_is_made_again_asks_for_the_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It goes to the new one, also within the retries of a call that began with the former one."""
    with redis_server(tmp_path) as former, redis_server(tmp_path) as new:
        named = [former]
        _have_sentinel_name(monkeypatch, named)
        new.client.set("which", "new")
        if kind == "sync":
            assert _asked_again(named, former, new) == b"new"
        else:
            assert asyncio.run(_asked_again_in_a_loop(named, former, new)) == b"new"


def _have_sentinel_name(patch: pytest.MonkeyPatch, named: list[RedisServer]) -> None:
    async def discover(*_: object) -> tuple[str, int]:
        return "127.0.0.1", named[0].port

    patch.setattr(redis.sentinel.Sentinel, "discover_master", lambda *_: ("127.0.0.1", named[0].port))
    patch.setattr(redis.asyncio.sentinel.Sentinel, "discover_master", discover)


def _asked_again(named: list[RedisServer], former: RedisServer, new: RedisServer) -> bytes:
    with connection.client(URL) as client:
        made = client.connection_pool.get_connection()
        named[:] = [new]
        former.kill()
        made.disconnect()
        made.send_command("GET", "which")
        return bytes(made.read_response())


async def _asked_again_in_a_loop(named: list[RedisServer], former: RedisServer, new: RedisServer) -> bytes:
    async with connection.async_client(URL) as client:
        made = await client.connection_pool.get_connection()
        named[:] = [new]
        former.kill()
        await made.disconnect()
        await made.send_command("GET", "which")
        return bytes(await made.read_response())

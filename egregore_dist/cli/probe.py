"""What the ledger's server and the workers say of themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import msgspec

from egregore_dist.ledger import Ledger, fitness
from egregore_dist.resources.report import Report, is_sound


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A live worker. Times are seconds of the server's clock since the epoch, to the second.

    Attributes:
        report: what it said last.
        reported: when that was.
        age: how long ago, in seconds.
    """

    report: Report
    reported: float
    age: float

    @property
    def skew(self) -> float:
        """How far its clock is ahead of the server's, in seconds; not known better than half a second."""
        return self.report.time - (self.reported + 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server that holds the ledger.

    Attributes:
        kind: ``valkey`` or ``redis``.
        version: its version; "" where it does not show that.
        persistent: whether every write is kept on disk (AOF); None where it does not show that.
        writes: whether its last write to that file went well.
        maxmemory: bytes of data that it may hold, 0 for no limit.
        used: bytes of data that it holds.
        policy: what it does at that limit; "" where it does not show that.
        evicted: keys that it has evicted since its start.
        holds: whether nothing is leased, since it evicts keys.
        is_cluster: whether it is a Redis Cluster.
        round_trip: seconds for one call.
        skew: how far this machine's clock is ahead of the server's, in seconds.
        overdue: entries of the agenda that are due for longer than `OVERDUE`.
    """

    kind: str
    version: str
    persistent: bool | None
    writes: bool
    maxmemory: int
    used: int
    policy: str
    evicted: int = 0
    holds: bool = False
    is_cluster: bool = False
    round_trip: float
    skew: float
    overdue: int


#: Seconds after which somebody should have done what the agenda asks for.
OVERDUE = 10.0


def server(ledger: Ledger) -> Server:
    """Ask the ledger's server. Raises what redis-py raises."""
    info, is_cluster = fitness.look(ledger.redis, ledger.keys)
    before, clock = time.time(), time.monotonic()
    seconds, micros = ledger.redis.time()
    took = time.monotonic() - clock
    now = seconds + micros / 1e6
    is_valkey = "valkey_version" in info
    return Server(
        kind="valkey" if is_valkey else "redis",
        version=str(info.get("valkey_version" if is_valkey else "redis_version", "")),
        persistent=bool(int(info["aof_enabled"])) if "aof_enabled" in info else None,
        writes=info.get("aof_last_write_status", "ok") == "ok",
        maxmemory=int(info.get("maxmemory", 0)),
        used=int(info.get("used_memory", 0)),
        policy=str(info.get("maxmemory_policy", "")),
        evicted=int(info.get("evicted_keys", 0)),
        holds=not is_cluster and float(ledger.redis.hget(ledger.keys.evictions, "until") or 0) > now * 1000,
        is_cluster=is_cluster,
        round_trip=took,
        skew=before + took / 2 - now,
        overdue=0 if is_cluster else int(ledger.redis.zcount(ledger.keys.agenda, "-inf", (now - OVERDUE) * 1000)),
    )


def workers(ledger: Ledger) -> list[Worker]:
    """The live workers whose reports can be read and can be true, by name. Raises `errors.BrokerUnavailable`."""
    reports = ledger.reports()
    seconds, micros = ledger.redis.time()
    scores = dict(cast(list[tuple[bytes, float]], ledger.redis.zrange(ledger.keys.workers, 0, -1, withscores=True)))
    found = []
    for name, raw in sorted(reports.items()):
        reported = scores.get(name.encode(), float(seconds))
        try:
            report = msgspec.msgpack.decode(raw, type=Report)
        except msgspec.MsgspecError:
            # Another release wrote it.
            continue
        if not is_sound(report):
            continue
        found.append(Worker(report=report, reported=reported, age=seconds + micros / 1e6 - reported))
    return found

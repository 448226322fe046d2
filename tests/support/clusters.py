"""The clusters that cluster tests share: one a broker, started when first asked for, stopped when the tests end."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import redis

from egregore_dist import LocalCluster, errors
from egregore_dist.client import session
from egregore_dist.client.server import Server
from egregore_dist.client.session import Session

REDIS = ("127.0.0.1", 6379)
RABBITMQ = ("127.0.0.1", 5672)


def answers(address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def brokers() -> list[str]:
    """The kinds of broker there are on this machine: the embedded server always."""
    return ["valkey", *(["redis"] if answers(REDIS) else []), *(["rabbitmq"] if answers(RABBITMQ) else [])]


class Clusters:
    """Running clusters by kind of broker, each with two workers of one lane."""

    def __init__(self) -> None:
        self._running: dict[str, LocalCluster] = {}
        self._sessions: dict[str, Session] = {}
        self._ledger: Server | None = None

    @contextmanager
    def use(self, kind: str) -> Iterator[LocalCluster]:
        """The cluster of this kind, as what this process submits to."""
        cluster = self._running.get(kind) or self._start(kind)
        before = session.use(self._sessions[kind])
        try:
            yield cluster
        finally:
            session.use(before)
            self._end_runs(self._sessions[kind])

    def stop(self) -> None:
        """Stop them all, and leave nothing of theirs on servers that are not theirs."""
        for kind, cluster in self._running.items():
            self._sessions[kind].close()
            cluster.stop()
            if kind == "redis":
                self._forget(cluster)
        if self._ledger is not None:
            self._ledger.stop()

    @staticmethod
    def _end_runs(of: Session) -> None:
        # What a test that failed has left would hold the slots that the others need.
        if not of.ledger.is_idle():
            entries = cast(list[bytes], of.ledger.redis.zrange(of.ledger.keys.agenda, 0, -1))
            for run in {entry.decode().partition(" ")[0] for entry in entries}:
                with suppress(errors.RunNotFound):
                    of.ledger.cancel(run)

    def _start(self, kind: str) -> LocalCluster:
        name = f"egdtest-{uuid.uuid4().hex[:8]}"
        if kind == "redis":
            cluster = LocalCluster(broker_url="redis://127.0.0.1:6379/0", queue=name, prefix=name)
        elif kind == "rabbitmq":
            self._ledger = self._ledger or Server.start()
            cluster = LocalCluster(
                broker_url="amqp://guest:guest@127.0.0.1:5672//", ledger_url=self._ledger.url, queue=name, prefix=name
            )
        else:
            cluster = LocalCluster()
        cluster.start()
        self._running[kind] = cluster
        self._sessions[kind] = Session(cluster.settings)
        return cluster

    @staticmethod
    def _forget(cluster: LocalCluster) -> None:
        with redis.Redis.from_url(cluster.url) as server:
            for key in server.scan_iter(match=f"*{cluster.settings.prefix}*", count=1000):
                server.delete(key)

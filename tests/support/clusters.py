"""The clusters that cluster tests share: one a broker, started when first asked for, stopped when the tests end."""

from __future__ import annotations

import os
import socket
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import kombu
import msgspec
import pytest
import redis

from egregore_dist import LocalCluster, errors
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from egregore_dist.client.session import Session
from egregore_dist.resources.report import Report
from egregore_dist.settings import Settings
from egregore_dist.worker import consuming
from tests.support import store
from tests.support.figures import SEED

#: The embedded server, with a ledger whose calls fail, in the workers and in this process.
FAULTY = "faulty"
#: How many of its calls. Where it is asked for, every test that the embedded server serves has such a ledger.
RATE = float(os.environ.get("EGREGORE_TEST_STORE_FAULTS") or 0)
# Seconds; more than a start takes of CPU.
_IDLE_FOR = 30.0
# Few enough that four in a row, after which a call fails for good, hardly ever come.
_USUAL_RATE = 0.03
#: What has failed in the end, for the summary.
FAULTS = Counter[str]()

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


def queues_of(of: Session) -> set[str]:
    """The queues that a cluster uses, while it runs."""
    reports = [msgspec.msgpack.decode(raw, type=Report) for raw in of.ledger.reports().values()]
    consumed = [name for said in reports for name in (*said.queues, *consuming.likely(said))]
    return {of.settings.queue, *consumed, *of.ledger.queues()}


def delete_queues(url: str, names: Iterable[str]) -> None:
    """Leave none of them on a RabbitMQ that is not the tests' own."""
    with kombu.Connection(url) as connection:
        for name in names:
            connection.default_channel.queue_delete(name)
            connection.default_channel.exchange_delete(name)


@contextmanager
def submitting(settings: Settings) -> Iterator[Session]:
    """A session on the cluster of these settings, as what this process submits to."""
    mine = Session(settings)
    before = session.use(mine)
    try:
        yield mine
    finally:
        session.use(before)
        mine.close()


@contextmanager
def inside(*hooks: str) -> Iterator[None]:
    """Workers of local clusters start with these hooks of `tests.support.inside` built in."""
    worker = ["egregore_dist", "worker"]
    spawn = Process.spawn

    def spawned(command: Sequence[str], **options: Any) -> Process:
        python, module, *rest = command
        if rest[: len(worker)] == worker:
            command = [python, module, "tests.support.inside", *hooks, "--", *rest[1:]]
        return spawn(command, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "spawn", spawned)
        yield


class Clusters:
    """Running clusters by kind of broker, each with two workers of one lane.

    One that no test has used for a while is stopped: an idle worker takes some hundredths of a core.
    """

    def __init__(self) -> None:
        self._running: dict[str, LocalCluster] = {}
        self._users = Counter[str]()
        self._used_at: dict[str, float] = {}
        self._sessions: dict[str, Session] = {}
        self._ledger: Server | None = None
        self._patch = pytest.MonkeyPatch()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @contextmanager
    def use(self, kind: str) -> Iterator[LocalCluster]:
        """The cluster of this kind, as what this process submits to."""
        if kind == "valkey" and RATE:
            kind = FAULTY
        cluster = self._running.get(kind) or self._start(kind)
        self._users[kind] += 1
        try:
            with self._using(self._sessions[kind]), ExitStack() as faults:
                if kind == FAULTY:
                    faults.enter_context(store.faulty(self._sessions[kind].ledger, RATE or _USUAL_RATE))
                yield cluster
        finally:
            self._users[kind] -= 1
            self._used_at[kind] = time.monotonic()

    @contextmanager
    def _using(self, wanted: Session) -> Iterator[None]:
        before = session.use(wanted)
        try:
            yield
        finally:
            session.use(before)
            self._end_runs(wanted)

    def stop_idle(self) -> None:
        """Stop those that no test uses, nor has used for a while."""
        now = time.monotonic()
        for kind in [kind for kind in self._running if not self._users[kind]]:
            if now - self._used_at[kind] > _IDLE_FOR:
                self._stop(kind)

    def stop(self) -> None:
        """Stop them all."""
        for kind in list(self._running):
            self._stop(kind)

    def _stop(self, kind: str) -> None:
        # Nothing of theirs stays on servers that are not theirs.
        cluster = self._running.pop(kind)
        queues = queues_of(self._sessions[kind]) if kind == "rabbitmq" else ()
        self._sessions.pop(kind).close()
        cluster.stop()
        if queues:
            delete_queues(cluster.url, queues)
        if kind == "redis":
            self._forget(cluster)
        if kind == "rabbitmq" and self._ledger is not None:
            self._ledger.stop()
            self._ledger = None
        if self._folder is not None and kind == FAULTY:
            self._patch.undo()
            FAULTS.update((Path(self._folder.name) / "faults").read_text().splitlines())
            self._folder.cleanup()
            self._folder = None

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
        if kind == FAULTY:
            self._start_faulty(cluster)
        else:
            cluster.start()
        self._running[kind] = cluster
        self._sessions[kind] = Session(cluster.settings)
        return cluster

    def _start_faulty(self, cluster: LocalCluster) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="egdtest-")
        faults = Path(self._folder.name) / "faults"
        faults.touch()
        self._patch.setenv(store.FILE, str(faults))
        self._patch.setenv(store.SEED, SEED)
        print(f"EGREGORE_TEST_SEED={SEED}")
        with inside(f"store_faults={RATE or _USUAL_RATE}"):
            cluster.start()

    @staticmethod
    def _forget(cluster: LocalCluster) -> None:
        with redis.Redis.from_url(cluster.url) as server:
            for key in server.scan_iter(match=f"*{cluster.settings.prefix}*", count=1000):
                server.delete(key)

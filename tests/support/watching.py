"""Clusters of the usual kind in fault tests: what is known of them is held against I1 to I9 before they stop.

A `Trial` knows more, and checks itself. Here no node writes down its executions, so attempts and limits are held
against the events, which tell who held a branch from when to when. Workers, readers and what is left on the server are
looked at as there. A key that a test writes itself needs a time to live.

Every run has to end, within moments after the last test on its cluster: a test that leaves one, paused or at a gate,
cancels it. A worker that a test ends in another way than by `LocalWorker` is one to `expect_end` of.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import kombu
import kombu.exceptions
import pytest
from amqp.exceptions import NotFound

from egregore_dist import LocalCluster, Run, errors
from egregore_dist.client.cluster import LocalWorker
from egregore_dist.engine import app as apps
from egregore_dist.ledger import ENDED, Ledger
from egregore_dist.wire import codec
from tests.support import history
from tests.support.history import Broken, History, Left, Seen
from tests.support.waiting import let_pass, until

# Seconds. As long as what was acknowledged while the server was away may take to be acknowledged.
COMES_TO_REST = 30.0

_asked: WeakSet[LocalWorker] = WeakSet()
_started: WeakSet[LocalCluster] = WeakSet()
_kills: Counter[int] = Counter()
#: What readers were told. The runs of a cluster that has stopped are forgotten.
_seen: list[Seen] = []


def expect_end(worker: LocalWorker) -> None:
    """A test ends a worker itself: that it ends is no breach, and messages may stay with it."""
    _asked.add(worker)
    _kills[id(worker._cluster)] += 1


@contextmanager
def every_cluster() -> Iterator[None]:
    """Check every cluster with workers that stops meanwhile: it fails to stop where an invariant is broken."""
    start, stop, end = LocalCluster.start, LocalCluster.stop, Run._end
    begin = LocalWorker.start

    def start_watched(cluster: LocalCluster) -> None:
        start(cluster)
        _kills.pop(id(cluster), None)
        _started.add(cluster)

    def check_and_stop(cluster: LocalCluster) -> None:
        # One that did not start says why itself; a forked one is another's; a `Trial` has nodes of another kind.
        is_watched = cluster in _started and bool(cluster.workers) and cluster._owner == os.getpid()
        _started.discard(cluster)
        pids = [worker.pid for worker in cluster.workers if worker.pid is not None]
        found: list[Broken] = []
        try:
            if is_watched:
                found = broken(cluster)
            for worker in cluster.workers if found else ():
                if worker.alive and worker.pid is not None:
                    # A worker logs the stacks of its threads.
                    os.kill(worker.pid, signal.SIGUSR1)
                    let_pass(1.0)
                print(f"--- {worker!r}\n{worker.log_tail(200)}")
        finally:
            stop(cluster)
        if not any(it.workers for it in _started):
            _seen.clear()
        if is_watched:
            found += history.check(History(remaining=_remaining(pids)))
        assert not found, history.told(found)

    def begin_anew(worker: LocalWorker) -> None:
        begin(worker)
        _asked.discard(worker)

    def end_and_note(run: Run) -> Any:
        told = end(run)
        if told is not None and any(cluster.workers for cluster in _started):
            _note(run.id, told)
        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalCluster, "start", start_watched)
        patch.setattr(LocalCluster, "stop", check_and_stop)
        patch.setattr(LocalWorker, "start", begin_anew)
        for name in ("kill", "terminate", "stop"):
            patch.setattr(LocalWorker, name, _asking(getattr(LocalWorker, name), kills=name == "kill"))
        patch.setattr(Run, "_end", end_and_note)
        yield


def broken(cluster: LocalCluster) -> list[Broken]:
    """Every breach that is known of on a cluster, once it has come to rest."""
    return history.check(known(cluster))


def known(cluster: LocalCluster) -> History:
    """All that is known of a cluster, once it has come to rest."""
    found = History()
    ledger = Ledger(apps.ledger_url(cluster.settings), prefix=cluster.settings.prefix)
    may_hold = _kills[id(cluster)] * cluster.concurrency * 2
    try:
        served = any(_runs(worker) for worker in cluster.workers)
        if served:
            _come_to_rest(cluster, ledger, may_hold)
        # One may have expired meanwhile.
        found.runs = {id: run for id, run in history.read_runs(ledger).items() if run.state is not None}
        # Where nobody serves, what was going on stays as it is, and so do messages.
        found.accepted = {id for id, run in found.runs.items() if served or run.state in ENDED}
        found.left = _left(cluster, ledger, may_hold) if served else Left()
        if not _is_shared(cluster):
            found.left = replace(found.left, keys=tuple(history.strays(ledger, found.runs)))
    except errors.BrokerUnavailable:
        # The test took the server away for good.
        pass
    finally:
        ledger.close()
    found.seen = [seen for seen in _seen if seen.run in found.runs and not _was_retried(found.runs[seen.run])]
    died = [worker for worker in cluster.workers if worker.restarts or not _runs(worker)]
    found.died = [_died(worker) for worker in died if worker not in _asked]
    return found


def _come_to_rest(cluster: LocalCluster, ledger: Ledger, may_hold: int) -> None:
    # What does not is for the checker to say.
    def is_at_rest() -> bool:
        left = _left(cluster, ledger, may_hold)
        ended = all(record.state in ENDED for record in ledger.runs(limit=1_000_000))
        return ended and not left.queued and left.unacked <= left.may_hold and not left.agenda

    try:
        until(is_at_rest, seconds=COMES_TO_REST, what="the end of every run and message")
        # A chord's last lane may be about to publish the callback, which then finds nothing to do.
        let_pass(0.1)
        until(is_at_rest, seconds=COMES_TO_REST, what="the end of every message")
    except AssertionError as error:
        print(error)


def _left(cluster: LocalCluster, ledger: Ledger, may_hold: int) -> Left:
    if _is_shared(cluster):
        return Left()
    left = history.read_left(ledger, may_hold=may_hold)
    if cluster.settings.ledger_url is None:
        return left
    return replace(left, queued=left.queued + _queued_elsewhere(cluster))


def _is_shared(cluster: LocalCluster) -> bool:
    # A server that was there before has more than this cluster's.
    return cluster.server is None and cluster.settings.ledger_url is None


def _queued_elsewhere(cluster: LocalCluster) -> int:
    # Of a broker that is not the ledger's server, only this is known.
    with kombu.Connection(apps.broker_url(cluster.settings)) as connection:
        try:
            return int(connection.default_channel.queue_declare(cluster.settings.queue, passive=True).message_count)
        except (NotFound, kombu.exceptions.OperationalError):
            return 0


def _note(run: str, told: Any) -> None:
    if told.error is not None:
        _seen.append(Seen(run, "cancelled" if isinstance(told.error, errors.RunCancelled) else "failed"))
        return
    # The test may change the value that it gets.
    _seen.append(Seen(run, "succeeded", codec.decode(codec.encode(told.value, where="what was told"))))


def _was_retried(run: history.RunHistory) -> bool:
    return any(event.type == "run.retried" for event in run.events)


def _asking(ends: Callable[..., None], *, kills: bool) -> Callable[..., None]:
    def ask(worker: LocalWorker, *args: Any, **options: Any) -> None:
        if kills and worker.alive:
            _kills[id(worker._cluster)] += 1
        _asked.add(worker)
        ends(worker, *args, **options)

    return ask


def _runs(worker: LocalWorker) -> bool:
    return worker.alive and _state(worker.pid or 0) not in ("", "Z")


def _died(worker: LocalWorker) -> str:
    return f"{worker.name} ended, and nobody has asked it to:\n{worker.log_tail(40)}"


def _state(pid: int) -> str:
    fields = _stat(Path(f"/proc/{pid}/stat"))
    return fields[0] if fields else ""


def _stat(file: Path) -> list[str]:
    try:
        return file.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _remaining(groups: Iterable[int]) -> list[str]:
    # What is left of a worker's process group. Who is gone may not be reaped yet, which is not ours to do.
    wanted, limit = {str(pid) for pid in groups}, time.monotonic() + 5

    def look() -> list[str]:
        found = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            fields = _stat(file)
            if fields and fields[0] != "Z" and fields[2] in wanted:
                found.append(f"{file.parent.name} of the group {fields[2]}")
        return found

    while (found := look()) and time.monotonic() < limit:
        let_pass(0.05)
    return found

"""What fault tests rely on: a cluster on which an invariant is broken does not stop in silence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis

from egregore_dist import LocalCluster, node
from egregore_dist.client import session
from egregore_dist.engine import leftovers
from egregore_dist.ledger import Ledger
from egregore_dist.wire import codec
from tests.support import watching
from tests.support.clusters import submitting
from tests.support.trial import Trial
from tests.support.waiting import until

Entry = dict[bytes, bytes]
#: How an invariant is broken, and what the checker says of it.
Forgery = tuple[str, str, Callable[[], object]]
BLOCK = "0.0-"
FORMER = "former@here/1/x.0"
pack = msgspec.msgpack.encode


@node
def double(number: int) -> int:
    return 2 * number


@node
def dawdle(number: int) -> None:
    time.sleep(0.5)


class Forger:
    """Changes what a server holds of a run that has ended, and takes that back."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self.ledger = ledger
        self.server: redis.Redis = ledger.redis
        self.run = run
        self.results, self.value = (ledger.keys.block(run, "r", block) for block in (BLOCK, "0"))
        self.stream = ledger.keys.part(run, "events")
        self._kept = {key: self.server.dump(key) for key in (self.stream, self.results, self.value)}
        self._ttl = self.server.pttl(self.stream)
        self.events: list[Entry] = [fields for _, fields in self.server.xrange(self.stream)]

    def restore(self) -> None:
        """Have it as it was."""
        for key, raw in self._kept.items():
            self.server.restore(key, self._ttl, raw, replace=True)
        self.server.delete("stray", self.ledger.keys.agenda)

    def first(self, type: str) -> int:
        """Where the first event of a type of the block is."""
        wanted = {"event": type.encode(), "block": BLOCK.encode()}
        return next(i for i, it in enumerate(self.events) if all(it.get(k.encode()) == v for k, v in wanted.items()))

    def put(self, at: int, type: str, *, times: int = 1, block: str = BLOCK, **fields: Any) -> None:
        """Put an event at a place."""
        made = {"event": type, "block": block, **fields}
        self._write([*self.events[:at], *[made] * times, *self.events[at:]])

    def number(self, at: int, attempt: int) -> None:
        """Have the branches of an event be of an attempt."""
        branches = msgspec.msgpack.decode(self.events[at][b"branches"])
        made = {**self.events[at], b"attempts": pack([part for branch in branches for part in (branch, attempt)])}
        self._write([*self.events[:at], made, *self.events[at + 1 :]])

    def _write(self, events: list[Any]) -> None:
        self.server.delete(self.stream)
        for fields in events:
            self.server.xadd(self.stream, fields)
        self.server.pexpire(self.stream, self._ttl)


def forgeries(forger: Forger) -> Iterator[Forgery]:
    """Each breaks one invariant in what the server holds of a run."""
    begun, over, last = (forger.first(type) for type in ("branches.started", "branches.ended", "block.ended"))
    end, put, server = len(forger.events), forger.put, forger.server
    other = {"branches": pack([3]), "lane": FORMER}

    yield "I1", "ended 2 times", lambda: put(end, "run.ended", state="succeeded")
    yield "I2", "a reader was told [0, 2, 4, 6]", lambda: server.hset(forger.value, "0", codec.encode(7, where="it"))
    yield "I3", "with branches [0, 1, 2] of 4", lambda: server.hdel(forger.results, "3")
    yield "I3", "was settled twice", lambda: put(over, "branches.ended", ok=pack([0]))
    yield "I4", "was lost 4 times", lambda: put(begun, "branch.lost", times=4, branch="3", lane=FORMER)
    yield "I4", "nobody had given it back", lambda: forger.number(begun, 2)
    yield "I4", "branches.started of attempt 4 of 3", lambda: forger.number(begun, 4)
    yield "I4", f"was settled by lane {FORMER}", lambda: put(over, "branches.ended", ok=pack([0]), lane=FORMER)
    yield "I5", "2 ran at once", lambda: put(begun + 1, "branches.started", **other)
    yield "I6", "were leased after its end", lambda: put(last + 1, "branches.started", **other)
    yield "I6", "opened after the end of block 0", lambda: put(end, "block.opened", block="0.0-1", name="x", n=1)
    yield "I8", "keys that never expire", lambda: server.persist(forger.results)
    yield "I8", "belong to nothing: stray", lambda: server.set("stray", 1)
    yield "I8", "is on the agenda", lambda: server.zadd(forger.ledger.keys.agenda, {f"{forger.run} hint 0": 1e15})


@contextmanager
def breaks(said: list[str], **options: Any) -> Iterator[LocalCluster]:
    """A cluster that must not stop in silence: what it says then is added to ``said``."""
    cluster = LocalCluster(**options)
    cluster.start()
    try:
        with submitting(cluster.settings):
            yield cluster
    finally:
        try:
            cluster.stop()
        except AssertionError as error:
            said.append(str(error))


@pytest.mark.parametrize("served", [True, False], ids=["served", "with nobody alive"])
def test_what_is_forged_is_found(monkeypatch: pytest.MonkeyPatch, served: bool) -> None:
    """Each breach of an invariant is found on a cluster that a test has used, also where its workers have died."""
    said: list[str] = []
    with breaks(said, workers=1) as cluster:
        run = double.map(max_concurrent=1).submit([0, 1, 2, 3])
        assert run.result(timeout=60) == [0, 2, 4, 6]
        assert watching.broken(cluster) == []
        if not served:
            cluster.workers[0].kill()
            until(lambda: not cluster.workers[0].alive, what="its end")
            assert watching.broken(cluster) == []
        forger = Forger(session.current().ledger, run.id)
        # What is forged does not come to rest.
        monkeypatch.setattr(watching, "COMES_TO_REST", 0.5)
        for invariant, what, forge in forgeries(forger):
            forge()
            found = watching.broken(cluster)
            assert any(it.invariant == invariant and what in it.what for it in found), (invariant, what, found)
            forger.restore()
        assert watching.broken(cluster) == []
        if served:
            forger.server.hset("unacked", "x", json.dumps([{"headers": {}}, "", ""]))
        else:
            forger.server.persist(forger.results)

    assert ("I8 1 messages are not acknowledged" if served else "I8 run") in said[0]


def test_a_worker_that_died_is_found() -> None:
    """One that ended without being asked to is found when its cluster stops; one that was killed is not."""
    said: list[str] = []
    with breaks(said, workers=3) as cluster:
        died, killed, ended = cluster.workers
        killed.kill()
        watching.expect_end(ended)
        for worker in (died, ended):
            os.kill(worker.pid or 0, signal.SIGKILL)
        until(lambda: not died.alive and not ended.alive, what="their end")

    assert f"I9 worker {died.name} ended, and nobody has asked it to" in said[0]
    assert killed.name not in said[0]
    assert ended.name not in said[0]


def test_a_run_that_goes_on_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a test leaves as it is, is taken for one that does not end; one that it cancels is not."""
    monkeypatch.setattr(watching, "COMES_TO_REST", 0.5)
    said: list[str] = []
    with breaks(said, workers=1):
        left, cancelled = (dawdle.map(max_concurrent=1).submit(list(range(20))) for _ in range(2))
        for run in (left, cancelled):
            run.pause()
        cancelled.cancel()

    assert f"I1 run {left.id}: accepted, and still paused" in said[0]
    assert cancelled.id not in said[0]


@node
def leaves_a_process(_: object) -> None:
    # Not as a branch does: the worker would end it.
    with leftovers.kept():
        subprocess.Popen(["sleep", "300"])


def test_a_process_that_outlives_a_stop_in_good_order_is_found() -> None:
    """What a worker leaves behind when it is asked to stop is found, though it would not outlive a kill."""
    trial = Trial()
    trial.stops_in_order = True
    with pytest.raises(AssertionError, match=r"I6 .* sleep 300 , after its worker stopped in good order"), trial:
        trial.run(leaves_a_process, None)
    # It stays where a trial has failed, to be looked at.
    shutil.rmtree(trial.folder)

"""F5, F7, F18, F20: the server is killed, stopped, full, read-only, or cannot write its disk; workers outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from egregore_dist import (
    BrokerFull,
    BrokerUnavailable,
    LocalCluster,
    ParallelExecutionError,
    Run,
    RunLost,
    Sequence,
    node,
    parallel,
)
from egregore_dist.client import server as embedded
from egregore_dist.engine import app as apps
from egregore_dist.ledger import Ledger
from tests.support.lengths import HOURS
from tests.support.nodes import ProcessContainer
from tests.support.trial import Trial
from tests.support.waiting import let_pass, until
from tests.support.work import anap, join, nap, part, quick

# F7's bound on a worker's share of one core while its server does not answer.
BUSY = 0.20
HEALS = 10.0
# A busy machine is slower than the product.
SLACK = 10.0


def submit(trial: Trial, flow: Any, data: Any) -> Run:
    """Submit until the server has taken it: an answer that was lost is asked for again under the same id."""
    id = uuid.uuid4().hex
    limit = time.monotonic() + 30
    while True:
        try:
            return trial.submit(flow, data, id)
        except BrokerUnavailable:
            assert time.monotonic() < limit
            let_pass(0.05)


class Witness:
    """Writes to a server until it dies, and sees afterwards whether all that it answered is there."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
        self._answered = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        with contextlib.suppress(redis.exceptions.ConnectionError):
            while True:
                self._answered = int(cast(int, self._redis.incr("witness")))
                time.sleep(0.0005)

    def forgot(self) -> int:
        """How many of its last writes the server has forgotten, now that it is back."""
        self._thread.join(20)
        return max(0, self._answered - int(cast(bytes, self._redis.getdel("witness")) or 0))


def cpu(nodes: list[ProcessContainer]) -> dict[int, float]:
    """Seconds of CPU that each process of the workers has used."""
    used = {}
    for main in (psutil.Process(it.pid) for it in nodes):
        for process in (main, *main.children(recursive=True)):
            times = process.cpu_times()
            used[process.pid] = times.user + times.system
    return used


def assert_idle(nodes: list[ProcessContainer], seconds: float) -> float:
    """No process of the workers is busy for so long; returns the busiest one's share of a core."""
    before, begun = cpu(nodes), time.monotonic()
    let_pass(seconds)
    took = time.monotonic() - begun
    after = cpu(nodes)
    shares = {pid: (after[pid] - used) / took for pid, used in before.items() if pid in after}
    assert max(shares.values()) < BUSY, shares
    return max(shares.values())


def mixed(rng: random.Random) -> tuple[Any, Any, int]:
    """A small workflow, its input, and how many values it gives."""
    naps, numbers = rng.randint(1, 6), rng.randint(1, 40)
    return rng.choice(
        [
            (parallel(quick, anap), 0.05, 2),
            (Sequence(nap.map(max_concurrent=2), join), [0.05] * naps, naps),
            (Sequence(quick.map(), join), list(range(numbers)), numbers),
            (Sequence(parallel(quick, nap), join), 0.1, 2),
        ]
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fsync", [pytest.param("everysec", marks=pytest.mark.long), "always"])
def test_a_server_that_is_killed_again_and_again(
    trial_of: Callable[..., Trial],
    monkeypatch: pytest.MonkeyPatch,
    fsync: str,
    long: bool,
    figure: Callable[[str], None],
) -> None:
    """Under load the server is killed and comes back with its data: no run is lost, no worker ends.

    With ``everysec`` it writes nothing while an fsync takes long, and answers all the same: of what it forgets
    then runs may be lost that were submitted since its start, and nodes called twice.
    """
    monkeypatch.setattr(embedded, "CONFIG", embedded.CONFIG.replace("appendfsync everysec", f"appendfsync {fsync}"))
    trial = trial_of(workers=2, concurrency=2, settings={"report_ttl": "5"})
    server = trial.cluster.server
    assert server is not None
    pids = [it.pid for it in trial.nodes]
    kills, runs = (60, 1000) if HOURS else (16, 260) if long else (4, 60)
    if fsync == "always":
        kills, runs = kills // 2, runs // 2
    made: list[tuple[Run, int]] = []
    # Those that may be lost: their submission, since the server was started last, may be what it has forgotten.
    fresh, since = set[str](), 0
    for number in range(kills):
        until_kill = time.monotonic() + trial.rng.uniform(0.3, 8.0 if long else 1.5)
        while time.monotonic() < until_kill or len(made) < runs * (number + 1) // kills:
            flow, data, size = mixed(trial.rng)
            made.append((submit(trial, flow, data), size))
            let_pass(trial.rng.uniform(0, 0.06))
        witness = Witness(trial.cluster.url)
        let_pass(0.05)
        server.kill()
        let_pass(trial.rng.uniform(0, 2.0))
        server.restart()
        if forgotten := witness.forgot():
            trial.forgotten += forgotten
            fresh.update(run.id for run, _ in made[since:])
        since = len(made)

    assert trial.ledger.redis.config_get("appendfsync") == {"appendfsync": fsync}
    assert not (trial.forgotten and fsync == "always")
    for run, size in made:
        found = trial.outcome(run)
        assert (run.id in fresh and isinstance(found, RunLost)) or len(found) == size
    assert [it.pid for it in trial.nodes if it.status == "running"] == pids
    figure(f"{len(made)} runs, {kills} kills, {trial.forgotten} answered writes forgotten by the server")


def test_a_worker_that_holds_messages_outlives_a_restart(trial_of: Callable[..., Trial]) -> None:
    """A restart of the server ends no worker that holds messages it has not acknowledged, of either pool."""
    trial = trial_of(workers=1, concurrency=2)
    server = trial.cluster.server
    assert server is not None
    run = trial.submit(Sequence(nap.map(), join), [3.0, 3.0, 0.1])
    trial.wait_for(2, node="nap")
    assert trial.ledger.redis.hlen("unacked") >= 1
    server.kill()
    # Until the worker has seen it go.
    let_pass(1.0)
    server.restart()

    assert len(trial.result(run)) == 3
    assert len(trial.result(submit(trial, parallel(quick, anap), 0.01))) == 2
    assert trial.nodes[0].status == "running"
    # What was acknowledged while there was nobody to tell is acknowledged in the end.
    until(lambda: not trial.ledger.redis.hlen("unacked"), seconds=30, what="the end of every message")


def test_threads_outlive_a_restart() -> None:
    """The same with threads."""
    with LocalCluster(workers=1, concurrency=2, pool="threads") as cluster:
        assert cluster.server is not None
        pid = cluster.workers[0].pid
        run = Sequence(node("pause")(_pause).map(), node("count")(len)).submit([1.5, 1.5, 0.1])
        until(lambda: run.status == "running")
        let_pass(0.3)
        cluster.server.kill()
        let_pass(1.0)
        cluster.server.restart()

        assert run.result(timeout=60) == 3
        assert parallel(node("probe")(lambda _: 1)).run(1) == {"probe": 1}
        assert (cluster.workers[0].pid, cluster.workers[0].alive) == (pid, True)


def _fails(data: object) -> None:
    raise ValueError(data)


def _pause(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("how", ["stopped", "gone"])
def test_no_busy_loop_while_the_server_is_away(
    trial: Trial, how: str, long: bool, figure: Callable[[str], None]
) -> None:
    """While the server is stopped or gone no process of a worker is busy; ten seconds after it is back, runs end."""
    server = trial.cluster.server
    assert server is not None
    begun = trial.submit(Sequence(nap.map(), join), [2.0] * 4)
    trial.wait_for(2, node="nap")
    if how == "stopped":
        os.kill(server.pid, signal.SIGSTOP)
    else:
        server.kill()
    share = assert_idle(trial.nodes, 30.0 if long else 5.0)
    if how == "stopped":
        os.kill(server.pid, signal.SIGCONT)
    else:
        server.restart()
    back = time.monotonic()
    fresh = submit(trial, parallel(quick, anap), 0.01)

    assert len(trial.result(fresh)) == 2
    took = time.monotonic() - back
    assert took < HEALS + SLACK
    assert len(trial.result(begun)) == 4
    figure(f"busiest process {share:.0%} of a core; {took:.1f} s until a run ended after its return")


#: How a server is made to refuse writes, and to take them again.
REFUSALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "read-only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "without replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_a_server_that_refuses_to_write(trial: Trial, how: str, figure: Callable[[str], None]) -> None:
    """Submit says so; the workers that are there wait, and so do new ones; with room all that was accepted ends."""
    refuse, allow = REFUSALS[how]
    server: redis.Redis = trial.ledger.redis
    pids = [it.pid for it in trial.nodes]
    running = trial.submit(Sequence(nap.map(), join), [1.5] * 4)
    waiting = [trial.submit(parallel(quick, anap), 0.01) for _ in range(10)]
    trial.wait_for(2, node="nap")
    server.execute_command(*refuse)
    refused_at = time.monotonic()
    with pytest.raises(BrokerFull, match="the server takes nothing more"):
        parallel(quick, anap).submit(0.01)
    late = trial.add(wait=False)
    # Longer than reports live: nobody is taken for dead who could not report.
    share = assert_idle(trial.nodes[:2], 5.0)
    assert [it.status for it in trial.nodes] == ["running"] * 3, [it.died for it in trial.nodes]
    server.execute_command(*allow)
    allowed_at = time.monotonic()
    assert len(trial.result(submit(trial, parallel(quick, anap), 0.01))) == 2
    took = time.monotonic() - allowed_at

    late.ready()
    assert len(trial.result(running)) == 4
    assert all(len(trial.result(run)) == 2 for run in waiting)
    assert len(trial.executions("nap")) == 4
    assert [it.pid for it in trial.nodes[:2] if it.status == "running"] == pids
    until(lambda: not server.hlen("unacked"), seconds=30, what="the end of every message")
    assert took < HEALS + SLACK
    figure(
        f"refused for {allowed_at - refused_at:.1f} s, busiest process {share:.0%}; then {took:.1f} s to a run's end"
    )


@pytest.mark.parametrize("how", REFUSALS)
def test_a_server_that_refuses_to_write_can_be_read(trial: Trial, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """What has ended is read as ever, by those who wait too; a run that goes on is waited for, and the log says why."""
    refuse, allow = REFUSALS[how]
    server: redis.Redis = trial.ledger.redis
    good = trial.submit(parallel(quick, anap), 0.01)
    bad = trial.submit(parallel(node("fails")(_fails), quick), 0.01)
    begun = trial.submit(Sequence(nap.map(), join), [8.0])
    assert len(trial.result(good)) == 2
    with pytest.raises(ParallelExecutionError):
        trial.result(bad)
    trial.wait_for(1, node="nap")
    server.execute_command(*refuse)
    try:
        found = Run(good.id)
        assert len(found.result(timeout=5)) == 2
        assert len(asyncio.run(asyncio.wait_for(_awaited(found), 5))) == 2
        assert [event.type for event in found.events()][-1] == "run.ended"
        assert list(found.logs(follow=True)) == []
        assert found.report().state == "succeeded"
        with pytest.raises(ParallelExecutionError) as caught:
            Run(bad.id).result(timeout=5)
        assert caught.value.branch == "fails"
        assert caplog.records == []
        with pytest.raises(TimeoutError, match="has not ended"):
            begun.result(timeout=1)
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(_awaited(begun), 1))
        assert [record.action for record in caplog.records] == ["ledger_full"] * 2  # type: ignore[attr-defined]
    finally:
        server.execute_command(*allow)

    assert len(trial.result(begun)) == 1


@pytest.mark.timeout(300)
def test_a_full_server_is_drained(trial: Trial, long: bool) -> None:
    """Messages that fill the server are taken off it although it is full, by workers that were just started too."""
    server: redis.Redis = trial.ledger.redis
    queue = trial.cluster.settings.queue
    run = trial.submit(parallel(quick, anap), 0.01)
    assert len(trial.result(run)) == 2
    for it in trial.nodes:
        it.kill("SIGSTOP")
    used = int(server.info("memory")["used_memory"])
    server.config_set("maxmemory", str(used + (40 if long else 4) * 2**20))
    garbage = [f"not ours {number:0500d}" for number in range(1000)]
    with contextlib.suppress(redis.exceptions.OutOfMemoryError):
        while True:
            server.lpush(queue, *garbage)
    for it in trial.nodes:
        it.kill("SIGCONT")
        it._asked = False
    fresh = trial.add(wait=False)

    until(lambda: not server.llen(queue), seconds=120, what="the end of the flood")
    fresh.ready()
    assert len(trial.result(submit(trial, parallel(quick, anap), 0.01))) == 2
    assert [it.status for it in trial.nodes] == ["running"] * 3


@pytest.mark.timeout(300)
def test_a_server_takes_no_more_runs_than_it_has_room_for(trial: Trial, figure: Callable[[str], None]) -> None:
    """Runs that are submitted as fast as can be are refused while there is some room for their results."""
    server: redis.Redis = trial.ledger.redis
    assert len(trial.result(trial.submit(parallel(quick, anap), 0.01))) == 2
    for it in trial.nodes:
        it.kill("SIGSTOP")
    most = int(server.info("memory")["used_memory"]) + 20 * 2**20
    server.config_set("maxmemory", str(most))
    made: list[Run] = []

    def submit_for_ever() -> None:
        while True:
            made.append(trial.submit(parallel(part, quick), trial.rng.randbytes(100_000)))

    with pytest.raises(BrokerFull, match="kept for the results"):
        submit_for_ever()
    used = int(server.info("memory")["used_memory"])
    for it in trial.nodes:
        it.kill("SIGCONT")
        it._asked = False

    assert [len(trial.result(run, timeout=120)["part"]) for run in made] == [2_000] * len(made)
    figure(f"{len(made)} runs are taken, which fill {used / most:.0%} of the memory; all end")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("this machine does not allow to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    """A server that cannot write its AOF is waited for: submit says so, no worker ends, and it heals with room."""
    with LocalCluster(workers=1, concurrency=1, data_dir=small_disk) as cluster:
        ledger = Ledger(apps.ledger_url(cluster.settings), prefix=cluster.settings.prefix)
        pid = cluster.workers[0].pid
        flow = Sequence(node("pause")(_pause).map(), node("count")(len))
        ended, running = flow.submit([0.0]), flow.submit([1.0] * 3)
        assert ended.result(timeout=30) == 1
        until(lambda: running.status == "running")
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

        def refuses() -> bool:
            try:
                ledger.redis.set("some", b"x" * 1000, ex=60)
            except redis.exceptions.ResponseError as error:
                return "MISCONF" in str(error)
            return False

        until(refuses, what="the server's refusal")
        with pytest.raises(BrokerUnavailable, match="cannot write to its disk"):
            flow.submit([0.0])
        assert ended.result(timeout=5) == 1
        let_pass(4.0)
        assert cluster.workers[0].alive
        filler.unlink()

        assert running.result(timeout=60) == 3
        assert flow.run([0.0]) == 1
        assert (cluster.workers[0].pid, cluster.workers[0].alive) == (pid, True)
        ledger.close()


# Redis' clock stands still in a script, so it counts its own CPU time.
HOLD = "local until_then = os.clock() + tonumber(ARGV[1]); while os.clock() < until_then do end"


@pytest.mark.long
def test_a_server_that_a_script_holds(trial_of: Callable[..., Trial]) -> None:
    """A script holds the server for longer than anybody waits for an answer: runs wait for it, and nothing ends."""
    trial = trial_of(workers=2, concurrency=2, settings={"report_ttl": "5"})
    pids = [it.pid for it in trial.nodes]
    url = trial.cluster.url
    assert url is not None
    with redis.Redis.from_url(url, socket_timeout=60) as holder, redis.Redis.from_url(url) as other:
        holder.config_set("lua-time-limit", 50)
        run = trial.submit(Sequence(nap.map(), join), [0.05] * 60 + [6.0])
        nested = trial.submit(parallel(parallel(nap, quick, name="inner"), anap), 0.2)
        trial.wait_for(5, node="nap")

        def is_held() -> bool:
            try:
                other.get("x")
            except redis.exceptions.ResponseError as error:
                return "BUSY" in str(error)
            return False

        with futures.ThreadPoolExecutor(3) as threads:
            waits = [threads.submit(trial.result, run), threads.submit(asyncio.run, _awaited(nested))]
            for seconds in (1.0, 9.0, 2.0):
                held = threads.submit(holder.eval, HOLD, 0, seconds)
                until(is_held, what="a server that is held")
                held.result()
                let_pass(0.3)
            first, second = (wait.result() for wait in waits)

    assert len(first) == 61
    assert set(second) == {"inner", "anap"}
    assert [it.pid for it in trial.nodes if it.status == "running"] == pids
    assert len(trial.result(submit(trial, parallel(quick, anap), 0.01))) == 2


async def _awaited(run: Run) -> Any:
    return await run

"""How branches and blocks end on real workers: retries, deadlines, failures, dead processes."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import (
    BranchError,
    Context,
    LocalCluster,
    ParallelExecutionError,
    ParallelTimeoutError,
    Run,
    RunFailed,
    Sequence,
    errors,
    node,
    parallel,
)
from tests.support.waiting import until

pytestmark = pytest.mark.store_faults
# A lost answer to a submit costs up to 3 s, until the janitor publishes.
in_time = pytest.mark.store_faults(unless="branches have to begin before a deadline of less than a second")


@node
def fine(data: Any) -> str:
    return "fine"


def lines(path: Path) -> list[str]:
    """What nodes have written to a file so far."""
    return path.read_text().splitlines() if path.exists() else []


def write(path: str | Path, line: object) -> None:
    """Append a line to a file, from whichever process."""
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


@node
def sets_an_alarm(path: str, context: Context) -> None:
    write(path, context.attempt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(30)


def test_an_alarm_without_a_handler_is_a_failure(local: LocalCluster, tmp_path: Path) -> None:
    """A node that sets an alarm and does not handle it fails, once, with what to do about it."""
    with pytest.raises(ParallelExecutionError, match="SIGALRM came, and nothing was set to handle it") as caught:
        parallel(sets_an_alarm, fine).submit(str(tmp_path / "calls")).result(timeout=30)

    assert caught.value.branch == "sets_an_alarm"
    assert lines(tmp_path / "calls") == ["1"]


# Retries and the node's own timeout


@node(retries=2)
def flaky(path: str, context: Context) -> int:
    write(path, f"{context.attempt} {context.idempotency_key}")
    if context.attempt < 3:
        raise ConnectionError("try again")
    return context.attempt


@node(retries=2)
async def aflaky(path: str, context: Context) -> int:
    await asyncio.sleep(0)
    write(path, f"{context.attempt} {context.idempotency_key}")
    if context.attempt < 3:
        raise ConnectionError("try again")
    return context.attempt


@pytest.mark.parametrize("step", [flaky, aflaky], ids=["sync", "async"])
def test_a_node_is_tried_again(cluster: LocalCluster, tmp_path: Path, step: Any) -> None:
    """A failing node is tried ``retries`` times more: attempts count up, the idempotency key stays."""
    path = tmp_path / "attempts"

    assert parallel(step, fine)(str(path)) == {step.name: 3, "fine": "fine"}
    attempts, keys = zip(*(line.split() for line in lines(path)), strict=True)
    assert (attempts, len(set(keys))) == (("1", "2", "3"), 1)


def test_retries_end(local: LocalCluster, tmp_path: Path) -> None:
    """When the last attempt fails, its exception is the cause, and the failure says which attempt it was."""

    @node("broken", retries=1)
    def broken(path: str) -> None:
        write(path, "tried")
        raise OSError("no disk")

    with pytest.raises(ParallelExecutionError) as caught:
        parallel(broken)(str(tmp_path / "tries"))

    assert isinstance(caught.value.__cause__, OSError)
    assert lines(tmp_path / "tries") == ["tried"] * 2
    assert caught.value.errors["broken"].attempt == 2


@node(timeout=0.2)
def spins(data: Any) -> None:
    while True:
        pass


@node(timeout=0.2)
def sleeps(data: Any) -> None:
    time.sleep(60)


@node(timeout=0.2)
async def asleep(data: Any) -> None:
    await asyncio.sleep(60)


@node(timeout=0.2, retries=1)
def twice(data: Any) -> None:
    time.sleep(60)


def test_a_node_s_timeout_holds(cluster: LocalCluster) -> None:
    """A node that computes, sleeps or awaits beyond its ``timeout`` is stopped, and fails with that outcome."""
    found = parallel(spins, sleeps, asleep, twice, fine, on_error="collect")(1)

    for name in ("spins", "sleeps", "asleep", "twice"):
        assert (found[name].kind, found[name].type, found[name].node) == ("timeout", "TimeoutError", name)
        assert "0.2 s" in found[name].message
    assert found["fine"] == "fine"


def test_a_node_s_timeout_outside_of_a_block(local: LocalCluster) -> None:
    """A run whose only node takes too long fails with a `TimeoutError` as its cause."""
    with pytest.raises(RunFailed, match="'spins' did not end within its timeout") as caught:
        spins.run(1)

    assert isinstance(caught.value.__cause__, TimeoutError)


# Deadlines of blocks


def least(act: Callable[[], float], within: float) -> float:
    """The least of three times, or the first that is short enough: a busy machine is late now and then."""
    found = math.inf
    for _ in range(3):
        found = min(found, act())
        if found < within:
            break
    return found


@node
def lingers(folder: str) -> None:
    write(f"{folder}/started", "lingers")
    try:
        time.sleep(60)
    finally:
        write(f"{folder}/finally", "lingers")


@node
async def alingers(folder: str) -> None:
    write(f"{folder}/started", "alingers")
    try:
        await asyncio.sleep(60)
    finally:
        write(f"{folder}/finally", "alingers")


def timed_out(flow: Callable[[str], Any], tmp_path: Path) -> tuple[Path, ParallelTimeoutError, float]:
    """Run it in a folder of its own: that, the error that it ends with, and after how many seconds."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    started = time.monotonic()
    with pytest.raises(ParallelTimeoutError) as caught:
        flow(str(folder))
    return folder, caught.value, time.monotonic() - started


@in_time
def test_a_block_ends_at_its_deadline(cluster: LocalCluster, tmp_path: Path) -> None:
    """At its timeout a block ends, names what had ended, what ran and what waited, and the workers are free again."""
    slow = parallel(lingers, lingers.alias("second"), fine.alias("never"), max_concurrent=2, timeout=1.5, name="timed")

    def times_out() -> float:
        folder, error, took = timed_out(slow, tmp_path)
        assert (error.block, error.timeout, error.results) == ("timed", 1.5, {})
        assert (error.running, error.pending) == (["lingers", "second"], ["never"])
        assert took >= 1.5
        until(lambda: lines(folder / "finally") == ["lingers"] * 2, seconds=3, what="both finally blocks")
        return took

    def runs() -> float:
        started = time.monotonic()
        assert parallel(fine, fine.alias("two")).run(1) == {"fine": "fine", "two": "fine"}
        return time.monotonic() - started

    assert least(times_out, within=2.5) < 2.5
    assert least(runs, within=1) < 1


@in_time
def test_async_branches_end_at_the_deadline(local: LocalCluster, tmp_path: Path) -> None:
    """Async branches are cancelled at the block's deadline, and their ``finally`` runs."""
    with pytest.raises(ParallelTimeoutError) as caught:
        alingers.map(timeout=1.5).run([str(tmp_path)] * 5)

    assert caught.value.running == [0, 1, 2, 3, 4]
    until(lambda: lines(tmp_path / "finally") == ["alingers"] * 5, seconds=3, what="every finally block")


@node
def hangs_at_one(path: str, context: Context) -> None:
    write(path, context.branch)
    if context.branch == 12:
        time.sleep(60)


@in_time
@pytest.mark.parametrize("timeout", [0.3, 0.6, 0.9, 1.2, 1.5])
def test_a_deadline_tells_what_ended_from_what_ran(cluster: LocalCluster, tmp_path: Path, timeout: float) -> None:
    """A long branch amid tiny ones, which one lane leases together: those before it have ended, those after it wait."""
    hangs = hangs_at_one.map(max_concurrent=1, timeout=timeout)
    with pytest.raises(ParallelTimeoutError) as caught:
        hangs.run([str(tmp_path / "begun")] * 25)

    begun, error = {int(line) for line in lines(tmp_path / "begun")}, caught.value
    # On a busy machine one may be leased and not begun, or begun and not committed.
    assert len(error.running) <= 2
    assert begun - {*error.running} <= error.results.keys() <= begun - {12}
    assert sorted([*error.results, *error.running, *error.pending]) == list(range(25))


@in_time
def test_what_ended_before_the_deadline_is_kept(local: LocalCluster, tmp_path: Path) -> None:
    """The error of a deadline holds the results so far."""
    with pytest.raises(ParallelTimeoutError) as caught:
        parallel(fine, lingers, timeout=1.5)(str(tmp_path))

    assert (caught.value.results, caught.value.running, caught.value.pending) == ({"fine": "fine"}, ["lingers"], [])


@in_time
def test_what_failed_before_the_deadline_is_named(local: LocalCluster, tmp_path: Path) -> None:
    """Where failures are collected, the error of a deadline holds those that there were until then."""
    deep = Sequence(parallel(fails, name="inner"), name="deep")
    block = parallel(fine, fails, deep, lingers, on_error="collect", timeout=2.5, name="timed")
    with pytest.raises(ParallelTimeoutError, match=r"3 of 4 branches had ended, 2 of them badly, 1 was") as caught:
        block(str(tmp_path))

    found = caught.value.results
    assert (list(found), caught.value.running, caught.value.pending) == (["fine", "fails", "deep"], ["lingers"], [])
    assert found["fine"] == "fine"
    assert isinstance(found["fails"], BranchError)
    assert (found["fails"].branch, found["fails"].node, found["fails"].message) == ("fails", "fails", "('broken', 7)")
    assert found["deep"].type.endswith(".ParallelExecutionError")


@in_time
def test_a_deadline_inside_ends_the_outer_block(local: LocalCluster, tmp_path: Path) -> None:
    """A nested block's deadline fails the branch that holds it, with the nested error as the cause."""
    with pytest.raises(ParallelExecutionError) as caught:
        parallel(fine, parallel(fine, lingers, timeout=1.5, name="inner"), name="outer")(str(tmp_path))

    cause = caught.value.__cause__
    assert (caught.value.block, caught.value.branch) == ("outer", "inner")
    assert isinstance(cause, ParallelTimeoutError)
    assert (cause.block, cause.running) == ("inner", ["lingers"])


@in_time
def test_an_outer_deadline_ends_what_is_nested(local: LocalCluster, tmp_path: Path) -> None:
    """The outer deadline stops the branches of nested blocks as well."""
    slow = parallel(fine, Sequence(parallel(lingers, fine), fine).alias("deep"), timeout=0.8, name="outer")

    def times_out() -> float:
        folder, error, took = timed_out(slow, tmp_path)

        assert (error.block, error.running) == ("outer", ["deep"])
        until(lambda: lines(folder / "finally") == ["lingers"], seconds=3, what="the finally block")
        return took

    assert least(times_out, within=2) < 2


@in_time
def test_what_is_nested_stops_as_soon_as_the_rest(local: LocalCluster, tmp_path: Path) -> None:
    """Its lane knows the outer deadline, and does not learn of the end only when it asks for its branch."""
    inner = parallel(lingers, name="inner")
    took = []
    for _ in range(3):
        with pytest.raises(ParallelTimeoutError) as caught:
            parallel(Sequence(inner, fine).alias("deep"), timeout=0.7, name="outer")(str(tmp_path))
        took.append(caught.value.stopping)

    assert min(seconds for seconds in took if seconds is not None) < 0.15


@in_time
def test_a_deadline_needs_no_client(local: LocalCluster, tmp_path: Path) -> None:
    """The client that submitted has gone; the block ends at its deadline, and what ran is stopped."""
    program = """
        import sys
        from egregore_dist import parallel
        from tests.cluster.test_ends import fine, lingers
        parallel(fine, lingers, timeout=3.0, name="left").submit(sys.argv[1], id="client-gone")
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], env=local.worker_environment(), check=True
    )
    until(lambda: lines(tmp_path / "finally") == ["lingers"], seconds=15, what="the finally block")

    # The lane says so only after that.
    until(lambda: Run("client-gone").status == "failed", seconds=2, what="the end of the run")
    with pytest.raises(ParallelTimeoutError) as caught:
        Run("client-gone").result(timeout=5)
    assert (caught.value.block, caught.value.results) == ("left", {"fine": "fine"})


@pytest.mark.parametrize("how", ["result", "await"])
def test_a_deadline_needs_no_worker(tmp_path: Path, how: str) -> None:
    """Where every worker is dead, who waits for the run ends a block at its deadline, and what depends on it."""
    inner = parallel(fine, lingers, max_concurrent=1, timeout=6.0, name="inner")
    with LocalCluster(workers=1, concurrency=2) as cluster:
        run = parallel(inner, fine, name="outer").submit(str(tmp_path))
        until(lambda: lines(tmp_path / "started") == ["lingers"], seconds=15, what="the node")
        cluster.workers[0].kill()
        started = time.monotonic()

        async def waited() -> Any:
            return await asyncio.wait_for(run, 20)

        with pytest.raises(ParallelExecutionError) as caught:
            _ = run.result(timeout=20) if how == "result" else asyncio.run(waited())

        assert time.monotonic() - started < 6.0 + 5
        cause = caught.value.__cause__
        assert isinstance(cause, ParallelTimeoutError)
        assert (cause.block, cause.results, cause.running) == ("inner", {"fine": "fine"}, ["lingers"])


# A failing branch


class Odd(Exception):
    """An exception of the user's own."""


@node
def fails(folder: str) -> None:
    until(lambda: len(lines(Path(folder, "started"))) >= 1, what="a sibling")
    raise Odd("broken", 7)


def test_a_failing_branch_stops_its_siblings(cluster: LocalCluster, tmp_path: Path) -> None:
    """The first failure ends the block: a running sibling is stopped, a waiting one never starts."""
    flow = parallel(lingers, fails, fine, max_concurrent=2, name="block")
    started = time.monotonic()
    with pytest.raises(ParallelExecutionError) as caught:
        flow(str(tmp_path))

    error = caught.value
    assert time.monotonic() - started < 3
    assert (error.block, error.branch, error.node, list(error.errors)) == ("block", "fails", "fails", ["fails"])
    assert error.results == {}
    assert isinstance(error.__cause__, Odd)
    assert error.__cause__.args == ("broken", 7)
    assert 'raise Odd("broken", 7)' in (error.remote_traceback or "")
    assert "egregore_dist/engine" not in (error.remote_traceback or "")
    assert "fails" in str(error)
    assert "block" in str(error)
    until(lambda: lines(tmp_path / "finally") == ["lingers"], seconds=5, what="the finally block")


def test_a_failing_branch_stops_async_siblings(local: LocalCluster, tmp_path: Path) -> None:
    """Async siblings are cancelled, and their ``finally`` runs."""
    with pytest.raises(ParallelExecutionError):
        parallel(alingers, fails)(str(tmp_path))

    until(lambda: lines(tmp_path / "finally") == ["alingers"], seconds=5, what="the finally block")


def test_failures_can_be_collected(cluster: LocalCluster) -> None:
    """With ``on_error="collect"`` failures are values in their places, also of nested blocks, and siblings go on."""

    @node("bad")
    def bad(data: int) -> None:
        raise ValueError("bad input")

    flow = parallel(
        fine,
        bad,
        parallel(fine, bad, name="fails_whole"),
        parallel(fine, bad, name="collects", on_error="collect"),
        Sequence(fine, bad, fine).alias("sequence"),
        on_error="collect",
    )
    found = flow(1)

    assert list(found) == ["fine", "bad", "fails_whole", "collects", "sequence"]
    assert (found["bad"].branch, found["bad"].type, found["bad"].message) == ("bad", "ValueError", "bad input")
    assert "raise ValueError" in found["bad"].traceback
    assert found["fails_whole"].type.endswith("ParallelExecutionError")
    assert found["fails_whole"].node == "bad"
    assert isinstance(found["collects"]["bad"], BranchError)
    assert found["collects"]["fine"] == "fine"
    assert (found["sequence"].branch, found["sequence"].node) == ("sequence", "bad")


def test_collected_failures_travel_on(local: LocalCluster) -> None:
    """The step after a collecting block gets the failures as `BranchError` values."""

    @node("bad")
    def bad(data: int) -> None:
        raise ValueError("bad input")

    @node("sorted_out")
    def sorted_out(results: dict[str, Any]) -> list[str]:
        return [name for name, value in results.items() if isinstance(value, BranchError)]

    assert Sequence(parallel(fine, bad, on_error="collect"), sorted_out)(1) == ["bad"]


# Exceptions of every kind


class Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Stuck(Exception):
    """It cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("stuck")
        self.lock = threading.Lock()


def overflow() -> None:
    overflow()


def throw(error: BaseException) -> None:
    raise error


ODD: dict[str, Callable[[], Any]] = {
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: throw(KeyboardInterrupt()),
    "StopIteration": lambda: next(iter(())),
    "StopAsyncIteration": lambda: throw(StopAsyncIteration()),
    "CancelledError": lambda: throw(asyncio.CancelledError()),
    "GeneratorExit": lambda: throw(GeneratorExit()),
    "RecursionError": overflow,
    "MemoryError": lambda: throw(MemoryError("no room")),
    "BaseException": lambda: throw(BaseException("plain")),
    "ExceptionGroup": lambda: throw(ExceptionGroup("many", [ValueError("a"), KeyError("b")])),
    "UnicodeDecodeError": lambda: b"\xff".decode(),
    "Mute": lambda: throw(Mute("x")),
    "Stuck": lambda: throw(Stuck()),
}


@node
def odd(name: str) -> None:
    ODD[name]()


@node
async def aodd(name: str) -> None:
    await asyncio.sleep(0)
    ODD[name]()


@pytest.mark.parametrize("step", [odd, aodd], ids=["sync", "async"])
def test_odd_exceptions_are_failures(cluster: LocalCluster, step: Any) -> None:
    """Whatever a node raises is the failure of its branch, by its class, and the worker goes on."""
    pids = [worker.pid for worker in cluster.workers]
    found = step.map(on_error="collect").run(list(ODD))

    # A coroutine may not raise StopIteration: Python itself makes a RuntimeError of it.
    expected = ["RuntimeError" if step is aodd and name == "StopIteration" else name for name in ODD]
    assert [error.type.rpartition(".")[2] for error in found] == expected
    assert all(error.kind == "error" and error.node == step.name for error in found)
    assert [worker.pid for worker in cluster.workers if worker.alive] == pids


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "CancelledError", "GeneratorExit"])
def test_odd_exceptions_do_not_stop_the_client(local: LocalCluster, name: str) -> None:
    """What would end a program is here the cause of a `RunFailed`."""
    for step in (odd, aodd):
        with pytest.raises(RunFailed, match=name) as caught:
            step.run(name)

        assert isinstance(caught.value.__cause__, Exception)


def test_what_cannot_be_encoded_is_named(local: LocalCluster) -> None:
    """A value that cannot travel fails where it was returned, named by node and type."""

    @node("gives_lock")
    def gives_lock(data: int) -> Any:
        return {"inner": [threading.Lock()]}

    @node("gives_generator")
    def gives_generator(data: int) -> Any:
        return (item for item in [1])

    for step, kind in ((gives_lock, "lock"), (gives_generator, "generator")):
        with pytest.raises(RunFailed, match=rf"(?s)'{step.name}'.*{kind}") as caught:
            step.run(1)
        assert isinstance(caught.value.__cause__, errors.EncodingError)
    with pytest.raises(errors.EncodingError, match=r"input of workflow 'fine'.*lock"):
        fine.run(threading.Lock())


def test_what_is_too_large_is_named(clusters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value over the limit is refused at submit, and fails the branch that returned it."""
    monkeypatch.setenv("EGREGORE_PAYLOAD_LIMIT", "20000")

    @node("inflates")
    def inflates(data: int) -> str:
        return "x" * 30000

    with LocalCluster(workers=1):
        with pytest.raises(errors.PayloadTooLarge, match="input of workflow 'fine'"):
            fine.submit("x" * 30000)
        with pytest.raises(ParallelExecutionError, match="'inflates'") as caught:
            parallel(fine, inflates)(1)
    assert isinstance(caught.value.__cause__, errors.PayloadTooLarge)


# Dead processes


@contextmanager
def quick(**options: Any) -> Iterator[LocalCluster]:
    """A cluster of the test's own that notices the dead soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGREGORE_REPORT_INTERVAL", "0.25")
        patch.setenv("EGREGORE_REPORT_TTL", "1.5")
        patch.setenv("EGREGORE_SWEEP_INTERVAL", "0.2")
        with LocalCluster(**options) as cluster:
            yield cluster


@node
def dies_once(folder: str, context: Context) -> int:
    write(f"{folder}/{context.branch}", os.getpid())
    if len(lines(Path(folder, str(context.branch)))) == 1:
        if str(context.branch) == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(7)
    return context.attempt


@node
def counts(folder: str, context: Context) -> str:
    write(f"{folder}/{context.branch}", os.getpid())
    return str(context.branch)


@node
def dies(folder: str) -> None:
    write(f"{folder}/deaths", os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_branch_outlives_its_process(tmp_path: Path) -> None:
    """A pool process that is killed or exits under a branch delays the run; every result is right and counts once."""
    siblings = [counts.alias(f"sibling{i}") for i in range(6)]
    flow = parallel(dies_once.alias("killed"), *siblings, dies_once.alias("exited"))
    with quick(workers=1, concurrency=2) as cluster:
        found = flow.submit(str(tmp_path)).result(timeout=40)

        assert cluster.workers[0].alive

    assert found == {"killed": 2, **{f"sibling{i}": f"sibling{i}" for i in range(6)}, "exited": 2}
    assert [len(lines(tmp_path / name)) for name in ("killed", "exited")] == [2, 2]


def test_a_poisoned_branch_is_lost(tmp_path: Path) -> None:
    """A branch that kills its process every time ends as ``lost`` after three attempts; the worker serves on."""
    with quick(workers=1, concurrency=1):
        found = parallel(dies, fine, on_error="collect").submit(str(tmp_path)).result(timeout=60)

        assert fine.submit(1).result(timeout=20) == "fine"

    assert (found["fine"], found["dies"].kind, len(lines(tmp_path / "deaths"))) == ("fine", "lost", 3)
    assert "3 times" in found["dies"].message


@node
def once_killed(folder: str, context: Context) -> int:
    write(f"{folder}/{context.branch}", os.getppid())
    if context.attempt == 1:
        time.sleep(0.3)
    return context.attempt


def test_a_run_outlives_a_worker(tmp_path: Path) -> None:
    """A worker that is killed in the middle of a block delays the run: the other one takes its branches over."""
    with quick(workers=2, concurrency=1) as cluster:
        run = once_killed.map().submit([str(tmp_path)] * 10)
        victim = cluster.workers[0]
        until(lambda: any(str(victim.pid) in lines(path) for path in tmp_path.iterdir()), what="a branch on the victim")
        victim.kill()
        found = run.result(timeout=40)

        assert not victim.alive

    assert len(found) == 10
    assert set(found) <= {1, 2}

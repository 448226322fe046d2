"""Nodes that do not want to stop, at a deadline, on cancel, at their own timeout: the slot is free whatever they do."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import BranchError, LocalCluster, ParallelTimeoutError, RunFailed, Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.errors import RunCancelled
from tests.support.clusters import submitting
from tests.support.waiting import let_pass, until

GRACE = 1.0
# Well beyond what the issue allows: the machine is shared. What it allows is measured elsewhere.
SOON = 15.0


@contextmanager
def running(*, grace: float = GRACE, **options: Any) -> Iterator[LocalCluster]:
    """A cluster of one worker with a short grace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGREGORE_STOP_GRACE", str(grace))
        cluster = LocalCluster(workers=1, **options)
        cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def prefork() -> Iterator[LocalCluster]:
    """A worker of two processes."""
    with running(concurrency=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def threaded() -> Iterator[LocalCluster]:
    """A worker of two threads."""
    with running(concurrency=2, pool="threads") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def lone() -> Iterator[LocalCluster]:
    """A worker of one process."""
    with running(concurrency=1) as cluster:
        yield cluster


@pytest.fixture
def one_process(lone: LocalCluster) -> Iterator[LocalCluster]:
    """A worker of one process, to submit to."""
    with submitting(lone.settings):
        yield lone


@pytest.fixture
def cluster(prefork: LocalCluster) -> Iterator[LocalCluster]:
    """A worker of two processes, to submit to."""
    with submitting(prefork.settings):
        yield prefork


@pytest.fixture
def threads(threaded: LocalCluster) -> Iterator[LocalCluster]:
    """A worker of two threads, to submit to."""
    with submitting(threaded.settings):
        yield threaded


def marks(folder: Path, name: str) -> list[str]:
    """What nodes have written down under a name."""
    file = folder / name
    return file.read_text().split() if file.exists() else []


def mark(folder: str, name: str) -> None:
    with (Path(folder) / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


# Each blocks for ever, in its way.


def spins() -> None:
    while True:
        for number in range(1000):
            number**2


def sleeps() -> None:
    time.sleep(600)


def waits_for_threads() -> None:
    helper = threading.Thread(target=time.sleep, args=(600,), daemon=True)
    helper.start()
    helper.join()


def matches() -> None:
    re.match(r"(?:a|a)+$", "a" * 64 + "b")


def swallows() -> None:
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass


def ignores_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    swallows()


def holds_the_gil() -> None:
    deque(itertools.repeat(None), maxlen=0)


def holds_it_in_ctypes() -> None:
    while True:
        ctypes.PyDLL(None).sleep(600)


def assert_on_a_thread() -> None:
    assert threading.current_thread() is not threading.main_thread()


def spins_on_a_thread() -> None:
    assert_on_a_thread()
    spins()


def sleeps_on_a_thread() -> None:
    assert_on_a_thread()
    sleeps()


def swallows_on_a_thread() -> None:
    assert_on_a_thread()
    swallows()


def holds_the_gil_on_a_thread() -> None:
    assert_on_a_thread()
    holds_the_gil()


async def asleep() -> None:
    await asyncio.sleep(600)


async def blocks_its_loop() -> None:
    sleeps()


async def spins_on_its_loop() -> None:
    spins()


async def aswallows() -> None:
    while True:
        try:
            await asyncio.sleep(600)
        except BaseException:
            pass


async def holds_the_gil_on_its_loop() -> None:
    holds_the_gil()


async def waits_for_a_thread_of_its_loop() -> None:
    await asyncio.to_thread(time.sleep, 600)


#: The finally blocks of these run; the others go on until their process is killed.
SOFT = [spins, sleeps, waits_for_threads, matches, asleep, blocks_its_loop, spins_on_its_loop, spins_on_a_thread]
HARD = [
    swallows,
    ignores_sigterm,
    holds_the_gil,
    aswallows,
    holds_the_gil_on_its_loop,
    waits_for_a_thread_of_its_loop,
    sleeps_on_a_thread,
    swallows_on_a_thread,
    holds_the_gil_on_a_thread,
]
#: These are on threads of a lane, where nothing interrupts a call of the system.
ON_THREADS = [spins_on_a_thread, sleeps_on_a_thread, swallows_on_a_thread, holds_the_gil_on_a_thread]
STUBBORN = pytest.mark.parametrize("body", [*SOFT, *HARD], ids=lambda body: str(body.__name__))


def stubborn(body: Callable[[], Any], **options: Any) -> Any:
    """A node that writes down that it began, and that its ``finally`` ran."""
    if asyncio.iscoroutinefunction(body):

        @node(body.__name__, **options)
        async def awaits(folder: str) -> None:
            try:
                mark(folder, "began")
                await body()
            finally:
                mark(folder, "finally")

        return awaits

    @node(body.__name__, io=body in ON_THREADS, **options)
    def runs(folder: str) -> None:
        try:
            mark(folder, "began")
            body()
        finally:
            mark(folder, "finally")

    return runs


def copies(body: Callable[[], Any], **options: Any) -> list[Any]:
    """Branches of it: two, or so many that two lanes have threads for them."""
    it = stubborn(body, **options)
    return [it, *(it.alias(f"copy{number}") for number in range(5 if body in ON_THREADS else 1))]


def assert_slots_are_free(folder: Path, slots: int = 2) -> None:
    """A run that needs every slot at once ends soon."""
    here = folder / f"probe-{time.monotonic_ns()}"
    here.mkdir()

    @node("meets")
    def meets(number: int) -> int:
        (here / str(number)).touch()
        until(lambda: len(list(here.iterdir())) == slots, seconds=60)
        return number

    run = meets.map(optimization_enabled=False).submit(list(range(slots)))
    assert run.result(timeout=SOON) == list(range(slots))


@node
def fine(folder: str) -> str:
    return "fine"


def at_deadline(flow: Callable[[float], Any], folder: Path) -> ParallelTimeoutError:
    """Run what is made with a timeout, and return its error; with a longer one, where nothing began in time."""
    for timeout in (0.5, 2.0, 8.0):
        with pytest.raises(ParallelTimeoutError) as caught:
            flow(timeout).submit(str(folder)).result(timeout=timeout + SOON)
        if marks(folder, "began"):
            break
    return caught.value


@STUBBORN
def test_a_deadline_frees_the_slots(cluster: LocalCluster, tmp_path: Path, body: Callable[[], Any]) -> None:
    """At the deadline the caller has its error, what can be asked to stop does so in good order, and slots are free."""
    branches = copies(body)
    error = at_deadline(lambda timeout: parallel(*branches, timeout=timeout, name="block"), tmp_path)

    assert (error.block, error.results) == ("block", {})
    assert set(error.running) <= {body.__name__, *(f"copy{number}" for number in range(5))}
    assert_slots_are_free(tmp_path)
    began = marks(tmp_path, "began")
    assert began
    if body in SOFT:
        until(lambda: len(marks(tmp_path, "finally")) >= len(began), what="every finally block")
    else:
        until(lambda: not any(is_alive(pid) for pid in began), what="the end of their processes")


@STUBBORN
def test_cancelling_frees_the_slots(cluster: LocalCluster, tmp_path: Path, body: Callable[[], Any]) -> None:
    """A cancelled run has its branches stopped, and both slots serve others."""
    run = parallel(*copies(body), optimization_enabled=body in ON_THREADS).submit(str(tmp_path))
    until(lambda: marks(tmp_path, "began"))
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(timeout=SOON)

    assert_slots_are_free(tmp_path)
    if body in SOFT:
        until(lambda: len(marks(tmp_path, "finally")) >= len(marks(tmp_path, "began")), what="every finally block")


@STUBBORN
def test_a_node_s_timeout_is_kept(cluster: LocalCluster, tmp_path: Path, body: Callable[[], Any]) -> None:
    """A node over its timeout is called once more, where it has a retry, and ends as that; its siblings end well."""
    # Where several compute on threads of one process, it may take each some time to write down that it began.
    timeout = 1.5 if body in ON_THREADS else 0.3
    branches, siblings = copies(body, timeout=timeout, retries=1), []
    if body not in ON_THREADS:
        branches, siblings = branches[:1], [fine]
    found = parallel(*branches, *siblings, on_error="collect").submit(str(tmp_path)).result(timeout=2 * SOON)

    assert found.pop("fine", "fine") == "fine"
    assert len(found) == len(branches)
    for name, error in found.items():
        assert isinstance(error, BranchError)
        assert (error.kind, error.type, error.node, error.attempt) == ("timeout", "TimeoutError", name, 2)
        assert f"timeout of {timeout} s" in error.message
    began = len(marks(tmp_path, "began"))
    # Beside one that holds the GIL others come to nothing, not even to a mark.
    assert began == 2 * len(branches) or (body is holds_the_gil_on_a_thread and began < 2 * len(branches))
    if body in SOFT:
        assert len(marks(tmp_path, "finally")) == 2 * len(branches)


def kills_of(cluster: LocalCluster) -> int:
    """How many processes the worker has killed."""
    return cluster.workers[0].log.read_text().count(" is killed: run ")


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("where", ["on threads", "on a loop"])
def test_timeouts_at_the_same_time_cost_one_process(
    one_process: LocalCluster, tmp_path: Path, where: str, retries: int, figure: Callable[[str], None]
) -> None:
    """However many branches of a process are over their timeouts, all are judged, and the next calls are together."""
    n = 20
    options: dict[str, Any] = {"timeout": 1.0, "retries": retries, "retry_delay": 0.01}

    @node("hangs", io=True, **options)
    def hangs(item: int) -> None:
        mark(str(tmp_path), f"hangs{item}")
        time.sleep(600)

    @node("hangs", **options)
    async def ahangs(item: int) -> None:
        mark(str(tmp_path), f"hangs{item}")
        while True:
            try:
                await asyncio.sleep(600)
            except BaseException:
                pass

    before, started = kills_of(one_process), time.monotonic()
    it = hangs if where == "on threads" else ahangs
    found = it.map(on_error="collect").submit(list(range(n))).result(timeout=60)
    took = time.monotonic() - started
    kills = kills_of(one_process) - before

    assert {(error.kind, error.node, error.attempt) for error in found} == {("timeout", "hangs", retries + 1)}
    assert {len(marks(tmp_path, f"hangs{item}")) for item in range(n)} == {retries + 1}
    assert kills == 1 + retries
    figure(f"{took:.1f} s, {kills} processes killed")


def test_timeouts_at_about_the_same_time_cost_few_processes(
    one_process: LocalCluster, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Those that come within the grace of the first are judged with it."""
    n = 20

    @node("waits", io=True)
    def waits(item: int) -> int:
        time.sleep(item / n)
        return item

    @node("hangs", io=True, timeout=1.0)
    def hangs(item: int) -> None:
        mark(str(tmp_path), f"hangs{item}")
        time.sleep(600)

    before = kills_of(one_process)
    found = Sequence(waits, hangs).map(on_error="collect").submit(list(range(n))).result(timeout=60)
    kills = kills_of(one_process) - before

    assert {error.kind for error in found} == {"timeout"}
    assert max(len(marks(tmp_path, f"hangs{item}")) for item in range(n)) <= 2
    assert kills <= 2
    figure(f"{kills} processes killed")


@pytest.mark.long
def test_who_is_beside_timeouts_is_not_run_without_end(tmp_path: Path) -> None:
    """A branch whose process ends for the timeouts of others, one after the other, runs three times at most."""

    @node("first", io=True)
    def first(item: int) -> int:
        if item == 4:
            mark(str(tmp_path), "lasts")
        # Each comes when the grace of the one before is over.
        time.sleep(2.5 if item == 4 else 0.7 * item)
        return item

    @node("second", io=True, timeout=0.3)
    def second(item: int) -> str:
        if item != 4:
            time.sleep(600)
        return "lasted"

    with running(concurrency=1, grace=0.5) as cluster, submitting(cluster.settings):
        run = Sequence(first, second).map(on_error="collect").submit(list(range(5)))
        found, told = run.result(timeout=90), run.report().executions

    assert [error.kind for error in found[:4]] == ["timeout"] * 4
    assert found[4] == "lasted"
    lasts = len(marks(tmp_path, "lasts"))
    assert lasts <= 3
    # Each execution is told of, those that were given back too: the five, and what ran again.
    assert (told.ok, told.failed, told.lost, told.running) == (1, 4, 0, 0)
    assert told.stopped >= lasts - 1


def test_a_node_s_timeout_outside_of_a_block(cluster: LocalCluster, tmp_path: Path) -> None:
    """A run whose only node had to be killed fails with a `TimeoutError` as its cause."""
    with pytest.raises(RunFailed, match="'holds_the_gil' did not end within its timeout") as caught:
        stubborn(holds_the_gil, timeout=0.3).submit(str(tmp_path)).result(timeout=SOON)

    assert isinstance(caught.value.__cause__, TimeoutError)
    assert len(marks(tmp_path, "began")) == 1


def test_calls_in_one_process_count_with_those_that_cost_one(cluster: LocalCluster, tmp_path: Path) -> None:
    """Of three calls the first fails, the second and the third are killed; none comes after them."""

    @node("worse", retries=2, timeout=0.5)
    def worse(folder: str) -> None:
        mark(folder, "began")
        if len(marks(Path(folder), "began")) == 1:
            raise OSError("the first")
        holds_the_gil()

    found = parallel(worse, fine, on_error="collect").submit(str(tmp_path)).result(timeout=2 * SOON)

    assert (found["worse"].kind, found["worse"].attempt) == ("timeout", 3)
    assert len(marks(tmp_path, "began")) == 3


def test_a_killed_loop_takes_no_sibling_with_it(cluster: LocalCluster, tmp_path: Path) -> None:
    """Of many branches on one event loop one has to be killed: the others have their values, and none is lost."""

    @node("shared", timeout=3.0)
    async def shared(number: int) -> int:
        if number == 3:
            while True:
                try:
                    await asyncio.sleep(600)
                except BaseException:
                    pass
        await asyncio.sleep(0.5 if number < 10 else 0.0)
        return number

    run = shared.map(on_error="collect").submit(list(range(20)))
    found = run.result(timeout=2 * SOON)

    assert found[3].kind == "timeout"
    assert [number for number in found if not isinstance(number, BranchError)] == [n for n in range(20) if n != 3]
    assert not [event for event in run.events() if event.type == "branch.lost"]


def test_a_nested_block_ends_with_its_parent(cluster: LocalCluster, tmp_path: Path) -> None:
    """A stubborn branch inside an inner block is stopped at the outer block's deadline."""
    inner = parallel(stubborn(swallows), fine, name="inner")
    error = at_deadline(lambda timeout: parallel(inner, fine, timeout=timeout, name="outer"), tmp_path)

    assert error.block == "outer"
    assert_slots_are_free(tmp_path)
    assert not any(is_alive(pid) for pid in marks(tmp_path, "began"))


def test_the_error_says_how_long_stopping_took(cluster: LocalCluster, tmp_path: Path) -> None:
    """What stops when asked has stopped within the moment that the error waits; what goes on has not."""
    for _ in range(5):
        soft = at_deadline(lambda timeout: parallel(stubborn(sleeps), timeout=timeout), tmp_path)
        if soft.stopping is not None:
            break
    (tmp_path / "began").unlink()
    hard = at_deadline(lambda timeout: parallel(stubborn(swallows), timeout=timeout), tmp_path)

    assert soft.stopping is not None
    assert 0 <= soft.stopping < SOON
    assert hard.stopping is None
    ledger, run = session.current().ledger, hard.run_id
    assert run is not None
    (block,) = [record for record in ledger.blocks(run) if record.timeout]
    until(lambda: ledger.stopped(run, block.id) is not None, what="the end of stopping")
    stopped = ledger.stopped(run, block.id)
    assert stopped is not None
    assert block.deadline is not None
    assert stopped - block.deadline >= GRACE * 1000 * 0.9


def test_a_finally_block_has_the_grace(cluster: LocalCluster, tmp_path: Path) -> None:
    """What cleans up within the grace is not killed."""

    @node("tidies")
    def tidies(folder: str) -> None:
        mark(folder, "began")
        try:
            time.sleep(600)
        finally:
            let_pass(GRACE * 0.4)
            mark(folder, "tidied")

    at_deadline(lambda timeout: parallel(tidies, timeout=timeout), tmp_path)

    until(lambda: marks(tmp_path, "tidied"))
    let_pass(GRACE)
    assert is_alive(marks(tmp_path, "tidied")[0])


def test_who_never_looks_long_is_left_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    """A long branch that nobody wants to stop, and retries that take longer than the node's timeout, are not killed."""

    @node("patient", timeout=1.0, retries=4)
    def patient(folder: str) -> str:
        mark(folder, "tries")
        if len(marks(Path(folder), "tries")) < 5:
            raise OSError("again")
        return "done"

    @node("long")
    def long(folder: str) -> str:
        let_pass(3 * GRACE)
        return "long"

    run = parallel(patient, long).submit(str(tmp_path))

    assert run.result(timeout=2 * SOON) == {"patient": "done", "long": "long"}
    assert len(marks(tmp_path, "tries")) == 5
    assert len(set(marks(tmp_path, "tries"))) == 1


def test_a_stubborn_node_does_not_hold_up_the_end_of_its_worker(tmp_path: Path) -> None:
    """A worker that is asked to stop waits for what runs; what does not stop at its deadline is killed there too."""
    with running(concurrency=1) as cluster, submitting(cluster.settings):
        run = parallel(stubborn(swallows), timeout=3.0).submit(str(tmp_path))
        until(lambda: marks(tmp_path, "began"))
        cluster.workers[0].terminate()
        with pytest.raises(ParallelTimeoutError):
            run.result(timeout=2 * SOON)
        until(lambda: not cluster.workers[0].alive, seconds=SOON, what="the end of the worker")
        cluster.workers[0].stop()


# Threads


@pytest.mark.parametrize("body", [spins, spins_on_its_loop], ids=lambda body: str(body.__name__))
@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_threads_that_compute_are_stopped(
    threads: LocalCluster, tmp_path: Path, body: Callable[[], Any], how: str
) -> None:
    """On a pool of threads, what computes in Python is stopped in good order, and its slot is free."""
    run = stubborn(body).map(timeout=4.0 if how == "deadline" else None).submit([str(tmp_path)] * 2)
    until(lambda: marks(tmp_path, "began"))
    if how == "cancel":
        run.cancel()
    with pytest.raises(RunFailed):
        run.result(timeout=SOON)

    assert_slots_are_free(tmp_path)
    assert len(marks(tmp_path, "finally")) == len(marks(tmp_path, "began"))


def test_threads_have_the_timeout_of_a_node(threads: LocalCluster, tmp_path: Path) -> None:
    """On a pool of threads too a node that computes beyond its timeout is called again, and then fails with it."""
    found = parallel(stubborn(spins, timeout=0.3, retries=1), fine, on_error="collect").submit(str(tmp_path))

    error = found.result(timeout=SOON)["spins"]
    assert (error.kind, error.attempt) == ("timeout", 2)


def test_a_pool_of_threads_says_what_it_cannot(threads: LocalCluster) -> None:
    """Its log says at start that nothing can be killed there."""
    assert "cannot be stopped" in threads.workers[0].log_tail(200)


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

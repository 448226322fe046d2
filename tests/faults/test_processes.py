"""Nodes use processes: `multiprocessing`, executors, joblib; what a branch started ends with it, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from math import sqrt
from pathlib import Path

import joblib  # type: ignore[import-untyped]
import psutil
import pytest

from egregore_dist import Context, LocalCluster, RunCancelled, RunFailed, Sequence, node, parallel
from tests.support import importing, strays
from tests.support.waiting import until

# The pids of what a branch has left have to be gone so soon, in seconds, on a busy machine too.
SOON = 15.0

NUMBERS = [1.0, 4.0, 9.0]
ROOTS = [1.0, 2.0, 3.0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One worker of two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGREGORE_STOP_GRACE", "1")
        with LocalCluster(workers=1, concurrency=2) as cluster:
            yield cluster


def roots(method: str) -> list[float]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        return list(pool.map(sqrt, NUMBERS))


def roots_of_pool(method: str) -> list[float]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(sqrt, NUMBERS)


def nested(method: str) -> list[float]:
    """An executor's process starts processes itself."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        return pool.submit(roots, method).result()


def by_joblib(backend: str) -> list[float]:
    found: list[float] = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(sqrt)(number) for number in NUMBERS)
    return found


WAYS: dict[str, tuple[Callable[[str], list[float]], str]] = {
    "Pool, fork": (roots_of_pool, "fork"),
    "Pool, spawn": (roots_of_pool, "spawn"),
    "Pool, forkserver": (roots_of_pool, "forkserver"),
    "executor, fork": (roots, "fork"),
    "executor, spawn": (roots, "spawn"),
    "executor, forkserver": (roots, "forkserver"),
    "nested, fork": (nested, "fork"),
    "joblib, loky": (by_joblib, "loky"),
    "joblib, multiprocessing": (by_joblib, "multiprocessing"),
}


@node
def compute(way: str) -> list[float]:
    how, argument = WAYS[way]
    return how(argument)


@pytest.mark.parametrize("way", WAYS)
def test_nodes_use_processes(cluster: LocalCluster, way: str) -> None:
    """Twice in a row, so that what one branch has left does not hinder the next."""
    assert compute.map().run([way, way]) == [ROOTS] * 2


def test_no_second_worker_is_started(cluster: LocalCluster) -> None:
    """A process that `multiprocessing` spawns imports the worker's main module, and begins nothing."""
    before = workers()
    assert compute.run("executor, spawn") == ROOTS

    assert workers() == before


def workers() -> list[int]:
    def is_worker(process: psutil.Process) -> bool:
        try:
            return "egregore_dist" in process.cmdline()
        except psutil.NoSuchProcess:
            # It has ended meanwhile, or waits for its parent to see that.
            return False

    return [each.pid for each in psutil.Process().children(recursive=True) if is_worker(each)]


# What is left


def forever() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def leave(folder: str) -> None:
    """Start a process in each of several ways, and write their pids."""
    context = multiprocessing.get_context("fork")
    forked = [context.Process(target=forever) for _ in range(2)]
    for process in forked:
        process.start()
    pids = [forked[0].pid, forked[1].pid, *strays.start()]
    partial = Path(folder, "partial")
    partial.write_text(" ".join(map(str, pids)))
    partial.rename(Path(folder, "pids"))


def pids_in(folder: Path) -> list[int]:
    file = folder / "pids"
    until(file.exists, seconds=60, what="the processes")
    return [int(pid) for pid in file.read_text().split()]


def are_gone(pids: list[int]) -> bool:
    return not any(map(strays.runs, pids))


def forever_deaf() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(60)


@node
def leaves(folder: str, context: Context) -> str:
    if Path(folder, "pids").exists():
        return "again"
    leave(folder)
    how = Path(folder, "how").read_text()
    if how == "fails":
        raise ValueError("it has failed")
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        forever_deaf()
    if how in ("is late", "is cancelled"):
        time.sleep(600)
    return how


@node
def beside(folder: str) -> str:
    """Another branch, with a process of its own, which goes on until the others of the first are gone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        until(Path(folder, "checked").exists, seconds=90, what="the check")
        return pool.submit(str.upper, "unharmed").result()


@pytest.mark.parametrize("how", ["ends", "fails", "is killed", "is late", "hangs", "is cancelled"])
def test_what_a_branch_started_ends_with_it(cluster: LocalCluster, tmp_path: Path, how: str) -> None:
    """However it ends; a branch in the process beside it has its own until it ends itself."""
    (tmp_path / "how").write_text(how)
    other = beside.submit(str(tmp_path))
    # Long enough to begin on a busy machine.
    timeout = 8.0 if how in ("is late", "hangs") else None
    run = parallel(leaves, timeout=timeout, name="flow").submit(str(tmp_path))
    pids = pids_in(tmp_path)
    if how == "is cancelled":
        run.cancel()
    until(lambda: are_gone(pids), seconds=SOON, what="the end of what was left")
    (tmp_path / "checked").touch()

    assert other.result(timeout=60) == "UNHARMED"
    if how in ("ends", "is killed"):
        assert run.result(timeout=60) == {"leaves": "ends" if how == "ends" else "again"}
    else:
        with pytest.raises(RunCancelled if how == "is cancelled" else RunFailed):
            run.result(timeout=60)


def test_what_a_module_started_outlives_the_process(cluster: LocalCluster, tmp_path: Path) -> None:
    """A branch has imported the module in the process that is killed; what the branch has started itself ends."""
    assert importing.dies.run(str(tmp_path)) == "again"
    imported, left = importing.started_in(tmp_path)
    try:
        until(lambda: are_gone(left), seconds=SOON, what="the end of what was left")
        assert all(map(strays.runs, imported))
    finally:
        strays.end(imported)


def test_a_worker_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """The keeper of a local worker ends what its branches have started, too."""
    (tmp_path / "how").write_text("is late")
    with LocalCluster(workers=1, concurrency=1) as own:
        run = leaves.submit(str(tmp_path))
        pids = pids_in(tmp_path)
        run.cancel()
        own.workers[0].kill()
        until(lambda: are_gone(pids), seconds=SOON, what="the end of what was left")


# Pools that are kept


@cache
def executor() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))


@cache
def pools() -> list[object]:
    return []


@node
def keeps(number: float) -> tuple[float, int]:
    """Uses one executor in every branch, as a module that has it in a global does; and forgets to close a pool."""
    pool = multiprocessing.get_context("fork").Pool(1)
    pools().append(pool)
    assert pool.apply(sqrt, (4.0,)) == 2.0
    future = executor().submit(os.getpid)
    return executor().submit(sqrt, number).result(), future.result()


@node
def count(results: list[tuple[float, int]]) -> tuple[list[float], int, int]:
    children = psutil.Process(os.getppid()).children(recursive=True)
    pids = {pid for _, pid in results}
    return [root for root, _ in results], len(pids), sum(child.pid in pids for child in children)


def test_an_executor_that_is_kept_begins_anew(cluster: LocalCluster) -> None:
    """Its processes end with each branch, and the next starts others; a pool that was not closed starts none."""
    found = Sequence(keeps.map(), count, name="kept").run(NUMBERS)

    assert found == (ROOTS, len(NUMBERS), 0)


@node(io=True)
def leaves_on_a_thread(folder: str) -> bool:
    if folder:
        leave(folder)
    else:
        time.sleep(0.5)
    return True


def test_branches_that_share_a_process(cluster: LocalCluster, tmp_path: Path) -> None:
    """What they leave ends when the last of them has ended."""
    assert leaves_on_a_thread.map().run([str(tmp_path), "", ""]) == [True] * 3
    until(lambda: are_gone(pids_in(tmp_path)), seconds=SOON, what="the end of what was left")

"""Branches that wait for others share a process, on threads."""

from __future__ import annotations

import contextvars
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import BranchError, Limit, LocalCluster, ParallelTimeoutError, Sequence, node, parallel
from egregore_dist.client import plans, session
from egregore_dist.monitor.nodes import Nodes
from egregore_dist.workflow.step import Step
from tests.support.waiting import until

seen: contextvars.ContextVar[int] = contextvars.ContextVar("seen", default=-1)


def is_on_thread() -> bool:
    """Whether this is not the main thread of its process."""
    return threading.current_thread() is not threading.main_thread()


def width_of(step: Step, items: int) -> int:
    """How many branches a lane of it would run at a time now."""
    (found,) = plans.of_workflow(step, items, session.current())
    return found.plan.tracks[0].width


@node("waits", io=True)
def waits(item: int) -> tuple[int, float, float, bool]:
    begun = time.monotonic()
    time.sleep(0.05)
    return os.getpid(), begun, time.monotonic(), is_on_thread()


@node("computes", io=True)
def computes(item: int) -> tuple[int, float, float, bool]:
    begun = time.monotonic()
    while time.monotonic() < begun + 0.02:
        pass
    return os.getpid(), begun, time.monotonic(), is_on_thread()


@node("first", io=True)
def first(item: int) -> int:
    seen.set(item)
    time.sleep(0.01)
    return item


@node("second", io=True)
def second(item: int) -> tuple[int, int]:
    return item, seen.get()


def generates() -> Iterator[int]:
    next(iter(()))
    yield 1


def ends(item: int) -> int:
    if item == 1:
        raise StopIteration("one")
    if item == 2:
        raise SystemExit(2)
    if item == 3:
        raise KeyError("three")
    if item == 4:
        list(generates())
    if item == 5:
        raise RuntimeError("no price for today") from StopIteration()
    return item


@node("overlong", io=True, timeout=0.3)
def overlong(item: int) -> str:
    if item != 1:
        return "in time"
    time.sleep(60)
    return "late"


@node("spins", io=True)
def spins(item: int) -> None:
    while True:
        time.sleep(0.001)


CONNECTION = sqlite3.connect(":memory:")


@node
def writes_where_it_is(item: int) -> str:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as own:
        os.chdir(own)
        try:
            Path("mine").write_text(str(item))
            time.sleep(0.02)
            return Path("mine").read_text()
        finally:
            os.chdir(before)


@node
def asks_a_connection(item: int) -> int:
    time.sleep(0.02)
    return int(CONNECTION.execute("select ? + 1", (item,)).fetchone()[0])


@node
def pauses(item: int) -> int:
    time.sleep(0.02)
    return item


@node
def calls_an_api(item: int) -> tuple[int, float, float, bool]:
    begun = time.monotonic()
    time.sleep(0.02)
    return os.getpid(), begun, time.monotonic(), is_on_thread()


def peak(spans: list[tuple[int, float, float, bool]]) -> int:
    """How many ran at a time at most."""
    times = sorted([(start, 1) for _, start, _, _ in spans] + [(end, -1) for _, _, end, _ in spans])
    running = most = 0
    for _, step in times:
        running += step
        most = max(most, running)
    return most


def test_what_is_declared_to_wait_shares_a_process(local: LocalCluster) -> None:
    """Many more run at a time than there are slots, and each value is in its place."""
    spans = waits.map()(list(range(40)))

    assert all(on_thread for *_, on_thread in spans)
    assert len({pid for pid, *_ in spans}) <= 2
    assert peak(spans) > 4


@pytest.mark.parametrize("limit", [1, 3])
def test_the_window_holds_for_threads(local: LocalCluster, limit: int) -> None:
    """Threads count against ``max_concurrent`` like processes."""
    assert peak(waits.map(max_concurrent=limit)(list(range(12)))) <= limit


@pytest.mark.parametrize("items", [1, 2, 12])
def test_however_few_run_at_a_time_each_is_on_a_thread(local: LocalCluster, items: int) -> None:
    """A node that declares it runs on a thread where a lane has one branch at a time, too: few items, or a limit."""
    for spans in (waits.map()(list(range(items))), waits.map(max_concurrent=1)(list(range(items)))):
        assert all(on_thread for *_, on_thread in spans)


def test_what_is_seen_to_compute_stays_on_threads(local: LocalCluster) -> None:
    """A node that declares it runs on threads, however often it was seen to compute: one at a time in a slot."""
    computes.map()(list(range(8)))
    until(lambda: width_of(computes.map(), 40) == 1, what="what was learned of the node")

    spans = computes.map()(list(range(12)))
    assert all(on_thread for *_, on_thread in spans)
    assert peak(spans) <= 2


@node("keyed", io=True, limit=Limit(concurrent=1, key="item"))
def keyed(item: int) -> bool:
    return is_on_thread()


def test_limits_keep_branches_on_threads(local: LocalCluster) -> None:
    """Each key's branches run one after the other, on threads; alone where there are very many keys."""
    assert all(keyed.map()([1, 1, 2, 2, 3]))
    assert not any(keyed.map()(list(range(40))))


@node("plain")
def plain(item: int) -> bool:
    return is_on_thread()


def test_a_branch_beside_them_stays_alone(local: LocalCluster) -> None:
    """Of one block, each branch runs as its own nodes declare."""
    found = parallel(waits, plain, Sequence(first, plain.alias("then"), name="chain"))(1)

    assert found["waits"][3]
    assert not found["plain"]
    assert not found["chain"]


def learn_that_it_waits(step: Step) -> None:
    """Run a map of a node until every worker plans with what was learned of it: that it waits most of its time."""
    step.submit(list(range(8))).result(progress=False)

    def is_known() -> bool:
        (found,) = plans.of_workflow(step, 40, session.current())
        known = found.plan.tracks[0].learned
        return known is not None and known.executions >= 3 and known.waits > 10 * (known.cpu or 0.0)

    until(is_known, what="what was learned of the node")


def test_what_is_seen_to_wait_has_a_directory_of_its_own(local: LocalCluster) -> None:
    """A node that changes the directory gets what it has written there, however often it was seen to wait."""
    learn_that_it_waits(writes_where_it_is.map())

    assert writes_where_it_is.map()(list(range(40))) == [str(item) for item in range(40)]


def test_what_is_seen_to_wait_uses_a_connection_of_its_module(local: LocalCluster) -> None:
    """A connection that only one thread may use stays usable, however often its node was seen to wait."""
    learn_that_it_waits(asks_a_connection.map())

    assert asks_a_connection.map()(list(range(40))) == [item + 1 for item in range(40)]


def test_what_is_seen_to_wait_runs_once_a_slot(local: LocalCluster) -> None:
    """The workers' concurrency bounds a node, however often it was seen to wait."""
    learn_that_it_waits(calls_an_api.map())

    spans = calls_an_api.map()(list(range(40)))
    assert not any(on_thread for *_, on_thread in spans)
    assert peak(spans) <= 2
    assert width_of(calls_an_api.map(), 40) == 1


def test_what_is_seen_to_wait_is_advised(local: LocalCluster) -> None:
    """The plan, the run's report, the table of nodes and the monitor's page say what ``io=True`` would do for it."""
    from tests.cluster.test_cli import ask, environment

    run = pauses.map().submit(list(range(8)))
    run.result(progress=False)
    until(lambda: pauses.map().plan(items=40).advice, what="advice in the plan")

    plan = pauses.map().plan(items=40)
    (planned,) = plan.advice
    (reported,) = run.report().advice
    listed = ask("nodes", env=environment(local)).stdout
    rows, _ = Nodes(session.current().ledger, 32).rows()
    (shown,) = (row.advice for row in rows if "pauses" in row.names)
    sentence = re.compile(r"`pauses` waits \d\d % of its time: `io=True` would run up to \d+ at once on each slot")
    assert [bool(sentence.fullmatch(str(each))) for each in (planned, reported, shown)] == [True] * 3
    assert sentence.search(listed)
    assert f"advice: {planned}" in str(plan)


def test_context_variables_are_the_branch_s_own(local: LocalCluster) -> None:
    """What a node sets the next one of its branch sees, and no other branch."""
    assert Sequence(first, second).map()(list(range(30))) == [(item, item) for item in range(30)]


@pytest.mark.parametrize("io", [True, False], ids=["on threads", "alone"])
def test_whatever_is_raised_there_is_its_branch_s_outcome(local: LocalCluster, io: bool) -> None:
    """Exceptions that end other things too are named as they are, and hurt nobody else."""
    found: list[Any] = node("ends_on_threads" if io else "ends_alone", io=io)(ends).map(on_error="collect")(
        list(range(7))
    )

    assert [(value.type, value.message) if isinstance(value, BranchError) else value for value in found] == [
        0,
        ("StopIteration", "one"),
        ("SystemExit", "2"),
        ("KeyError", "'three'"),
        ("RuntimeError", "generator raised StopIteration"),
        ("RuntimeError", "no price for today"),
        6,
    ]


def test_a_thread_that_does_not_stop_costs_its_process(local: LocalCluster) -> None:
    """A node over its own timeout fails, the others of its process are executed again."""
    found: list[Any] = overlong.map(on_error="collect")(list(range(4)))

    assert isinstance(found[1], BranchError)
    assert found[1].type == "TimeoutError"
    assert [found[0], *found[2:]] == ["in time"] * 3


def test_a_deadline_stops_threads(local: LocalCluster) -> None:
    """All of a block's threads are stopped at its deadline, and their slots are free again."""
    with pytest.raises(ParallelTimeoutError) as caught:
        parallel(*(spins.alias(f"spins{number}") for number in range(20)), timeout=1.5)(0)

    assert len(caught.value.running) > 4
    assert len(waits.map().submit([1, 2, 3]).result(timeout=30)) == 3

"""Submitting and waiting on real workers: from scripts, threads, event loops, other processes, and nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kombu.transport.redis
import psutil
import pytest
import redis
import redis.asyncio
from kombu.messaging import Producer
from kombu.utils.objects import cached_property

from egregore_dist import Context, LocalCluster, Run, RunFailed, Sequence, errors, node, parallel
from egregore_dist.client import session
from egregore_dist.client.run import log
from egregore_dist.engine import publish
from egregore_dist.ledger import Accepted, Ledger, connection
from egregore_dist.ledger.replies import EVENTS_READ
from egregore_dist.workflow import Step
from tests.support.remains import remains
from tests.support.waiting import until

pytestmark = pytest.mark.store_faults


@node
def double(value: int) -> int:
    return 2 * value


@node
async def triple(value: int) -> int:
    await asyncio.sleep(0)
    return 3 * value


@node
def gated(gate: str) -> str:
    """Ends when a file appears."""
    while not Path(gate).exists():
        time.sleep(0.01)
    return "through"


@node
def noted(path: str, context: Context) -> str:
    """Leaves a line for each call."""
    with Path(path).open("a") as file:
        file.write(f"{context.run}\n")
    return context.run


both = parallel(double, triple)


def python(program: str, cluster: LocalCluster, *arguments: str) -> subprocess.Popen[str]:
    """Another process that submits to the same cluster."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env=cluster.worker_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return out


# Ways to wait


def test_every_way_to_run_gives_the_value(cluster: LocalCluster) -> None:
    """Calling, ``run``, ``submit`` with ``result``, ``await`` and ``arun`` give the same value."""
    value = {"double": 2, "triple": 3}

    async def awaits() -> tuple[Any, Any]:
        return await both.submit(1), await both.arun(1)

    assert both(1) == both.run(1) == both.submit(1).result() == value
    assert asyncio.run(awaits()) == (value, value)


def test_twenty_threads_at_once(cluster: LocalCluster) -> None:
    """Runs that threads submit at once do not mix."""
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(both, range(20)))

    assert found == [{"double": 2 * i, "triple": 3 * i} for i in range(20)]


def test_threads_share_the_first_connection(local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that use the package for the first time at once get one session."""
    for name, value in local.worker_environment().items():
        if name.startswith("EGREGORE_"):
            monkeypatch.setenv(name, value)
    before = session.use(None)
    barrier = threading.Barrier(8)

    def connects(_: int) -> int:
        barrier.wait()
        return id(session.current())

    try:
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(connects, range(8)))) == 1
    finally:
        made = session.use(before)
        assert made is not None
        made.close()


def test_an_event_loop_goes_on_while_runs_are_awaited(local: LocalCluster, tmp_path: Path) -> None:
    """Awaiting a run does not hold the loop, and many are awaited at once."""
    gate = tmp_path / "gate"

    async def main() -> tuple[list[Any], int]:
        waiting = [asyncio.ensure_future(gated.arun(str(gate))) for _ in range(2)]
        ticks = 0
        while ticks < 20:
            await asyncio.sleep(0.01)
            ticks += 1
        gate.touch()
        return await asyncio.gather(*waiting, double.arun(4)), ticks

    assert asyncio.run(main()) == (["through", "through", 8], 20)


def test_a_coroutine_may_call_a_workflow(local: LocalCluster) -> None:
    """A sync call works inside a running event loop too; it holds the loop while it waits."""

    async def main() -> Any:
        return both(2)

    assert asyncio.run(main()) == {"double": 4, "triple": 6}


def test_a_failed_run_raises_in_every_way(local: LocalCluster) -> None:
    """A failed run raises the same error from ``result``, ``await`` and ``arun``."""

    @node("breaks")
    def breaks(value: int) -> None:
        raise KeyError(value)

    async def awaits(run: Run) -> None:
        await run

    run = breaks.submit(1)
    for wait in (run.result, lambda: asyncio.run(awaits(run)), lambda: asyncio.run(breaks.arun(1))):
        with pytest.raises(RunFailed, match="node 'breaks'") as caught:
            wait()
        assert isinstance(caught.value.__cause__, KeyError)
    assert run.status == "failed"


def test_waiting_can_end_before_the_run(local: LocalCluster, tmp_path: Path) -> None:
    """``result(timeout=...)`` raises `TimeoutError`, and the run goes on."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    with pytest.raises(TimeoutError, match=run.id):
        run.result(timeout=0.2)
    gate.touch()

    assert run.result(timeout=10) == "through"


# Ids


def test_another_process_finds_a_run_by_its_id(cluster: LocalCluster) -> None:
    """A process that knows only the id gets status, value and events; here as there."""
    run = Sequence(double, both).submit(1)
    program = """
        import sys
        from egregore_dist import Run
        run = Run(sys.argv[1])
        print(run.result(), run.status, next(iter(run.events())).type)
    """

    assert output(python(program, cluster, run.id)) == "{'double': 4, 'triple': 6} succeeded run.submitted\n"


def test_an_id_is_used_once(local: LocalCluster, tmp_path: Path) -> None:
    """The same id and input again are the same run: it is not run again."""
    path = tmp_path / "calls"
    first = noted.submit(str(path), id="used-once")
    second = noted.submit(str(path), id="used-once")
    first.result(timeout=10)
    third = noted.submit(str(path), id="used-once")

    assert (first.id, second.result(), third.result()) == ("used-once",) * 3
    assert path.read_text().splitlines() == ["used-once"]


def test_an_id_is_used_again_after_its_run_was_deleted(local: LocalCluster) -> None:
    """For another workflow: no process takes it for the one that it had under this id."""
    ledger = session.current().ledger
    results: list[object] = []
    for _ in range(8):
        # Five, so that one process does not get the same one each time.
        for step in (double, triple, double, double, triple):
            results.append(step.submit(5, id="twice").result(timeout=30))
            until(lambda: ledger.delete("twice") or not ledger.exists("twice"), what="its end")

    assert results == [10, 15, 10, 10, 15] * 8


def waited_for_its_message(run: Run) -> float:
    """Seconds from a run's submission to its first lease; where a janitor had to publish its message they are 2."""
    told = {event.type: event.time for event in run.events()}
    return told["run.started"] - told["run.submitted"]


@pytest.mark.store_faults(unless="a call that times out costs more time than is allowed here")
@pytest.mark.parametrize("id", [None, "order-43"])
def test_a_lost_answer_costs_no_time(local: LocalCluster, monkeypatch: pytest.MonkeyPatch, id: str | None) -> None:
    """A run whose acceptance was not heard of is begun at once, and not when a janitor finds it."""
    submit = Ledger.submit

    def twice(self: Ledger, *args: Any, **kwargs: Any) -> Accepted:
        submit(self, *args, **kwargs)
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "submit", twice)
    run = double.submit(5, id=id)

    assert run.result(timeout=10) == 10
    assert waited_for_its_message(run) < 1.5


def test_two_processes_submit_one_id_at_once(local: LocalCluster, tmp_path: Path) -> None:
    """Of two submissions of one id at the same time one counts, and both get its value."""
    program = """
        import sys, time
        from pathlib import Path
        from tests.cluster.test_client import noted
        from egregore_dist.client import session
        session.current().ledger.ping()
        Path(sys.argv[1], sys.argv[2]).touch()
        while len(list(Path(sys.argv[1]).glob("ready*"))) < 2:
            time.sleep(0.001)
        print(noted.submit(f"{sys.argv[1]}/calls", id="contended").result(timeout=10))
    """
    processes = [python(program, local, str(tmp_path), f"ready{i}") for i in range(2)]

    assert [output(process) for process in processes] == ["contended\n"] * 2
    assert (tmp_path / "calls").read_text().splitlines() == ["contended"]


@pytest.mark.parametrize("step", [double.map(), double.map() >> double, parallel(double.map(), triple)])
@pytest.mark.parametrize("data", [None, 5, "text"])
def test_a_map_needs_entries(local: LocalCluster, step: Step, data: object) -> None:
    """Where it gets the run's input, that is seen before anything is submitted."""
    before = len(session.current().ledger.runs(1000))
    told = "map 'double' runs once for each item of a list or a mapping, but was given a value of type"
    with pytest.raises(errors.BindingError, match=told):
        step.submit(data)

    assert len(session.current().ledger.runs(1000)) == before


@pytest.mark.parametrize(("timeout", "error"), [("3", TypeError), (True, TypeError), (float("nan"), ValueError)])
def test_a_time_to_wait_is_a_number(local: LocalCluster, timeout: Any, error: type[Exception]) -> None:
    """What would fail somewhere inside, or wait for ever, is refused by its name."""
    with pytest.raises(error, match=r"timeout must be a number of seconds, or None to wait for the end, not"):
        Run("any").result(timeout=timeout)


def test_an_id_must_be_plain(local: LocalCluster) -> None:
    """An id that could not be typed or kept is refused."""
    for wrong in ("", "a b", "a/b", "x" * 129, "ä", "{a}", "a\n", 5, ".", ".."):
        with pytest.raises(errors.WorkflowError, match="run id"):
            double.submit(1, id=wrong)  # type: ignore[arg-type]


def test_a_run_that_does_not_exist(local: LocalCluster) -> None:
    """Whatever is asked of an unknown id, the answer is `RunNotFound`, which names it."""
    run = Run("nowhere")

    async def awaits() -> None:
        await run

    asks = (lambda: run.status, run.result, run.cancel, lambda: list(run.events()), lambda: asyncio.run(awaits()))
    for ask in asks:
        with pytest.raises(errors.RunNotFound, match="'nowhere'"):
            ask()


def test_a_run_is_cancelled(cluster: LocalCluster, tmp_path: Path) -> None:
    """Cancelling ends a run at once, and whoever waits hears of it; cancelling again changes nothing."""
    run = parallel(gated, gated.alias("again"), double.alias("later"), max_concurrent=2).submit(str(tmp_path / "never"))
    until(lambda: run.status == "running", what="the run")

    assert (run.cancel(), run.cancel(), run.status) == ("cancelled",) * 3
    with pytest.raises(errors.RunCancelled, match=run.id):
        run.result()
    assert both.submit(1).result(timeout=10) == {"double": 2, "triple": 3}


def test_cancelling_what_has_ended_changes_nothing(local: LocalCluster) -> None:
    """A run that has succeeded stays so."""
    run = double.submit(1)
    run.result()

    assert (run.cancel(), run.result()) == ("succeeded", 2)


# Events


def test_events_tell_the_run(cluster: LocalCluster) -> None:
    """Events come in order from submission to end, and every branch starts and ends once."""
    run = Sequence(double, both).submit(1)
    events = list(run.events())
    kinds = [event.type for event in events]
    block = next(event.block for event in events if event.type == "block.opened")
    started = [branch for e in events if e.block == block and e.type == "branches.started" for branch in e.branches]
    ended = [branch for e in events if e.block == block and e.type == "branches.ended" for branch in e.branches]

    assert (kinds[0], kinds[-1]) == ("run.submitted", "run.ended")
    assert events[-1].detail["state"] == "succeeded"
    assert (sorted(started), sorted(ended)) == ([0, 1], [0, 1])
    assert {e.worker for e in events if e.type == "branches.started"} <= {worker.name for worker in cluster.workers}
    assert [event.time for event in events] == sorted(event.time for event in events)


def test_events_can_be_iterated_asynchronously(local: LocalCluster) -> None:
    """``async for`` gives the same events, while the run goes on."""
    run = both.submit(1)

    async def main() -> list[str]:
        return [event.cursor async for event in run]

    assert asyncio.run(main()) == [event.cursor for event in run.events()]


def test_events_go_on_after_a_cursor(local: LocalCluster) -> None:
    """Who begins anew loses nothing, and has nothing twice; what is no cursor is refused at once."""
    run = Sequence(double, both).submit(1)
    run.result(timeout=30)
    every = [event.cursor for event in run.events()]

    async def main(after: str) -> list[str]:
        return [event.cursor async for event in run.aevents(after=after)]

    for at, cursor in enumerate(every):
        assert [event.cursor for event in run.events(after=cursor)] == every[at + 1 :]
        assert asyncio.run(main(cursor)) == every[at + 1 :]
    for ask in (run.events, run.aevents):
        with pytest.raises(errors.ConfigurationError, match="'yesterday' is not the cursor"):
            ask(after="yesterday")


def test_events_that_are_not_kept_are_told(local: LocalCluster) -> None:
    """Who reads too slowly, or comes too late, is told that some are missing, and where."""
    run = both.submit(1)
    run.result(timeout=30)
    key = session.current().ledger.keys.part(run.id, "events")
    first = next(event.cursor for event in run.events())
    with redis.Redis.from_url(local.url) as server:
        for _ in range(2 * EVENTS_READ):
            server.xadd(key, {"event": "run.paused"}, maxlen=EVENTS_READ + 10, approximate=False)

    async def main(after: str) -> list[str]:
        return [event.type async for event in run.aevents(after=after)]

    for after in ("0", first):
        told = list(run.events(after=after))
        assert [event.type for event in told] == ["events.missed", *["run.paused"] * (EVENTS_READ + 10)]
        assert (told[0].cursor, told[0].time) == (after, told[1].time)
        assert asyncio.run(main(after)) == [event.type for event in told]
    kept = told[5].cursor
    assert [event.cursor for event in run.events(after=kept)] == [event.cursor for event in told[6:]]


def test_events_need_not_be_followed(local: LocalCluster, tmp_path: Path) -> None:
    """``events(follow=False)`` stops at what is known of a run that goes on."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))
    until(lambda: run.status == "running", what="the run")
    known = [event.type for event in run.events(follow=False)]
    gate.touch()
    run.result(timeout=10)

    assert known[:2] == ["run.submitted", "run.started"]
    assert "run.ended" not in known


def swallowing(stock: Any, *, fails: bool) -> Any:
    """A kind of connection whose task is cancelled while it sends, and goes on, as with redis-py on Python 3.11."""

    class Swallowing(stock):  # type: ignore[misc]
        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            await super().send_packed_command(*args, **options)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            if fails:
                raise redis.exceptions.ConnectionError("a fault of the test's")

    return Swallowing


@pytest.mark.store_faults(unless="connections of its own are what fails")
@pytest.mark.parametrize("fails", [False, True], ids=["ok", "failed"])
def test_a_wait_that_is_cancelled_ends(local: LocalCluster, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Whenever that is: also where the call that it is at does not heed it."""
    as_it_is = connection.outlasting

    def outlasting(stock: Any) -> Any:
        is_async = issubclass(stock, redis.asyncio.connection.AbstractConnection)
        return swallowing(stock, fails=fails) if is_async else as_it_is(stock)

    run = elsewhere.submit(1)
    monkeypatch.setattr("egregore_dist.ledger.connection.outlasting", outlasting)

    async def ended() -> bool:
        waits = asyncio.ensure_future(Run(run.id)._wait())
        await asyncio.wait([waits], timeout=30)
        return waits.cancelled()

    assert asyncio.run(ended())
    monkeypatch.undo()
    run.cancel()


# Queues that nobody serves


@node("elsewhere", queue="elsewhere")
def elsewhere(value: int) -> int:
    return value


@pytest.mark.parametrize("how", ["result", "await"])
@pytest.mark.parametrize("first", [True, False], ids=["pending", "running"])
def test_who_waits_for_a_queue_that_nobody_serves_is_told(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str, first: bool
) -> None:
    """The log says it once, with what to start, whether the run has begun or not; and the run waits on."""
    monkeypatch.setattr("egregore_dist.client.run._TELL_AFTER", 0.3)
    monkeypatch.setattr("egregore_dist.client.run._WAIT", 0.1)
    run = (elsewhere if first else Sequence(double, parallel(elsewhere))).submit(1)

    async def waited() -> Any:
        return await asyncio.wait_for(run, 4.0)

    with pytest.raises(TimeoutError):
        _ = run.result(timeout=4.0) if how == "result" else asyncio.run(waited())

    (told,) = [record.getMessage() for record in caplog.records if "no live worker" in record.getMessage()]
    assert told.startswith(f"run {run.id} waits: ")
    assert "no live worker serves queue 'elsewhere'; served: 'egregore'" in told
    assert told.endswith("start one with `egregore-dist worker -q elsewhere`")
    assert run.status == ("pending" if first else "running")
    run.cancel()


def test_a_cluster_of_ones_own_refuses_a_queue_that_nobody_serves(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would ever come to it; the default queue may be named."""
    monkeypatch.setattr(session.current(), "embedded", True)
    own = node("own", queue=local.settings.queue)(lambda value: 2 * value)
    with pytest.raises(errors.WorkflowError, match=r"queue='elsewhere', which no worker .* EGREGORE_BROKER_URL"):
        Sequence(double, elsewhere.map()).submit(1)

    assert own.run(1) == 2


# Ctrl-C


@pytest.mark.parametrize("wait", ["run.result()", "asyncio.run(awaited())"], ids=["result", "await"])
def test_ctrl_c_leaves_the_run_going(local: LocalCluster, tmp_path: Path, wait: str) -> None:
    """Ctrl-C ends the waiting only; the message names the run and the command that finds it."""
    id = tmp_path.name
    program = f"""
        import asyncio, sys
        from tests.cluster.test_client import both, gated
        async def awaited():
            return await run
        both(1)
        run = gated.submit(sys.argv[1], id="{id}")
        print("submitted", flush=True)
        {wait}
    """
    waiting = python(program, local, str(tmp_path / "gate"))
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "submitted\n"
    until(lambda: _status(id) == "running", what="the run")
    until(_is_waited_for, what="the wait for it")
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=10)
    assert waiting.returncode != 0
    assert f"egregore-dist runs show {id}" in err
    assert Run(id).status == "running"
    (tmp_path / "gate").touch()

    assert Run(id).result(timeout=10) == "through"


def test_ctrl_c_in_a_call_says_the_same(
    local: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``flow(data)`` says how to find the run too."""
    caplog.set_level(logging.WARNING, logger=log.name)

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    ledger = session.current().ledger
    monkeypatch.setattr(ledger, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        both(1)

    assert re.search(r"run (\w+) goes on.*runs show \1", caplog.text)


def test_ctrl_c_in_a_program_of_its_own_cluster(tmp_path: Path) -> None:
    """Where the cluster ends with the program, the message says so, and what runs is stopped, not killed."""
    program = """
        import sys, time
        from pathlib import Path
        from egregore_dist import node
        from egregore_dist.ledger import Ledger

        waits = Ledger.wait

        def noted(*args):
            Path(sys.argv[1], "waiting").touch()
            return waits(*args)

        Ledger.wait = noted

        @node
        def wait(folder: str) -> None:
            try:
                Path(folder, "begun").touch()
                time.sleep(60)
            finally:
                Path(folder, "finally").touch()

        wait.run(sys.argv[1])
    """
    waiting = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    until((tmp_path / "begun").exists, seconds=30, what="the node")
    until((tmp_path / "waiting").exists, what="the wait for it")
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=30)

    assert waiting.returncode != 0
    assert re.search(r"run (\w+) goes on until this program ends.*Run\('\1'\)\.result\(\)", err)
    assert (tmp_path / "finally").exists()


def test_a_ledger_without_a_broker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A private broker beside a ledger that others share would mix two clusters."""
    monkeypatch.setenv("EGREGORE_LEDGER_URL", "redis://127.0.0.1:1/0")
    before = session.use(None)
    try:
        with pytest.raises(errors.ConfigurationError, match="EGREGORE_BROKER_URL is not"):
            double.run(1)
    finally:
        session.use(before)


def _is_waited_for() -> bool:
    """Whether somebody waits for the end of a run."""
    clients = session.current().ledger.redis.client_list()
    return any("b" in each["flags"] and each["cmd"] == "blmove" for each in clients)


def _status(run: str) -> str:
    try:
        return Run(run).status
    except errors.RunNotFound:
        return ""


# Inside nodes


@node
def waits_inside(how: str) -> Any:
    run = Run("some-run")
    ways: dict[str, Any] = {
        "call": lambda: both(1),
        "run": lambda: both.run(1),
        "arun": lambda: asyncio.run(both.arun(1)),
        "result": run.result,
        "await": lambda: asyncio.run(run._wait()),
        "deeper": lambda: deeper(),
        "own thread": lambda: on_a_thread(lambda: both(1)),
        "own thread's result": lambda: on_a_thread(run.result),
    }
    return ways[how]()


@node
async def awaits_inside(how: str) -> Any:
    run = Run("some-run")
    if how == "thread":
        return await asyncio.to_thread(run.result)
    return await (run if how == "await" else both.arun(1))


def on_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def deeper() -> Any:
    return double.run(1)


@node
def submits_inside(value: int, context: Context) -> str:
    return both.submit(value, id=f"{context.run}-{context.branch}").id


@node
def submits_on_a_thread(value: int, context: Context) -> str:
    return on_a_thread(lambda: submits_inside(value, context))


def test_waiting_inside_a_node_is_refused(local: LocalCluster) -> None:
    """Whichever way a node waits for a run, it fails with an error that says to nest it instead."""
    ways = ["call", "run", "arun", "result", "await", "deeper", "own thread", "own thread's result"]
    sync = waits_inside.map(on_error="collect").run(ways)
    of_async = awaits_inside.map(on_error="collect").run(["await", "arun", "thread"])

    for error in (*sync, *of_async):
        assert error.type == "egregore_dist.errors.NestedWaitError"
        assert "this >> those" in error.message
        # A thread that a node has started does not know its node.
        assert error.node in error.message or "a thread of a node" in error.message


@pytest.mark.parametrize("submits", [submits_inside, submits_on_a_thread], ids=lambda node: str(node.name))
def test_submitting_inside_a_node_works(local: LocalCluster, submits: Step) -> None:
    """A node may submit a workflow and not wait for it."""
    parent = f"parent-{submits.name}"
    ids = submits.map().submit([1, 2], id=parent).result(timeout=20)

    assert ids == [f"{parent}-0", f"{parent}-1"]
    assert [Run(id).result(timeout=10) for id in ids] == [{"double": 2, "triple": 3}, {"double": 4, "triple": 6}]


def test_a_client_is_not_inside_a_node(local: LocalCluster) -> None:
    """Calling a node's function in the client is an ordinary call, which may run workflows."""

    @node("outer")
    def outer(value: int) -> Any:
        return both(value)

    assert outer(1) == {"double": 2, "triple": 3}


# Progress


def test_progress_is_shown_on_request(local: LocalCluster, capfd: pytest.CaptureFixture[str]) -> None:
    """``progress=True`` draws a bar a block on standard error, whether or not that is a terminal."""
    run = parallel(double, triple, name="shown_block").submit(1)

    assert run.result(progress=True) == {"double": 2, "triple": 3}
    out, err = capfd.readouterr()
    assert "shown_block" in err
    assert "2/2" in err
    assert out == ""


def test_progress_is_off_elsewhere(local: LocalCluster, capfd: pytest.CaptureFixture[str]) -> None:
    """Where standard error is no terminal, nothing is drawn unless asked for."""
    both(1)
    both.run(1, progress=False)

    assert capfd.readouterr() == ("", "")


# Forks


def in_child(act: Any) -> int:
    """Do something in a forked child; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_both() -> None:
    assert both.submit(3).result(timeout=10) == {"double": 6, "triple": 9}


def doubled(value: int) -> int:
    return int(both(value)["double"])


def test_a_forked_child_may_use_the_package(cluster: LocalCluster) -> None:
    """After a fork, child and parent both submit and wait: no connection is shared."""
    check_both()
    assert in_child(check_both) == 0
    check_both()


@pytest.mark.store_faults(unless="a call that times out costs more time than is allowed here")
def test_a_fork_while_a_thread_connects(cluster: LocalCluster) -> None:
    """What another thread had locked at the moment of the fork holds up no child: it publishes, and not a janitor."""
    check_both()
    holds, done = threading.Event(), threading.Event()

    def connect() -> None:
        with contextlib.ExitStack() as stack:
            for attribute in vars(kombu.transport.redis.Channel).values():
                if isinstance(attribute, cached_property):
                    stack.enter_context(attribute.lock)
            holds.set()
            done.wait(60)

    thread = threading.Thread(target=connect)
    thread.start()
    assert holds.wait(10)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        # The first thread of a copy may have the identity of the one that held the locks, and so hold them itself.
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        try:
            run = both.submit(3)
            run.result(timeout=15)
            assert waited_for_its_message(run) < 1.5
        except BaseException:
            os._exit(1)
        os._exit(0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_handle_survives_a_fork(local: LocalCluster, tmp_path: Path) -> None:
    """A run that the parent submitted can be waited for in the child and in the parent."""
    gate = tmp_path / "gate"
    run = gated.submit(str(gate))

    def check() -> None:
        gate.touch()
        assert run.result(timeout=10) == "through"

    assert in_child(check) == 0
    assert run.result(timeout=10) == "through"


def test_forked_pools_may_use_the_package(cluster: LocalCluster) -> None:
    """Processes of a `multiprocessing` pool submit on their own."""
    check_both()
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(doubled, range(6)) == [2 * i for i in range(6)]


# The embedded cluster

SCRIPT = """
import os, sys
from egregore_dist import node, parallel

@node("square")
def square(value: int) -> int:
    return value ** 2

@node("worker")
def worker(value: int) -> int:
    return os.getpid()

result = parallel(square, worker)(7)
assert result["worker"] != os.getpid()
print(result["square"], flush=True)
if sys.argv[1] == "raises":
    raise RuntimeError("the script broke")
if sys.argv[1] == "exits":
    sys.exit(5)
if sys.argv[1] == "waits":
    sys.stdin.read()
"""


def ours(folder: Path) -> list[int]:
    """The processes that belong to a script, known by the folder for temporary files in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = any(str(folder) in value for value in process.environ().values())
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("ending", "code"),
    [("returns", 0), ("raises", 1), ("exits", 5), ("SIGKILL", -9), ("SIGTERM", -15), ("SIGINT", -2)],
)
def test_a_script_just_works_and_leaves_nothing(tmp_path: Path, ending: str, code: int) -> None:
    """With nothing configured a script runs on workers of its own; however it ends, no process and no file stays."""
    script, folder = tmp_path / "script.py", tmp_path / "tmp"
    script.write_text(SCRIPT)
    folder.mkdir()
    number = getattr(signal, ending, None)
    program = subprocess.Popen(
        [sys.executable, str(script), "waits" if number else ending],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.getcwd()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    line = program.stdout.readline()
    if number:
        assert len(ours(folder)) > 3
        program.send_signal(number)
    _, err = program.communicate(timeout=30)

    assert (line, program.returncode) == ("49\n", code), err
    until(lambda: not ours(folder), seconds=15, what="the end of every process")
    until(lambda: not remains(folder), seconds=5, what="an empty folder")


def test_who_waits_publishes_on_its_own_thread(local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is waited for is published at once; one that is only submitted, beside the program."""
    threads: list[str] = []
    advance = publish.advance

    def noted(*args: Any, **options: Any) -> None:
        threads.append(threading.current_thread().name)
        advance(*args, **options)

    monkeypatch.setattr(publish, "advance", noted)
    me = threading.current_thread().name

    assert double.run(1) == 2
    assert double.submit(1).result(timeout=60) == 2
    assert threads == [me, "egregore-later"]


def test_ctrl_c_while_a_run_is_published_tells_how_to_find_it(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is accepted by then, and goes on: a janitor publishes it."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        double.run(1)
    told = re.search(r"stopped waiting; run (\w+) goes on", caplog.text)

    assert told is not None
    assert Run(told[1]).result(timeout=60) == 2


def test_a_message_that_fails_to_be_published_is_not_the_callers_error(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is accepted: whoever waits for it gets its value once a janitor has published it."""

    def refused(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'client'")

    monkeypatch.setattr(Producer, "publish", refused)

    assert double.run(1) == 2
    assert "a message could not be published; a worker's janitor asks again" in caplog.text

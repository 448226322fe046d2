"""How nodes fail on real workers: what comes back of an exception, what is tried again, what never stops a worker."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import (
    BindingError,
    Context,
    LocalCluster,
    ParallelExecutionError,
    ParallelTimeoutError,
    RunExists,
    RunFailed,
    Sequence,
    connect,
    decision,
    errors,
    node,
    parallel,
)
from tests.support.clusters import submitting
from tests.support.waiting import until

pytestmark = pytest.mark.store_faults


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


# What comes back


class Refused(Exception):
    """An exception with a constructor of its own."""

    def __init__(self, code: int, *, url: str) -> None:
        super().__init__(f"{url} answered {code}")
        self.code = code
        self.detail = {"url": url}


class Holding(Exception):
    """An exception that holds what cannot travel."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Abrupt(BaseException):
    """An exception that ``except Exception`` does not catch."""


@node
def refused(data: Any) -> None:
    try:
        {}["key"]  # type: ignore[index]
    except KeyError as cause:
        error = Refused(404, url="/a")
        error.add_note("tried once")
        raise error from cause


def test_the_original_exception_is_the_cause(cluster: LocalCluster) -> None:
    """An exception of the user's own comes back as itself, with its attributes, notes, causes and the traceback."""
    with pytest.raises(ParallelExecutionError) as caught:
        parallel(fine, refused.alias("first"), name="block").run(1)

    error, cause = caught.value, caught.value.__cause__
    assert (error.block, error.branch, error.node) == ("block", "first", "first")
    assert isinstance(cause, Refused)
    assert (str(cause), cause.code, cause.detail) == ("/a answered 404", 404, {"url": "/a"})
    assert isinstance(cause.__cause__, KeyError)
    assert cause.__cause__.args == ("key",)
    assert cause.__notes__[0] == "tried once"
    assert "raise error from cause" in cause.__notes__[1]
    assert "KeyError: 'key'" in (error.remote_traceback or "")
    assert error.errors["first"].type == f"{__name__}.Refused"


def test_the_cause_is_there_outside_of_blocks_and_below_nested_ones(local: LocalCluster) -> None:
    """A run of one node, and a block in a block, lead to the same exception."""
    with pytest.raises(RunFailed) as alone:
        refused.run(1)
    with pytest.raises(ParallelExecutionError) as nested:
        parallel(fine, parallel(fine, refused, name="inner"), name="outer")(1)

    assert isinstance(alone.value.__cause__, Refused)
    inner = nested.value.__cause__
    assert isinstance(inner, ParallelExecutionError)
    assert (nested.value.branch, inner.block, inner.branch) == ("inner", "inner", "refused")
    assert isinstance(inner.__cause__, Refused)


@pytest.mark.parametrize("kind", [Holding, Mute, Abrupt], ids=lambda kind: kind.__name__)
def test_other_exceptions_look_like_themselves(local: LocalCluster, kind: type[BaseException]) -> None:
    """What cannot be built again is a `RemoteError` with class, text and notes."""

    @node("fails")
    def fails(data: Any) -> None:
        error = kind("the text")
        error.add_note("a hint")
        raise error

    with pytest.raises(ParallelExecutionError, match=f"{kind.__name__}: ") as caught:
        parallel(fine, fails)(1)

    cause = caught.value.__cause__
    assert isinstance(cause, errors.RemoteError)
    assert cause.type == f"{__name__}.{kind.__name__}"
    assert cause.message == ("<str() of the exception raised RuntimeError>" if kind is Mute else "the text")
    assert cause.__notes__[0] == "a hint"


def test_a_group_comes_back(local: LocalCluster) -> None:
    """The exceptions of a task group are there with their classes."""

    @node("gathers")
    async def gathers(data: Any) -> None:
        async def fails(error: Exception) -> None:
            raise error

        async with asyncio.TaskGroup() as group:
            group.create_task(fails(ValueError("one")))
            group.create_task(fails(Refused(500, url="/b")))

    with pytest.raises(ParallelExecutionError) as caught:
        parallel(fine, gathers)(1)

    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [type(member) for member in cause.exceptions] == [ValueError, Refused]


def test_a_class_of_a_script_comes_back(local: LocalCluster, tmp_path: Path) -> None:
    """A class that is written in the script itself is retried on and rebuilt, though no worker can import it."""
    program = """
        from egregore_dist import Context, ParallelExecutionError, connect, node, parallel

        class Odd(ConnectionError):
            def __init__(self, code):
                super().__init__(f"code {code}")
                self.code = code

        @node(retries=2, retry_on=Odd, retry_delay=0.01)
        def fails(data: int, context: Context):
            raise Odd(context.attempt)

        try:
            parallel(fails, fails.alias("again"), max_concurrent=1)(1)
        except ParallelExecutionError as error:
            print(type(error.__cause__) is Odd, error.__cause__.code, error.errors["fails"].attempt)
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, str(script)], env=local.worker_environment(), capture_output=True, text=True, timeout=60
    )

    assert done.stdout.split() == ["True", "3", "3"], done.stderr


# What is tried again


class Flaky(ConnectionError):
    """What a service says on a bad day."""


@node(retries=2, retry_on=(Flaky, KeyError), retry_delay=0.01)
def flaky(path: str, context: Context) -> int:
    write(path, context.branch)
    if context.attempt < 3:
        raise Flaky("try again")
    return context.attempt


@node(retries=2, retry_on=(Flaky, KeyError), retry_delay=0.01)
async def aflaky(path: str, context: Context) -> int:
    write(path, context.branch)
    if context.attempt < 3:
        raise Flaky("try again")
    return context.attempt


@node(retries=2, retry_on=Flaky, retry_delay=0.01)
def stubborn(path: str, context: Context) -> None:
    write(path, context.branch)
    raise ValueError("never better")


def test_only_what_is_named_is_tried_again(cluster: LocalCluster, tmp_path: Path) -> None:
    """A node is tried again after the exceptions that it names, under an alias too, and not after others."""
    path = tmp_path / "calls"
    branches = [flaky, flaky.alias("other"), aflaky, stubborn]
    found = parallel(*branches, on_error="collect")(str(path))

    assert (found["flaky"], found["other"], found["aflaky"]) == (3, 3, 3)
    assert (found["stubborn"].type, found["stubborn"].attempt) == ("ValueError", 1)
    assert sorted(lines(path)) == sorted(["flaky"] * 3 + ["other"] * 3 + ["aflaky"] * 3 + ["stubborn"])


def test_functions_that_travel_by_value_are_tried_again(local: LocalCluster, tmp_path: Path) -> None:
    """A class that exists inside of a function only is known by its name on the worker."""

    class Inner(Exception):
        pass

    class Below(Inner):
        pass

    def closure(path: str, context: Context) -> int:
        write(path, context.attempt)
        if context.attempt == 1:
            raise Below
        return context.attempt

    again = node("again", retries=1, retry_on=Inner, retry_delay=0.01)(closure)
    never = node("never", retries=1, retry_on=Flaky, retry_delay=0.01)(closure)

    assert again.alias("renamed").run(str(tmp_path / "again")) == 2
    with pytest.raises(RunFailed, match="Below"):
        never.run(str(tmp_path / "never"))
    assert lines(tmp_path / "never") == ["1"]


@node(timeout=0.2, retries=1, retry_on=TimeoutError, retry_delay=0.01)
def late_once(path: str, context: Context) -> int:
    if context.attempt == 1:
        time.sleep(60)
    return context.attempt


@node(timeout=0.2, retries=1, retry_on=KeyError, retry_delay=0.01)
async def late_for_good(path: str, context: Context) -> int:
    write(path, context.attempt)
    await asyncio.sleep(60)
    return 0


def test_a_timeout_is_tried_again_where_it_is_named(local: LocalCluster, tmp_path: Path) -> None:
    """A node that was too late has failed with a `TimeoutError`."""
    found = parallel(late_once, late_for_good, on_error="collect").run(str(tmp_path / "late"))

    assert found["late_once"] == 2
    assert (found["late_for_good"].kind, lines(tmp_path / "late")) == ("timeout", ["1"])


@node(retries=9, retry_delay=30.0)
def hopeless(path: str) -> None:
    write(path, "tried")
    raise OSError("no disk")


@node(retries=9, retry_delay=30.0)
async def ahopeless(path: str) -> None:
    write(path, "tried")
    raise OSError("no disk")


@pytest.mark.parametrize("step", [hopeless, ahopeless], ids=["sync", "async"])
def test_a_deadline_does_not_wait_for_an_attempt(local: LocalCluster, tmp_path: Path, step: Any) -> None:
    """The pause before the next attempt ends with the block, and the worker is free."""
    path = tmp_path / "tries"
    with pytest.raises(ParallelTimeoutError) as caught:
        parallel(*[step.alias(f"n{number}") for number in range(4)], timeout=1.5).run(str(path))

    assert set(caught.value.running) | set(caught.value.pending) == {f"n{number}" for number in range(4)}
    assert parallel(fine, fine.alias("two"), timeout=20).run(1) == {"fine": "fine", "two": "fine"}
    assert len(lines(path)) <= 4


@pytest.mark.parametrize("step", [hopeless, ahopeless], ids=["sync", "async"])
def test_a_cancelled_run_does_not_wait_for_an_attempt(local: LocalCluster, tmp_path: Path, step: Any) -> None:
    """The pause before the next attempt ends with the run, and the worker is free."""
    path = tmp_path / "tries"
    run = parallel(*[step.alias(f"n{number}") for number in range(4)]).submit(str(path))
    until(lambda: lines(path), what="a first attempt")
    run.cancel()

    assert parallel(fine, fine.alias("two"), timeout=20).run(1) == {"fine": "fine", "two": "fine"}
    with pytest.raises(errors.RunCancelled):
        run.result(timeout=5)


# The idempotency key


@node
def keyed(path: str, context: Context) -> str:
    write(path, f"{context.attempt} {context.idempotency_key}")
    return path


@node
def killed_once(path: str, context: Context) -> str:
    write(path, f"{context.attempt} {context.idempotency_key}")
    if len(lines(Path(path))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return path


@pytest.fixture(scope="module")
def quick() -> Iterator[LocalCluster]:
    """A cluster of this module's own, whose processes may be killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGREGORE_REPORT_INTERVAL", "0.25")
        patch.setenv("EGREGORE_SWEEP_INTERVAL", "0.2")
        patch.setenv("EGREGORE_STOP_GRACE", "0.3")
        cluster = LocalCluster(workers=1, concurrency=1)
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture
def own(quick: LocalCluster) -> Iterator[LocalCluster]:
    """That cluster, as what this process submits to."""
    with submitting(quick.settings):
        yield quick


def test_the_key_outlives_a_killed_process(own: LocalCluster, tmp_path: Path) -> None:
    """The second attempt of a call whose process was killed has another number and the same key."""
    path = tmp_path / "calls"
    parallel(killed_once, fine).submit(str(path)).result(timeout=40)
    (first, one), (second, two) = [line.split() for line in lines(path)]

    assert (first, second) == ("1", "2")
    assert one == two


def test_the_key_outlives_a_retry_of_the_run(local: LocalCluster, tmp_path: Path) -> None:
    """A branch that runs again with its run has the key that it had."""

    @node("fails_first")
    def fails_first(path: str, context: Context) -> None:
        write(path, f"{context.attempt} {context.idempotency_key}")
        if len(lines(Path(path))) == 2:
            raise ValueError("no")

    run = Sequence(keyed, parallel(fails_first, name="block"), fine).submit(str(tmp_path / "calls"))
    with pytest.raises(ParallelExecutionError):
        run.result(timeout=30)
    run.retry()

    assert run.result(timeout=30) == "fine"
    before, first, second = [line.split()[1] for line in lines(tmp_path / "calls")]
    assert first == second
    assert before != first


def test_every_call_of_a_run_has_its_own_key(local: LocalCluster, tmp_path: Path) -> None:
    """Branches, places in a sequence, items of maps, blocks inside of maps, and other runs: all keys differ."""
    again = keyed.map(name="inner") >> node("first")(lambda values: values[0])
    flow = Sequence(
        keyed,
        keyed,
        parallel(keyed, keyed.alias("second"), Sequence(keyed, keyed).alias("twice")),
        node("items")(lambda values: [[values["keyed"]] * 2] * 3),
        again.map(),
    )
    path = tmp_path / "calls"
    for _ in range(2):
        flow.run(str(path))
    keys = [line.split()[1] for line in lines(path)]

    assert len(keys) == 2 * (2 + 4 + 6)
    assert len(set(keys)) == len(keys)


# What never stops a worker


def throw(error: BaseException) -> None:
    raise error


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def later() -> int:
    return 1


def overflow() -> None:
    overflow()


ENDS: dict[str, Callable[[], Any]] = {
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: throw(KeyboardInterrupt()),
    "GeneratorExit": lambda: throw(GeneratorExit()),
    "StopIteration": lambda: next(iter(())),
    "StopAsyncIteration": lambda: throw(StopAsyncIteration()),
    "CancelledError": lambda: throw(asyncio.CancelledError()),
    "RecursionError": overflow,
    "MemoryError": lambda: throw(MemoryError("no room")),
    "Abrupt": lambda: throw(Abrupt("abrupt")),
    "Mute": lambda: throw(Mute("mute")),
    "Holding": lambda: throw(Holding("lock")),
    "BaseExceptionGroup": lambda: throw(BaseExceptionGroup("many", [KeyboardInterrupt(), SystemExit()])),
    "EncodingError": threading.Lock,
    "EncodingError.generator": lambda: (number for number in range(3)),
    "EncodingError.function": lambda: overflow,
    "EncodingError.deep": lambda: nested(65),
    "EncodingError.deeper": lambda: nested(100_000),
    "EncodingError.key": lambda: {object(): 1},
    "EncodingError.number": lambda: 2**64,
}
GOOD: dict[str, Callable[[], Any]] = {
    "awaitable": later,
    "deepest": lambda: nested(64),
    "nan": lambda: math.nan,
    "keys": lambda: {1: "a", (1, 2): "b", None: "c"},
}


def odd(name: str) -> Any:
    return {**ENDS, **GOOD}[name]()


async def aodd(name: str) -> Any:
    await asyncio.sleep(0)
    return odd(name)


def expected(name: str, is_async: bool) -> str:
    """The class of the failure; a coroutine may not raise StopIteration: Python itself makes a RuntimeError of it."""
    return "RuntimeError" if is_async and name == "StopIteration" else name.partition(".")[0]


@pytest.mark.parametrize("function", [odd, aodd], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["node", "decision", "map"])
def test_whatever_a_function_does_has_an_outcome(local: LocalCluster, function: Any, kind: str) -> None:
    """Whatever is raised or returned by a node, a decision or the body of a map ends its branch; the worker goes on."""
    pids = [worker.pid for worker in local.workers]
    names = list(ENDS)
    step: Any = node("odd")(function)
    if kind == "decision":
        step = decision("odd")(function).to(fine)
    if kind == "map":
        step = node("wrap")(lambda name: [name]) >> node("odd")(function).map(name="body")
    found = step.map(on_error="collect", name="all").run(names)

    for name, error in zip(names, found, strict=True):
        if kind == "map":
            assert error.type == "egregore_dist.errors.ParallelExecutionError"
            assert f"{expected(name, function is aodd)}: " in f"{error.message}: "
        else:
            assert error.type.rpartition(".")[2] == expected(name, function is aodd), name
        assert (error.kind, error.node) == ("error", "odd")
    assert [worker.pid for worker in local.workers if worker.alive] == pids
    assert parallel(fine, fine.alias("two"))(1) == {"fine": "fine", "two": "fine"}


@pytest.mark.parametrize("function", [odd, aodd], ids=["sync", "async"])
def test_odd_values_travel(local: LocalCluster, function: Any) -> None:
    """What a sync node returns to be awaited is awaited; values at the limits come back as they were."""
    names = [name for name in GOOD if not (function is aodd and name == "awaitable")]
    found = dict(zip(names, node("odd")(function).map().run(names), strict=True))

    assert found.get("awaitable", 1) == 1
    assert found["deepest"] == nested(64)
    assert math.isnan(found["nan"])
    assert found["keys"] == {1: "a", (1, 2): "b", None: "c"}


def test_a_coroutine_that_nobody_awaits_is_named(local: LocalCluster) -> None:
    """An async node that returns a coroutine is told to await it."""
    with pytest.raises(RunFailed, match=r"'odd' cannot be encoded: coroutine.*Await it"):
        node("odd")(aodd).run("awaitable")


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
def test_a_task_of_a_node_s_own_does_not_end_the_loop(
    local: LocalCluster, ends: type[BaseException], wide: bool
) -> None:
    """What would end a program, raised in a task that a node has made, is that node's failure; its siblings go on."""

    @node("ends")
    async def ends_(data: Any) -> None:
        async def child() -> None:
            raise ends(3)

        await asyncio.create_task(child())

    @node("waits")
    async def waits(data: Any) -> str:
        await asyncio.sleep(0.3)
        return "waited"

    siblings = [waits] if wide else [fine]
    before = [worker.pid for worker in local.workers]
    found = parallel(ends_, *siblings, on_error="collect").submit(1).result(timeout=30)

    assert (found["ends"].type, found["ends"].kind, found["ends"].attempt) == (ends.__name__, "error", 1)
    assert [found[sibling.name] for sibling in siblings] == ["waited" if wide else "fine"]
    assert [worker.pid for worker in local.workers if worker.alive] == before


@node(timeout=0.2, retries=1, retry_delay=1.5)
def pauses(path: str, context: Context) -> int:
    write(path, os.getpid())
    if context.attempt == 1:
        raise OSError("again")
    return context.attempt


@node(timeout=0.2, retries=1, retry_delay=1.5)
async def apauses(path: str, context: Context) -> int:
    write(path, os.getpid())
    if context.attempt == 1:
        raise OSError("again")
    return context.attempt


@pytest.mark.parametrize("step", [pauses, apauses], ids=["sync", "async"])
def test_the_pause_is_no_part_of_the_node_s_time(own: LocalCluster, tmp_path: Path, step: Any) -> None:
    """A node's ``timeout`` is that of one attempt: nothing is killed while it waits for the next one."""
    path = tmp_path / "pids"

    assert parallel(step, step.alias("other")).run(str(path)) == {step.name: 2, "other": 2}
    assert len(lines(path)) == 4
    assert len(set(lines(path))) == 1


# Where


@node
def dies(data: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_lost_branch_names_its_node(own: LocalCluster) -> None:
    """What was lost with its process says which node it was at, in a map too."""
    found = parallel(dies, fine, on_error="collect").submit(1).result(timeout=60)
    with pytest.raises(ParallelExecutionError, match=r"branch 0 \(node 'dies'\) of block 'dies'") as caught:
        dies.map().submit([1]).result(timeout=60)

    assert (found["dies"].kind, found["dies"].node) == ("lost", "dies")
    assert caught.value.node == "dies"


def test_a_branch_of_a_map_names_its_node(local: LocalCluster) -> None:
    """The error of a map says which node failed beside the position of the branch."""
    flow = Sequence(fine, refused)
    with pytest.raises(ParallelExecutionError, match=r"branch 0 \(node 'refused'\) of block 'all' failed") as caught:
        flow.map(name="all").run([1])
    collected = flow.map(on_error="collect").run([1])

    assert caught.value.node == "refused"
    assert str(collected[0]).startswith("branch 0 (node 'refused') failed: ")


# At submit


def test_an_id_belongs_to_one_name_and_input(local: LocalCluster) -> None:
    """Another name or input under an id that is taken is refused, and says what has it; the existing run goes on."""
    first = fine.submit({"a": 1, "b": {1, 2}}, id="same-id")
    first.result(timeout=20)

    assert fine.submit({"b": {2, 1}, "a": 1}, id="same-id").result(timeout=20) == "fine"
    with pytest.raises(RunExists, match=r"'same-id' exists already, with another input: .* 'fine'") as refused:
        fine.submit({"a": 2}, id="same-id")
    assert (refused.value.run_id, refused.value.workflow, refused.value.state) == ("same-id", "fine", "succeeded")
    assert refused.value.differs == ("input",)
    with pytest.raises(
        RunExists, match=r"with another workflow: it is a run of workflow 'fine', not 'parallel', .*Run"
    ):
        parallel(fine).submit({"a": 1, "b": {1, 2}}, id="same-id")
    with pytest.raises(RunExists, match="with another workflow and another input"):
        fine.alias("other").submit(1, id="same-id")
    assert first.status == "succeeded"


def test_workflows_without_a_name_share_their_ids(local: LocalCluster) -> None:
    """Two unnamed workflows of one kind are one run under one id; those with names are two."""
    parallel(fine).submit(1, id="unnamed").result(timeout=20)

    assert parallel(fine, fine.alias("b")).submit(1, id="unnamed").result(timeout=20) == {"fine": "fine"}
    with pytest.raises(RunExists, match="with another workflow"):
        parallel(fine, fine.alias("b"), name="orders").submit(1, id="unnamed")


def test_changed_code_is_the_same_run(local: LocalCluster) -> None:
    """A submission that is repeated after a deploy returns the run of the former code."""
    assert (fine >> fine.alias("b")).alias("nightly").submit(1, id="deployed").result(timeout=20) == "fine"
    again = (fine >> fine.alias("b") >> fine.alias("c")).alias("nightly").submit(1, id="deployed")

    assert len([event for event in again.events() if event.type == "run.submitted"]) == 1
    assert again.result(timeout=20) == "fine"


def test_a_deploy_that_adds_a_step_or_a_field_does_not_refuse_a_retry(local: LocalCluster) -> None:
    """The error names the cure for a sequence without a name; a field with a default is no other input."""
    (fine >> fine.alias("b")).submit(Parcel(1), id="retried").result(timeout=20)
    deployed = fine >> fine.alias("b") >> fine.alias("c")

    with pytest.raises(RunExists, match=r"'fine-b-c' is made up, .* the same workflow .* \.alias\('fine-b'\)$"):
        deployed.submit(Parcel(1), id="retried")
    assert deployed.alias("fine-b").submit(GrownParcel(1), id="retried").result(timeout=20) == "fine"
    with pytest.raises(RunExists, match="with another input"):
        deployed.alias("fine-b").submit(GrownParcel(1, express=True), id="retried")
    with pytest.raises(RunExists, match=r"is the existing run$"):
        fine.submit(Parcel(1), id="retried")


@dataclass
class Parcel:
    id: int


@dataclass
class GrownParcel(Parcel):
    express: bool = False


@node
def double(number: int) -> int:
    return 2 * number


def test_maps_take_what_has_items(local: LocalCluster) -> None:
    """A range, a view of a dict, a tuple and a set are the items of a map as a list is."""
    assert double.map().run(range(4)) == [0, 2, 4, 6]
    assert double.map().run({"a": 1, "b": 2}.values()) == [2, 4]
    assert double.map().run((1, 2)) == [2, 4]
    assert sorted(double.map().run({1, 2})) == [2, 4]
    with pytest.raises(errors.EncodingError, match=r"input of workflow 'double'.*generator.*make a list of it first"):
        double.map().submit(number for number in range(3))


@pytest.mark.parametrize("url", ["http://host:6379", "https://host", "localhost:6379", "postgres://host/db"])
def test_other_urls_are_refused(url: str) -> None:
    """A URL of something that is no broker is refused at once, with those that are."""
    with pytest.raises(errors.ConfigurationError, match="redis://host:6379/0"):
        connect(url)
    with pytest.raises(errors.ConfigurationError, match=r"EGREGORE_LEDGER_URL.*redis://"):
        connect("redis://127.0.0.1:1", ledger_url=url)


def test_data_that_does_not_fit_is_not_tried_again(local: LocalCluster) -> None:
    """What can never succeed fails at once, whatever ``retries`` says."""

    @node("needs_two", retries=9, retry_delay=30.0)
    def needs_two(first: int, second: int) -> int:
        return first

    started = time.monotonic()
    with pytest.raises(RunFailed) as caught:
        Sequence(node("one")(lambda data: {"first": 1}), needs_two).submit(1).result(timeout=20)

    assert isinstance(caught.value.__cause__, BindingError)
    assert time.monotonic() - started < 20

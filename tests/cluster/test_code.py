"""Code on the wire to real workers: what they take, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from egregore_dist import (
    BindingError,
    LocalCluster,
    ParallelExecutionError,
    RunFailed,
    Sequence,
    errors,
    node,
    parallel,
)
from egregore_dist.client import launch
from egregore_dist.client.processes import Process
from egregore_dist.client.session import Session
from egregore_dist.settings import Settings
from tests.support.clusters import submitting
from tests.support.secret import secret_of
from tests.support.waiting import until

SECRET = secret_of("clients")
ANOTHER = secret_of("another")


@node
def by_reference(value: int) -> int:
    return value + 1


def closure(step: int) -> Any:
    """A node that holds a value of where it was made."""

    @node("by_value")
    def add(value: int) -> int:
        return value + step

    return add


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, dict[str, str]]]:
    """A server without workers of its own, and the queues of three workers: with the secret, another, and none."""
    folder = tmp_path_factory.mktemp("workers")
    secrets = {"same": SECRET, "another": ANOTHER, "none": None}
    processes = []
    cluster = LocalCluster(workers=0)
    cluster.start()
    mine = Session(cluster.settings)
    try:
        for name, secret in secrets.items():
            environment = {
                **cluster.worker_environment(),
                "EGREGORE_MODULES": "tests.support",
                "EGREGORE_QUEUE": name,
            }
            environment.pop("EGREGORE_SECRET")
            if secret is not None:
                environment["EGREGORE_SECRET"] = secret
            command = [sys.executable, "-m", "egregore_dist", "worker", "-n", f"{name}@code", "-c", "1"]
            processes.append(Process.spawn(command, env=environment, log=folder / name))
        until(lambda: len(mine.ledger.reports()) == 3, seconds=60, what="three workers")
        yield cluster, {name: str(folder / name) for name in secrets}
    finally:
        for process in processes:
            process.kill()
        mine.close()
        cluster.stop()


@contextmanager
def client(guarded: tuple[LocalCluster, dict[str, str]], queue: str, secret: str | None = SECRET) -> Iterator[None]:
    """This process as a client of one of the three workers."""
    settings = guarded[0].settings
    with submitting(Settings(broker_url=settings.broker_url, secret=secret, queue=queue)):
        yield


def test_a_worker_with_the_secret_takes_code_by_value(guarded: Any) -> None:
    """Closures and lambdas travel by value, signed, with what they hold."""
    flow = parallel(closure(5), node("lambda")(lambda value: value * 2))
    with client(guarded, "same"):
        assert flow.submit(1).result(timeout=20) == {"by_value": 6, "lambda": 2}


@pytest.mark.parametrize(("queue", "says"), [("another", "another secret"), ("none", "there is no secret here")])
def test_a_worker_without_the_secret_refuses_code_by_value(guarded: Any, queue: str, says: str) -> None:
    """A worker with another secret or none refuses the code, by its name, with the cure; a block names the branch."""
    with client(guarded, queue):
        with pytest.raises(
            RunFailed, match=rf"(?s)'closure.<locals>.add' is refused.*{says}.*EGREGORE_SECRET"
        ) as alone:
            closure(5).submit(1).result(timeout=20)
        with pytest.raises(ParallelExecutionError, match=says) as inside:
            parallel(closure(5))(1)

    assert isinstance(alone.value.__cause__, errors.CodeError)
    assert (inside.value.branch, type(inside.value.__cause__)) == ("by_value", errors.CodeError)


def test_what_is_refused_in_a_sequence_is_named(guarded: Any) -> None:
    """The node of a sequence whose code is refused is named."""
    flow = Sequence(closure(5), node("after")(len))
    with client(guarded, "none"), pytest.raises(RunFailed, match="failed in node 'by_value'") as caught:
        flow.submit([1]).result(timeout=20)

    assert caught.value.node == "by_value"


def test_a_module_that_was_not_loaded_is_refused(guarded: Any) -> None:
    """A worker refuses functions of modules that it was not told to load, and says how to load them."""
    with (
        client(guarded, "same", secret=None),
        pytest.raises(RunFailed, match=rf"module {__name__!r} is refused.*-m {__name__}") as caught,
    ):
        by_reference.submit(1).result(timeout=20)

    assert isinstance(caught.value.__cause__, errors.CodeError)


def test_a_signed_reference_needs_no_module(guarded: Any) -> None:
    """A worker imports the module of a signed reference by itself; another secret's reference is refused, and why."""
    with client(guarded, "same"):
        assert by_reference.submit(1).result(timeout=20) == 2
    with client(guarded, "another"), pytest.raises(RunFailed, match=r"is refused.*signed with another secret"):
        by_reference.submit(1).result(timeout=20)


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("m:os:system", "'system' of module 'os' is refused"),
        ("m:builtins:eval", "'eval' of module 'builtins' is refused"),
        ("m:tests.support.work:__init__", "not a reference to code"),
        ("m:tests.support.browser:page", "does not load module 'tests.support.browser'"),
        ("m:tests.support.work:plaіn", "not a reference to code"),  # noqa: RUF001  # Cyrillic
    ],
)
def test_s5_a_run_that_names_what_is_not_registered_is_refused(guarded: Any, ref: str, says: str) -> None:
    """A run written by hand that names another function ends with the refusal; nothing is imported or called."""
    with client(guarded, "none", secret=None), pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "encode_references", lambda refs, signer: msgspec.msgpack.encode([ref]))
        with pytest.raises(RunFailed, match=says) as caught:
            by_reference.submit("touch /nowhere").result(timeout=20)

    assert isinstance(caught.value.__cause__, errors.CodeError)


def test_a_refusal_does_not_stop_the_worker(guarded: Any) -> None:
    """A worker that has refused code serves what it may."""
    with client(guarded, "same", secret=None), pytest.raises(RunFailed):
        by_reference.submit(1).result(timeout=20)
    with client(guarded, "same"):
        assert closure(1).submit(1).result(timeout=20) == 2


def test_without_a_secret_code_does_not_leave(guarded: Any) -> None:
    """A client without a secret cannot send code by value, and is told so before anything is published."""
    with (
        client(guarded, "same", secret=None),
        pytest.raises(errors.CodeError, match=r"closure.<locals>.add.*EGREGORE_SECRET"),
    ):
        closure(1).submit(1)


def test_the_secret_is_in_no_log(guarded: Any) -> None:
    """Neither a secret nor the server's password is in a worker's log."""
    cluster, logs = guarded
    password = cluster.server.url.partition("@")[0].rpartition(":")[2]
    texts = [Path(log).read_text() for log in logs.values()]

    assert len(password) > 8
    assert not any(secret in text for text in texts for secret in (SECRET, ANOTHER, password))


def test_a_function_that_cannot_travel_is_named(local: LocalCluster) -> None:
    """A closure over something that stays in its process is refused at submit, by name, with the cure."""
    lock = threading.Lock()

    @node("holds_a_lock")
    def holds_a_lock(value: int) -> bool:
        return lock.locked()

    with pytest.raises(errors.CodeError, match=r"holds_a_lock.*cannot travel"):
        holds_a_lock.submit(1)


def test_a_script_s_own_functions_travel(local: LocalCluster, tmp_path: Path) -> None:
    """Functions, classes and helpers of ``__main__`` work on the workers as they do in the script."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass
            from egregore_dist import Sequence, node, parallel

            FACTOR = 3

            @dataclass
            class Point:
                x: int
                y: int

            def helper(value: int) -> int:
                return FACTOR * value

            @node
            def make(value: int) -> Point:
                return Point(value, helper(value))

            @node
            def total(point: Point) -> int:
                return point.x + point.y

            @node
            def moved(point: Point) -> Point:
                return Point(point.x + 1, point.y)

            print(Sequence(make, parallel(total, moved))(2))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=local.worker_environment(), capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("{'total': 8, 'moved': Point(x=3, y=6)}\n", "")


def test_classes_of_a_script_travel_again(local: LocalCluster, tmp_path: Path) -> None:
    """What a conversion leaves on a class here does not keep it from travelling: a script may run twice."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import enum
            from dataclasses import dataclass
            from typing import NamedTuple, TypedDict
            import msgspec
            from egregore_dist import node, parallel

            class Colour(enum.Enum):
                RED = "red"

            @dataclass
            class Point:
                x: int
                colour: Colour

            class Pair(NamedTuple):
                left: Point

            class Entry(TypedDict):
                point: Point

            class Key(msgspec.Struct):
                point: Point

            @node
            def move(point: Point) -> Point:
                return Point(point.x + 1, point.colour)

            @node
            def pair(point: Point) -> Pair:
                return Pair(point)

            @node
            def entry(point: Point) -> Entry:
                return {"point": point}

            @node
            def key(point: Point) -> Key:
                return Key(point)

            @node
            def colour(point: Point) -> Colour:
                return point.colour

            flow = parallel(move, pair, entry, key, colour)
            print(flow(Point(1, Colour.RED)) == flow(Point(1, Colour.RED)), flow(Point(1, Colour.RED))["pair"])
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=local.worker_environment(), capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("True Pair(left=Point(x=1, colour=<Colour.RED: 'red'>))\n", "")


def test_a_redefined_function_is_the_new_one(local: LocalCluster) -> None:
    """What a notebook redefines is what runs next, though the name is the same."""
    assert [closure(step).run(1) for step in (1, 2, 1)] == [2, 3, 2]


def test_a_missing_argument_of_code_by_value_is_named(local: LocalCluster) -> None:
    """Binding looks at the function itself, wherever it lives."""

    @node("needs")
    def needs(first: int, second: int) -> int:
        return first + second

    with pytest.raises(BindingError, match=r"'needs'.*'second'"):
        needs.submit({"first": 1})

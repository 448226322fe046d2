"""F25: calls of the ledger time out, are carried out and time out, or are refused by a full server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis

from egregore_dist import BranchError, Context, Run, Sequence, decision, errors, node, parallel
from egregore_dist.client import session
from tests.support import store
from tests.support.trial import Trial
from tests.support.work import anap, join, long_first, nap, quick

ROOT = Path(__file__).parents[2]


@node
def double(x: int) -> int:
    return 2 * x


@node
async def adouble(x: int) -> int:
    return 2 * x


@node
def total(values: list[int]) -> int:
    return sum(values)


@node
def add(doubled: dict[str, int]) -> int:
    return doubled["double"] + doubled["adouble"]


@node(retries=3)
def flaky(x: int, context: Context) -> int:
    if context.attempt < 3:
        raise ConnectionError("try again")
    return x


@node
def broken(x: int) -> int:
    raise ValueError(f"no {x}")


@decision("which")
def which(x: int) -> str:
    return "small" if x < 10 else "large"


SPINE = {
    "a block and a join": (Sequence(parallel(double, adouble), add), 5, 20),
    "a map": (Sequence(double.map(), total), list(range(200)), 2 * sum(range(200))),
    "an async map": (Sequence(adouble.map(max_concurrent=7), total), list(range(100)), 2 * sum(range(100))),
    "blocks in blocks": (
        parallel(double, Sequence(parallel(double, adouble), add, parallel(double, adouble), add).alias("in")),
        1,
        {"double": 2, "in": 16},
    ),
    "a decision": (Sequence(which.to(small=double, large=flaky), double), 3, 12),
    "retries": (parallel(flaky, double), 4, {"flaky": 4, "double": 8}),
}


@pytest.fixture
def failing_store(
    trial_of: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], AbstractContextManager[redis.Redis]]:
    """The client of a ledger, of which every call fails in one way."""
    monkeypatch.setenv(store.FILE, str(tmp_path / "faults"))
    ledger = trial_of(workers=0).ledger

    @contextmanager
    def failing(kind: str) -> Iterator[redis.Redis]:
        with store.faulty(ledger, 1.0, [kind]):
            yield ledger.redis

    return failing


@pytest.mark.parametrize(
    ("kind", "raises", "kept"),
    [
        (store.TIMEOUT, redis.exceptions.TimeoutError, None),
        (store.EXECUTE_AND_TIMEOUT, redis.exceptions.TimeoutError, b"5"),
        (store.EXHAUSTED, redis.exceptions.OutOfMemoryError, None),
    ],
)
@pytest.mark.parametrize("together", ["single", "pipeline", "transaction"])
def test_faults_are_what_they_say(
    failing_store: Callable[[str], AbstractContextManager[redis.Redis]],
    kind: str,
    raises: type[Exception],
    kept: bytes | None,
    together: str,
) -> None:
    """What times out was done or was not; what is refused was not; the next call is answered as ever."""
    with failing_store(kind) as client:
        pipe = client.pipeline(transaction=together == "transaction").get("nothing").set("fault", 5, ex=60)
        write = pipe.execute if together != "single" else lambda: client.set("fault", 5, ex=60)
        with pytest.raises(raises):
            write()

    assert client.mget("fault", "nothing") == [kept, None]


CHOOSE = """
import os, sys
from tests.support import store
store.arm(0.5, who=sys.argv[1])
for _ in range(2):
    if not os.fork():
        store._Faults.choose(["GET"])
        print(*[store._Faults.choose(["GET"]) for _ in range(20)], flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_process_has_the_faults_that_it_had_before(tmp_path: Path) -> None:
    """They come of the seed and of which process it is, and not of its pid."""

    def chosen(who: str, seed: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", CHOOSE, who],
            env={**os.environ, store.FILE: str(tmp_path / "faults"), store.SEED: seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.splitlines()

    first, second = chosen("n1", "7")
    assert [first, second] == chosen("n1", "7")
    assert len({first, second, *chosen("n2", "7"), *chosen("n1", "8")}) == 6


def test_a_full_store_does_what_reads(failing_store: Callable[[str], AbstractContextManager[redis.Redis]]) -> None:
    """Of a pipeline only what writes is refused, and each reply is that of its command."""
    with failing_store(store.EXHAUSTED) as client:
        pipe = client.pipeline(transaction=False)
        pipe.echo("before").set("fault", 5).echo("after").zadd("fault", {"a": 1}).echo("last")
        first, refused, second, again, last = pipe.execute(raise_on_error=False)

    assert (first, second, last) == (b"before", b"after", b"last")
    assert {type(refused), type(again)} == {redis.exceptions.OutOfMemoryError}


@pytest.mark.parametrize("kind", store.KINDS)
def test_waiting_in_an_event_loop_can_fail(
    failing_store: Callable[[str], AbstractContextManager[redis.Redis]], kind: str
) -> None:
    """An event loop's waits fail in the same ways, but on a store that takes no write: they are none then."""

    async def wait() -> bool:
        async with session.current().ledger.watch() as watch:
            return await watch.wait("nobody", 0.01)

    with failing_store(kind):
        if kind == store.EXHAUSTED:
            assert not asyncio.run(wait())
        else:
            with pytest.raises(errors.BrokerUnavailable):
                asyncio.run(wait())


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("rate", "rounds"), [(0.01, 10), (0.05, 4)])
def test_the_spine_holds(
    trial_of: Callable[..., Trial],
    seed: str,
    rate: float,
    rounds: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Callable[[str], None],
) -> None:
    """With every hundredth or twentieth call of every ledger failing, each value is right and counts once."""
    faults = tmp_path / "faults"
    monkeypatch.setenv(store.FILE, str(faults))
    monkeypatch.setenv(store.SEED, seed)
    trial = trial_of(workers=0)
    for _ in range(2):
        trial.add(hooks=[f"store_faults={rate}"])
    with store.faulty(session.current().ledger, rate):
        wanted, numbers, blocks = [], [], []
        for _ in range(rounds):
            for flow, data, expected in SPINE.values():
                wanted.append((trial.submit(flow, data), expected))
            numbers.append(trial.submit(Sequence(quick.map(max_concurrent=3), join), list(range(20))))
            blocks.append(trial.submit(parallel(nap, anap, long_first, max_concurrent=2), 0.05))
        failing = trial.submit(parallel(broken, double, on_error="collect"), 7)
        for run, expected in wanted:
            assert trial.result(run, timeout=120) == expected
        for run in numbers:
            # Each value names its node and its branch.
            assert [stamp.split("#")[:2] for stamp in trial.result(run)] == [["quick", str(it)] for it in range(20)]
        for run in blocks:
            assert {name: stamp.split("#")[0] for name, stamp in trial.result(run).items()} == {
                name: name for name in ("nap", "anap", "long_first")
            }
        found = trial.result(failing)
        assert isinstance(found["broken"], BranchError)
        assert (found["broken"].type, found["double"]) == ("ValueError", 14)
        assert Run(failing.id).status == "succeeded"
    had = Counter(faults.read_text().splitlines())
    figure(", ".join(f"{count} {kind}" for kind, count in sorted(had.items())))
    assert had.total() >= 5

"""Why a run waits, with workers: two, of one slot each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from egregore_dist import Limit, LocalCluster, Run, RunNotFound, Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.client.why import Reason
from egregore_dist.resources.report import Report
from egregore_dist.wire import code
from tests.support.waiting import until


@node
def gated(path: str) -> str:
    """Wait until there is a file; with a slot of its own, though it is learned that it waits."""
    Path(path).with_suffix(".reached").touch()
    until(Path(path).exists, seconds=60, what="the gate")
    return "open"


@node(retries=3, retry_delay=30)
def flaky(path: str) -> None:
    """Fail, and be tried again after 30 to 60 s."""
    raise ConnectionError(path)


@node(retries=2, retry_delay=30)
async def shaky(item: int) -> int:
    """Fail for odd items, and be tried again."""
    if item % 2:
        raise ConnectionError(item)
    return item


@node(retries=1, retry_delay=30, limit=Limit(concurrent=1, name="why-limit"))
def limited(path: str) -> None:
    """Fail with a place of a limit, and be tried again."""
    raise ConnectionError(path)


@node(limit=Limit(concurrent=1, name="why-places"))
def placed(path: str) -> str:
    """Wait at the gate with the only place."""
    return gated(path)


@node(queue="nobodys")
def elsewhere(path: str) -> str:
    return path


@node(queue="nobodys", memory="4TB")
def huge(path: str) -> str:
    return path


@pytest.fixture
def gate(local: LocalCluster, tmp_path: Path) -> Iterator[Path]:
    """What nodes wait for; it is there after the test."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def others(*names: str) -> list[Any]:
    """More nodes that wait for the gate."""
    return [gated.alias(name) for name in names]


def why(run: Run, *kinds: str, waiting: int | None = None) -> list[Reason]:
    """The reasons, once they are of these kinds, and so many branches wait for the first."""
    found: list[Reason] = []

    def come() -> bool:
        found[:] = run.why()
        is_so = waiting is None or (bool(found) and found[0].numbers.get("waiting") == waiting)
        return [reason.kind for reason in found] == list(kinds) and is_so

    until(come, what=f"{kinds} as the reasons of run {run.id}")
    return found


def test_all_slots_are_busy(gate: Path) -> None:
    """Branches without a slot say which runs have them all, of a run that has not begun too; a paused run says that."""
    first = parallel(gated, *others("b", "c", "d"), name="first").submit(str(gate))
    (slots,) = why(first, "slots", waiting=2)
    second = parallel(gated, name="second").submit(str(gate))
    (theirs,) = why(second, "slots")
    first.pause()
    (paused,) = why(first, "paused")
    first.resume()
    gate.touch()

    assert (slots.name, slots.block) == ("first", "0.0-")
    assert slots.numbers == {"slots": 2, "workers": 2, "waiting": 2}
    assert slots.text.endswith("are busy: 2 by this run")
    assert (theirs.block, theirs.names) == ("0", (first.id,))
    assert paused.numbers["waiting"] == 2
    for run in (first, second):
        run.result(timeout=30)
        assert run.why() == []


def test_a_limit(gate: Path) -> None:
    """Branches beyond ``max_concurrent`` say how many run and wait, and how long their timeout lasts."""
    flow = parallel(gated, *others("b", "c"), max_concurrent=1, timeout=60, name="limited")
    run = flow.submit(str(gate))

    limit, deadline = why(run, "limit", "deadline", waiting=2)

    assert limit.numbers == {"limit": 1, "running": 1, "waiting": 2, "ahead": 1}
    assert 0 < deadline.numbers["left"] <= 60
    gate.touch()
    assert run.result(timeout=30) == {"gated": "open", "b": "open", "c": "open"}


def test_no_worker_of_the_queue(gate: Path) -> None:
    """A node whose queue nobody serves says so, and so does the branch that waits for it."""
    gate.touch()
    run = parallel(Sequence(gated, elsewhere, name="left"), gated, name="pair").submit(str(gate))

    queue, parked = why(run, "queue", "block")

    assert (queue.name, queue.names[0]) == ("elsewhere", "nobodys")
    assert (parked.name, parked.branch, parked.names) == ("pair", 0, (queue.block,))
    assert parked.text.startswith("branch 'left' waits for block 'elsewhere'")
    run.cancel()
    assert run.why() == []


def test_workers_that_cannot_run_it(local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the queue that is too small, or does not load the module of an unsigned run's nodes, is named."""
    # As for a client without a secret: any worker loads what is signed.
    monkeypatch.setattr(code, "is_signed", lambda functions: False)
    ledger = session.current().ledger
    run = parallel(huge, elsewhere, name="pair").submit("x")
    why(run, "queue", "queue", waiting=1)
    machine: dict[str, Any] = {"host": "small", "cores": 1.0, "memory_available": 2**30, "memory_total": 2**30}
    said = Report(
        worker="small@host", pid=1, slots=1, queues=("nobodys",), modules=("json",), at=ledger.now(), **machine
    )
    ledger.report(said.worker, msgspec.msgpack.encode(said), 60.0)
    try:
        size, module, other = why(run, "size", "module", "module")
    finally:
        ledger.retire(said.worker)
        run.cancel()

    assert size.numbers == {"waiting": 1, "memory": 4 * 10**12}
    assert "needs 4 TB of memory, and the largest worker of queue 'nobodys', 'small@host', has" in size.text
    assert module.names == other.names == (__name__,)
    assert module.text.startswith(f"no live worker of queue 'nobodys' loads {__name__!r}")


def test_a_place_of_a_limit(local: LocalCluster, gate: Path) -> None:
    """Branches that wait for a limit over all runs say which, how many hold it, and how many are ahead."""
    first = parallel(placed, name="first").submit(str(gate))
    until(gate.with_suffix(".reached").exists, what="the place to be taken")
    second, third = (parallel(placed, name=name).submit(str(gate)) for name in ("second", "third"))
    (second_waits,) = why(second, "place")
    (third_waits,) = why(third, "place")
    gate.touch()
    for run in (first, second, third):
        run.result(timeout=30)

    assert second_waits.names == ("why-places",)
    assert sorted(reason.numbers["ahead"] for reason in (second_waits, third_waits)) == [0, 1]
    assert "1 of 1 place taken" in second_waits.text


@pytest.mark.parametrize(
    ("flow", "value", "branch", "names"),
    [
        (parallel(flaky, name="block"), "x", 0, "branch 'flaky': "),
        (shaky.map(name="block"), [0, 1, 2], 1, "branch #1: "),
        (parallel(limited, name="block"), "x", 0, "branch 'limited': "),
        (flaky, "x", 0, ""),
    ],
    ids=["sync", "async", "limited", "alone"],
)
def test_back_off(local: LocalCluster, flow: Any, value: Any, branch: int, names: str) -> None:
    """A branch whose node has failed, and is called again later, says when; once it has ended nothing is left of it."""
    run = flow.submit(value)
    (retry,) = why(run, "retry")
    told = [event for event in run.events(follow=False) if event.type == "branches.waiting"]
    run.cancel()

    assert (retry.branch, retry.numbers["call"]) == (branch, 2)
    assert 20 < retry.numbers["seconds"] <= 60
    assert retry.text.startswith(f"{names}retry in ")
    assert [event.branches for event in told] == [(branch,)]
    assert run.why() == []


def test_a_run_that_is_not_there(local: LocalCluster) -> None:
    """Of a run that nobody has submitted nothing can be told."""
    with pytest.raises(RunNotFound):
        Run("never").why()

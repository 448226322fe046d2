"""Limits by name with real workers: what the nodes themselves see."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import Limit, LocalCluster, Run, Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.client.limits import Limits
from tests.support.clusters import submitting
from tests.support.trial import notice_soon
from tests.support.waiting import until

# Names are of the cluster: each test has its own.
Call = dict[str, Any]


@contextmanager
def noted(call: Call) -> Iterator[None]:
    """Write down when a node begins and ends, by the machine's clock, whatever becomes of it."""
    path = Path(call["log"])

    def write(what: str) -> None:
        with path.open("a") as file:
            line = {"what": what, "t": time.monotonic(), "pid": os.getpid(), "key": call.get("model")}
            file.write(f"{json.dumps(line)}\n")

    write("start")
    try:
        yield
    finally:
        write("end")


def work(call: Call) -> Any:
    with noted(call):
        if call.get("dies") and not Path(call["dies"]).exists():
            Path(call["dies"]).touch()
            os.kill(os.getpid(), 9)
        until(lambda: Path(call["gate"]).exists(), seconds=60) if "gate" in call else time.sleep(
            call.get("takes", 0.05)
        )
        if call.get("fails") and not Path(call["fails"]).exists():
            Path(call["fails"]).touch()
            raise OSError("not yet")
        return call.get("value")


async def awork(call: Call) -> Any:
    with noted(call):
        await asyncio.sleep(call.get("takes", 0.05))
        return call.get("value")


shared = node("shared", limit=Limit(concurrent=3, name="shared.3"))(work)
shared_async = node("shared_async", limit=Limit(concurrent=3, name="shared.3"))(awork)
shared_io = node("shared_io", io=True, limit=Limit(concurrent=3, name="shared.3"))(work)
single = node("single", limit=Limit(concurrent=1, name="single.1"))(work)
rated = node("rated", limit=Limit(per="40/s", name="rated.40"))(work)
rated_async = node("rated_async", limit=Limit(per="40/s", name="rated.40"))(awork)
keyed = node("keyed", limit=Limit(concurrent=2, key="model", name="keyed.2"))(awork)
edited = node("edited", limit=Limit(concurrent=1, name="edited.1"))(awork)
killed = node("killed", limit=Limit(concurrent=1, name="killed.1"))(work)
retried = node("retried", retries=1, retry_delay=2.0, limit=Limit(concurrent=1, name="retried.1"))(work)
stopped = node("stopped", retries=1, timeout=0.5, limit=Limit(concurrent=1, name="stopped.1"))(work)


@node
def plain(call: Any) -> Any:
    return call


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where nodes write down what they do."""
    return tmp_path / "log"


@pytest.fixture
def limits(local: LocalCluster) -> Limits:
    """The limits of the cluster."""
    return session.current().limits


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def most_at_once(log: Path, key: str | None = None) -> int:
    now = most = 0
    for line in sorted(lines(log), key=lambda line: (line["t"], line["what"] == "start")):
        if key is None or line["key"] == key:
            now += 1 if line["what"] == "start" else -1
            most = max(most, now)
    return most


def starts(log: Path) -> list[float]:
    return sorted(line["t"] for line in lines(log) if line["what"] == "start")


def calls(log: Path, n: int, **more: Any) -> list[Call]:
    return [{"log": str(log), "value": i, **more} for i in range(n)]


def test_runs_share_a_limit(cluster: LocalCluster, log: Path) -> None:
    """Two runs on two workers, one of them on event loops and one on threads: never more than three at once."""
    runs = [
        shared_async.map().submit(calls(log, 40)),
        shared_io.map().submit(calls(log, 20)),
        Sequence(plain, shared, plain).map().submit(calls(log, 10)),
    ]

    for run, n in zip(runs, (40, 20, 10), strict=True):
        assert run.result(timeout=60) == list(range(n))
    assert most_at_once(log) == 3
    assert len(starts(log)) == 70
    assert session.current().limits.show("shared.3").held == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("flow", [rated.map(), rated_async.map(), Sequence(plain, rated).map()], ids=str)
def test_a_rate_is_held(local: LocalCluster, log: Path, flow: Any) -> None:
    """Forty a second over two runs: in no window more than come in its time and the burst, and not much fewer."""
    began = time.monotonic()
    runs = [flow.submit(calls(log, 30, takes=0.0)) for _ in range(2)]
    for run in runs:
        run.result(timeout=60)
    found = starts(log)

    assert len(found) == 60
    for first in range(60):
        for last in range(first, 60):
            # What the nodes see is later than the lease by a little, here and there.
            assert last - first + 1 <= 4 + 40 * (found[last] - found[first] + 0.25)
    assert 60 / 40 - 0.2 <= found[-1] - began < 8


def test_values_of_a_key_are_apart(local: LocalCluster, log: Path) -> None:
    """Two at once for each model, on one event loop or two."""
    items = [{"model": "ab"[i % 2], **call} for i, call in enumerate(calls(log, 24, takes=0.3))]

    assert keyed.map()(items) == list(range(24))
    assert most_at_once(log, "a") == most_at_once(log, "b") == 2
    assert most_at_once(log) == 4


def test_very_many_values_of_a_key(local: LocalCluster, log: Path) -> None:
    """Each branch waits at a block of its own then."""
    items = [{"model": f"m{i // 2}", **call} for i, call in enumerate(calls(log, 80, takes=0.0))]

    assert keyed.map()(items) == list(range(80))
    assert len(starts(log)) == 80


def test_a_limit_is_changed_while_a_run_goes_on(limits: Limits, log: Path) -> None:
    """More run within moments; ``why`` and the limit's own record say what waits."""
    run = edited.map().submit(calls(log, 40, takes=0.2))
    until(lambda: len(starts(log)) > 1, what="the first calls")
    assert most_at_once(log) == 1
    (reason,) = [reason for reason in run.why() if reason.kind == "place"]
    assert "limit 'edited.1' over all runs (1 of 1 place taken)" in reason.text
    known = limits.show("edited.1")
    assert known is not None
    assert (known.held, known.waiting) == (1, 1)

    assert limits.set("edited.1", concurrent=8).is_set
    began = time.monotonic()
    run.result(timeout=30)
    assert time.monotonic() - began < 4
    assert most_at_once(log) == 8
    cleared = limits.clear("edited.1")
    assert cleared is None or cleared.rule.concurrent == 1


def test_a_limited_run_holds_no_slot(local: LocalCluster, log: Path, tmp_path: Path) -> None:
    """While one call has the only place, the rest of two runs wait, and an unlimited run is served at once."""
    gate = tmp_path / "gate"
    first = single.map().submit(calls(log, 6, gate=str(gate)))
    until(lambda: starts(log), what="the first call")
    second = Sequence(plain, single).map().submit(calls(log, 6, gate=str(gate)))
    until(lambda: any(reason.kind == "place" for reason in second.why()), what="the second run to wait")

    try:
        for _ in range(3):
            began = time.monotonic()
            assert parallel(plain, plain.alias("b")).submit(1).result(timeout=5) == {"plain": 1, "b": 1}
            assert time.monotonic() - began < 2
        (mine,) = {reason.text for reason in first.why() if reason.kind == "place"}
        assert "5 wait for limit 'single.1' over all runs (1 of 1 place taken), no blocks ahead" in mine

        def ahead() -> set[int]:
            return {int(reason.numbers["ahead"]) for reason in second.why() if reason.kind == "place"}

        # Those that stand at a block of their own each have those before them.
        until(lambda: max(ahead(), default=0) >= 3, what="more of the second run to wait")
        assert most_at_once(log) == 1
    finally:
        gate.touch()
    assert first.result(timeout=30) == second.result(timeout=30) == list(range(6))
    assert most_at_once(log) == 1


def test_a_killed_process_gives_its_place_back(cluster: LocalCluster, log: Path, tmp_path: Path) -> None:
    """The branch is leased again, and others that waited for the only place go on too."""
    died = tmp_path / "died"
    first, second = calls(log, 1, dies=str(died)), calls(log, 5)
    runs: list[Run] = [killed.map().submit(first)]
    until(died.exists, what="the kill")
    runs.append(killed.map().submit(second))

    assert [run.result(timeout=30) for run in runs] == [[0], [0, 1, 2, 3, 4]]
    assert len(starts(log)) == 7


def test_a_killed_worker_gives_its_places_back(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A janitor takes them back, once the worker's report has expired."""
    notice_soon(monkeypatch)
    with LocalCluster(workers=2, concurrency=1) as cluster, submitting(cluster.settings) as mine:
        gate = tmp_path / "gate"
        run = single.map().submit(calls(log, 3, gate=str(gate)))
        until(lambda: starts(log), what="the first call")
        (held,) = mine.ledger.redis.zrange(mine.ledger.keys.limit("h", "single.1"), 0, -1)
        name = held.decode().split(" ")[3].split("/")[0]
        (worker,) = [worker for worker in cluster.workers if worker.name == name]
        worker.kill()
        gate.touch()
        assert run.result(timeout=60) == [0, 1, 2]


def test_a_retry_waits_without_a_place(local: LocalCluster, log: Path, tmp_path: Path) -> None:
    """While the one that has failed waits two seconds, the others have the place; its attempt is the second."""
    items = [{**calls(log, 1)[0], "fails": str(tmp_path / "failed")}, *calls(log, 4)]

    assert parallel(retried.map(name="m"), on_error="collect")(items) == {"m": [0, 0, 1, 2, 3]}
    found = starts(log)
    assert len(found) == 6
    assert most_at_once(log) == 1
    assert found[-1] - found[0] >= 2.0
    assert found[4] - found[0] < 2.0


def test_a_timeout_gives_the_place_back(local: LocalCluster, log: Path, tmp_path: Path) -> None:
    """A node over its own timeout is called again like any other that failed, and ends as that."""
    items = [calls(log, 1, gate=str(tmp_path / "never"))[0], *calls(log, 2)]
    found = stopped.map(on_error="collect")(items)

    assert found[1:] == [0, 1]
    assert (found[0].kind, found[0].node) == ("timeout", "stopped")
    assert len(starts(log)) == 4
    assert most_at_once(log) == 1


def test_what_is_cancelled_keeps_its_place_until_it_has_ended(local: LocalCluster, log: Path, tmp_path: Path) -> None:
    """A run that waits begins when the node of the cancelled one is stopped, not before."""
    first = single.map().submit(calls(log, 2, gate=str(tmp_path / "never")))
    until(lambda: starts(log), what="the first call")
    second = single.map().submit(calls(log, 3))
    until(lambda: any(reason.kind == "place" for reason in second.why()), what="the second run to wait")
    first.cancel()

    assert second.result(timeout=20) == [0, 1, 2]
    assert most_at_once(log) == 1


@node
def chosen(results: Any) -> Any:
    return results


COMPOSED: dict[str, Any] = {
    "whole run": shared,
    "in a sequence": Sequence(plain, shared, shared.alias("again")),
    "before a block": Sequence(shared, parallel(chosen, chosen.alias("b"))).map(),
    "after a block": Sequence(parallel(plain), node("back")(lambda value: value["plain"]), shared).map(),
    "twice": Sequence(shared, node("anew")(lambda value: {"log": value["log"], "value": value}), shared).map(),
    "in a nested map": Sequence(node("two")(lambda call: [call, call]), shared.map()).map(max_concurrent=4),
    "one by one": shared.map(max_concurrent=1),
    "without a plan": shared.map(optimization_enabled=False),
    "async, then sync": Sequence(shared_async, chosen).map(),
    "aliases": parallel(shared, shared.alias("b"), shared_async.alias("c"), shared_io.alias("d")),
}


@pytest.mark.parametrize("where", COMPOSED)
def test_a_limit_composes(local: LocalCluster, log: Path, where: str) -> None:
    """Wherever a limited node stands, two runs end, and no more than three calls are under way."""
    flow, many = COMPOSED[where], calls(log, 6)
    data: Any = many if "map(" in repr(flow) else many[0]
    if where in ("in a sequence", "twice"):
        # The value of the first call is the input of the second.
        data = {**many[0], "value": many[0]} if where == "in a sequence" else [{**call, "value": call} for call in many]
    runs = [flow.submit(data) for _ in range(2)]
    values = [run.result(timeout=60) for run in runs]

    assert values[0] == values[1]
    assert 0 < most_at_once(log) <= (2 if where == "one by one" else 3)
    shown = session.current().limits.show("shared.3")
    assert shown is not None
    assert (shown.held, shown.waiting) == (0, 0)

"""Blocks on real workers: nesting, names, limits, messages."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis
from celery.app.control import Inspect

from egregore_dist import (
    BindingError,
    BranchError,
    Context,
    LocalCluster,
    ParallelExecutionError,
    RunFailed,
    Sequence,
    decision,
    errors,
    node,
    parallel,
)
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.client.run import Run
from egregore_dist.client.session import Session
from egregore_dist.engine import app as apps
from egregore_dist.ledger import Commit
from egregore_dist.ledger.keys import ROOT
from egregore_dist.wire import codec, failure
from egregore_dist.workflow.decision import Decision
from egregore_dist.workflow.nodes import Node
from egregore_dist.workflow.parallel import Map, Parallel
from egregore_dist.workflow.sequence import Sequence as SequenceStep
from egregore_dist.workflow.step import Step
from tests.cluster.ledger.play import Play, numbers, track
from tests.support.clusters import submitting
from tests.support.messages import body, execute
from tests.support.waiting import until

pytestmark = pytest.mark.store_faults

Span = list[float]


@pytest.fixture(scope="module")
def one_slot() -> Iterator[LocalCluster]:
    """A cluster that serves one lane at a time; not what this process submits to yet."""
    cluster = LocalCluster(workers=1, concurrency=1)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def slot(one_slot: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster of one slot, as what this process submits to."""
    with submitting(one_slot.settings):
        yield one_slot


def weight(value: Any) -> int:
    """A number that any value has."""
    if isinstance(value, dict):
        return sum(weight(key) + weight(entry) for key, entry in value.items()) % 9973
    if isinstance(value, list):
        return sum((place + 2) * weight(entry) for place, entry in enumerate(value)) % 9973
    return value if isinstance(value, int) else len(str(value))


@node
def number(value: Any) -> int:
    return weight(value) + 1


@node
async def later(value: Any) -> int:
    await asyncio.sleep(0)
    return weight(value) + 2


@node
def listed(value: Any) -> list[int]:
    return [weight(value), weight(value) + 1]


@node
def keyed(value: Any) -> dict[Any, int]:
    return {"b": weight(value), 7: 1, "a": 2}


@node
def nothing(value: Any) -> list[int]:
    return []


@node
def no_entries(value: Any) -> dict[str, int]:
    return {}


@decision
def parity(value: Any) -> str:
    return "odd" if weight(value) % 2 else "even"


@node
def identity(value: Any) -> Any:
    return value


def grown(chance: random.Random, depth: int) -> Step:
    """A random workflow with ``depth`` levels below it, in which anything may stand in anything."""
    if depth == 0:
        return chance.choice([number, later])
    below = [grown(chance, depth - chance.choice([1, 1, 2]) if depth > 1 else 0) for _ in range(2)]
    match chance.randrange(4):
        case 0:
            return Sequence(below[0], below[1], number).alias("sequence")
        case 1:
            return parallel(below[0].alias("x"), below[1].alias("y"), max_concurrent=chance.choice([None, 1]))
        case 2:
            source = chance.choice([listed, keyed, nothing, no_entries])
            return Sequence(source, below[0].map(optimization_enabled=chance.random() < 0.5)).alias("mapped")
        case _:
            return parity.to(odd=below[0], even=below[1])


def evaluated(step: Step, value: Any) -> Any:
    """What a workflow means, said directly."""
    match step:
        case Node():
            result = step.fn(value)
            return asyncio.run(result) if step.is_async else result
        case SequenceStep():
            for part in step.steps:
                value = evaluated(part, value)
            return value
        case Parallel():
            return {key: evaluated(branch, value) for key, branch in zip(step.keys, step.branches, strict=True)}
        case Map() if isinstance(value, dict):
            return {key: evaluated(step.body, entry) for key, entry in value.items()}
        case Map():
            return [evaluated(step.body, entry) for entry in value]
        case Decision():
            return evaluated((step.choices or {})[step.fn(value)], value)
        case _:
            raise AssertionError(step)


def ordered(value: Any) -> Any:
    """A value in which the order of keys counts."""
    if isinstance(value, dict):
        return [(key, ordered(entry)) for key, entry in value.items()]
    return [ordered(entry) for entry in value] if isinstance(value, list) else value


DEEP = Sequence(
    listed,
    parallel(
        number,
        parity.to(
            odd=Sequence(keyed, parallel(later, number, name="inner").map(name="over")).alias("x"),
            even=parallel(Sequence(listed, number.map(), listed).alias("deep"), later, max_concurrent=1),
        ),
        Sequence(listed, Sequence(listed, Sequence(keyed, number.map()).map()).map()).alias("maps"),
    ).map(),
    identity,
)


def test_everything_nests_in_everything(cluster: LocalCluster) -> None:
    """Blocks, maps, sequences and decisions inside each other mean what they say."""
    for value in (3, 4):
        assert ordered(DEEP(value)) == ordered(evaluated(DEEP, value))


@pytest.mark.parametrize("seed", range(6))
def test_any_nesting_runs_on_one_slot(slot: LocalCluster, seed: int) -> None:
    """A workflow six levels deep ends on a single slot: no branch holds it while it waits for another (F27)."""
    flow = parallel(
        grown(random.Random(seed), 6).alias("one"), grown(random.Random(seed + 100), 6).alias("two"), number
    )

    assert ordered(flow.submit(seed).result(timeout=60)) == ordered(evaluated(flow, seed))


def test_results_are_named_and_ordered(local: LocalCluster) -> None:
    """A branch is named by its last node or its own name, and the dict has the order of the branches."""
    flow = parallel(
        Sequence(number, listed),
        number,
        Sequence(number, later).alias("z"),
        parallel(number),
        parallel(later, name="inner"),
        Sequence(number, parallel(later)),
        parity.to(odd=number, even=later),
    )

    assert list(flow(1)) == ["listed", "number", "z", "parallel_3", "inner", "parallel_5", "parity"]


def test_a_map_keeps_order_and_keys(cluster: LocalCluster) -> None:
    """A map over a list gives a list in its order, over a mapping the same keys, whatever their type."""
    items = list(range(40))
    keys: dict[Any, int] = {"b": 1, 3: 2, "a": 3, (1, "x"): 4, -1: 5, 2.5: 6}

    assert number.map().run(items) == [item + 1 for item in items]
    assert list(number.map().run(keys).items()) == [(key, value + 1) for key, value in keys.items()]


def test_what_is_empty_is_a_value(local: LocalCluster) -> None:
    """A map over nothing and a parallel of nothing give nothing at once, and the run goes on."""
    assert number.map().run([]) == []
    assert number.map().run({}) == {}
    assert parallel()(5) == {}
    assert Sequence(parallel(), number)(5) == 1
    assert parallel(Sequence(nothing, number.map()), Sequence(nothing, number.map(), number).alias("n"))(5) == {
        "number": [],
        "n": 1,
    }


def test_a_map_needs_a_list_or_a_mapping(local: LocalCluster) -> None:
    """A map that is given anything else says so."""
    with pytest.raises(RunFailed, match="a list or a mapping is needed") as caught:
        Sequence(number, number.map())(5)

    assert isinstance(caught.value.__cause__, errors.EncodingError)


def test_branches_do_not_share_their_input(local: LocalCluster) -> None:
    """A branch that changes its input changes its own copy."""

    def adds(mark: str) -> Callable[[list[str]], list[str]]:
        def add(data: list[str]) -> list[str]:
            data.append(mark)
            return data

        return add

    flow = parallel(*(node(mark)(adds(mark)) for mark in "abcd"), max_concurrent=1)

    assert flow(["x"]) == {mark: ["x", mark] for mark in "abcd"}


def test_a_sync_node_may_return_an_awaitable(local: LocalCluster) -> None:
    """What a sync node returns is awaited where it can be, as in the page's own example of a timeout."""

    @node("waits")
    def waits(data: int) -> Any:
        return asyncio.wait_for(asyncio.sleep(0, data + 1), timeout=5)

    assert parallel(waits, waits.alias("again"))(1) == {"waits": 2, "again": 2}
    assert waits.map().run([1, 2]) == [2, 3]


# Limits


@node
def spends(seconds: float) -> Span:
    started = time.monotonic()
    time.sleep(seconds)
    return [started, time.monotonic()]


@node
async def waits(seconds: float) -> Span:
    started = time.monotonic()
    await asyncio.sleep(seconds)
    return [started, time.monotonic()]


@node
def starts(seconds: float) -> Span:
    return [time.monotonic(), seconds]


@node
def ends(spans: dict[str, Span]) -> Span:
    return [min(span[0] for span in spans.values()), time.monotonic()]


def most_at_once(spans: list[Span]) -> int:
    """How many of the spans overlapped at the worst moment."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = worst = 0
    for _, change in changes:
        running += change
        worst = max(worst, running)
    return worst


def test_the_window_slides(cluster: LocalCluster, tmp_path: Path) -> None:
    """Never more than ``max_concurrent`` branches run, and a free place is taken while a long branch goes on."""

    @node("slides")
    def slides(item: int) -> Span:
        started = time.monotonic()
        (tmp_path / str(item)).touch()
        # The first one goes on until all the others have begun.
        until(lambda: item > 0 or len(list(tmp_path.iterdir())) == 11, what="the others")
        time.sleep(0.03)
        return [started, time.monotonic()]

    spans = slides.map(max_concurrent=2).run(list(range(11)))

    assert most_at_once(spans) == 2
    assert max(start for start, _ in spans) < spans[0][1]


def test_one_at_a_time_is_one_at_a_time(local: LocalCluster) -> None:
    """With ``max_concurrent=1`` the branches run one after the other, though there are two workers."""
    assert (
        most_at_once(list(parallel(*(spends.alias(f"n{i}") for i in range(6)), max_concurrent=1)(0.03).values())) == 1
    )


@pytest.mark.parametrize("optimize", [True, False])
def test_the_window_holds_for_async_branches(local: LocalCluster, optimize: bool) -> None:
    """The limit counts async branches, many of which share a lane."""
    spans = waits.map(max_concurrent=3, optimization_enabled=optimize).run([0.05] * 12)

    assert most_at_once(spans) == (3 if optimize else 2)


def test_the_window_holds_for_parked_branches(local: LocalCluster) -> None:
    """A branch that waits for its nested block still counts."""

    @node("both")
    def both(results: dict[str, Any]) -> Span:
        return [results["before"][0], time.monotonic()]

    @node("keeps")
    def keeps(data: dict[str, Any]) -> Any:
        return data["before"]

    @node("before")
    def before(seconds: float) -> dict[str, Any]:
        return {"before": [time.monotonic()], "seconds": seconds}

    @node("naps")
    def naps(data: dict[str, Any]) -> None:
        time.sleep(data["seconds"])

    branch = Sequence(before, parallel(keeps.alias("before"), naps, naps.alias("again")), both)
    spans = branch.map(max_concurrent=2).run([0.03] * 6)

    assert most_at_once(spans) == 2


def test_a_free_place_goes_to_any_branch_that_waits(cluster: LocalCluster) -> None:
    """Sync and async branches under one limit take each other's places at once, not when a janitor comes by."""
    branches = [step.alias(f"{step.name}{i}") for i in range(3) for step in (spends, waits)]
    spans = list(parallel(*branches, max_concurrent=1)(0.01).values())

    assert most_at_once(spans) == 1
    assert max(end for _, end in spans) - min(start for start, _ in spans) < 1.5


def test_branches_of_several_tracks_begin_at_once(local: LocalCluster) -> None:
    """Where sync and async branches are quick, neither kind waits until a janitor misses its lanes."""
    mixed = parallel(spends, waits, waits.alias("more"))
    started = time.monotonic()
    for _ in range(8):
        mixed(0.0)

    assert time.monotonic() - started < 12


def test_many_async_branches_share_a_lane(slot: LocalCluster) -> None:
    """A hundred async branches that wait half a second run at once on one slot."""
    spans = waits.map().run([0.5] * 100)

    assert most_at_once(spans) == 100


def leases(run: Run) -> list[tuple[int, ...]]:
    """The branches of a run's only block, as they were leased together."""
    return [event.branches for event in run.events() if event.type == "branches.started" and event.block != ROOT]


@node
def tells_its_process(data: int) -> int:
    return os.getpid()


def test_branches_that_are_known_to_be_quick_are_leased_at_once(slot: LocalCluster) -> None:
    """Once it is known how long they take, a block that ends before others could be there costs one lease."""

    def begins() -> tuple[int, ...]:
        run = tells_its_process.map().submit([1, 2, 3])
        assert len(set(run.result(timeout=60))) == 1
        return leases(run)[0]

    assert begins() == (0,)
    until(lambda: begins() == (0, 1, 2))


@node
def meets(gate: str, mine: int) -> int:
    if gate:
        (Path(gate) / str(mine)).touch()
        while len(list(Path(gate).iterdir())) < 2:
            time.sleep(0.005)
    return os.getpid()


def test_branches_that_take_long_for_once_are_shared(local: LocalCluster, tmp_path: Path) -> None:
    """Where one that was leased with others is not quick, they are given back: two that wait for each other meet."""

    gates = itertools.count()

    def meet(gate: str) -> tuple[int, tuple[int, ...]]:
        run = meets.map().submit([{"gate": gate, "mine": mine} for mine in (0, 1)])
        return len(set(run.result(timeout=60))), leases(run)[0]

    def meet_once_known() -> tuple[int, ...]:
        for _ in range(20):
            meet("")
        gate = tmp_path / str(next(gates))
        gate.mkdir()
        processes, leased = meet(str(gate))
        assert processes == 2
        return leased

    # Each process learns by itself that others are quick.
    until(lambda: meet_once_known() == (0, 1))


@node
async def fills_the_executor(gate: str) -> str:
    def wait() -> None:
        while not Path(gate).exists():
            time.sleep(0.01)

    await asyncio.to_thread(wait)
    return "through"


@node
async def at_once(gate: str) -> str:
    return "at once"


def test_results_count_while_nodes_fill_the_executor_of_their_loop(slot: LocalCluster, tmp_path: Path) -> None:
    """What has ended is recorded, though every thread that asyncio has for nodes is busy, and more wait for one."""
    gate = tmp_path / "gate"
    held = [fills_the_executor.alias(f"held{at}") for at in range(50)]
    run = parallel(*held, *(at_once.alias(f"quick{at}") for at in range(10))).submit(str(gate))

    def ended() -> int:
        return sum(len(event.branches) for event in run.events(follow=False) if event.type == "branches.ended")

    until(lambda: ended() == 10, what="the ten quick branches")
    gate.touch()
    assert sorted(run.result(timeout=30).values()) == ["at once"] * 10 + ["through"] * 50


def test_several_branches_fail_in_different_ways_with_one_limit(local: LocalCluster) -> None:
    """Under ``on_error="collect"`` failing branches leave their places to others, and none is lost."""

    @node("maybe")
    def maybe(item: int) -> int:
        if item % 3 == 0:
            raise ValueError(item)
        return item

    found = maybe.map(max_concurrent=2, on_error="collect").run(list(range(12)))

    assert [item if isinstance(item, int) else item.message for item in found] == [
        str(item) if item % 3 == 0 else item for item in range(12)
    ]


# Messages


def inspected(cluster: LocalCluster) -> Inspect:
    """Celery's view of this cluster's workers: others may use the same broker."""
    names = [worker.name for worker in cluster.workers]
    return session.current().app.control.inspect(destination=names, timeout=5, limit=len(names))


def counted(cluster: LocalCluster, name: str) -> Counter[str]:
    """The tasks that the workers have taken for blocks and workflows of a name, by kind."""
    totals: list[dict[str, int]] = []

    def have_answered() -> bool:
        answers = inspected(cluster).stats() or {}
        totals[:] = [cast(dict[str, int], worker["total"]) for worker in answers.values()]
        return len(totals) == 2

    until(have_answered, what="the answers of both workers")
    found: Counter[str] = Counter()
    for total in totals:
        found.update({task.split()[0]: count for task, count in total.items() if task.endswith(f" {name}")})
    return found


def test_without_optimization_the_header_is_one_task_a_branch(cluster: LocalCluster) -> None:
    """``optimization_enabled=False`` sends one Celery task for each branch, and each lease takes one branch."""
    name = f"seven-{uuid.uuid4().hex}"
    run = parallel(*(number.alias(f"n{i}") for i in range(7)), optimization_enabled=False, name=name).submit(1)

    assert run.result(timeout=30) == {f"n{i}": 2 for i in range(7)}
    until(lambda: counted(cluster, name)["lane"] >= 7, what="seven lanes")
    assert counted(cluster, name)["lane"] == 7
    leases = [event for event in run.events() if event.type == "branches.started" and event.block != "0"]
    assert [len(event.branches) for event in leases] == [1] * 7


def test_plain_nodes_take_no_message_each(cluster: LocalCluster) -> None:
    """Nodes one after the other run in one process: the whole sequence is one message."""
    name = f"plain-{uuid.uuid4().hex}"
    run = Sequence(number, number, later, number, parity.to(odd=number, even=number), number, name=name).submit(1)

    assert run.result(timeout=30) == 8
    until(lambda: counted(cluster, name)["advance"] >= 1, what="the first message")
    assert counted(cluster, name) == Counter(advance=1)


@pytest.fixture(scope="module")
def unserved() -> Iterator[LocalCluster]:
    """A cluster without workers: what is published stays where it can be read."""
    cluster = LocalCluster(workers=0)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def queue(unserved: LocalCluster) -> Iterator[Queue]:
    """Its queue, empty, as what this process submits to."""
    with submitting(unserved.settings), redis.Redis.from_url(unserved.url) as server:
        server.flushall()
        yield Queue(server, unserved)


class Queue:
    """The messages that nobody took."""

    def __init__(self, server: redis.Redis, cluster: LocalCluster) -> None:
        self.server = server
        self._settings = cluster.settings

    def serve(self, run: str) -> None:
        """Do what a worker does with the first message of a run; in a process of its own, as there."""
        execute(session.current(), apps.ADVANCE, [run])

    def messages(self, task: str) -> list[tuple[dict[str, Any], bytes]]:
        """Headers and raw message of each message of a task."""
        raws = cast(list[bytes], self.server.lrange(self._settings.queue, 0, -1))
        found = [(json.loads(raw)["headers"], raw) for raw in raws]
        return [(headers, raw) for headers, raw in found if headers["task"] == task]


def test_messages_hold_ids_only(queue: Queue) -> None:
    """The size of a message depends neither on the number of branches nor on the data."""
    sizes: dict[int, tuple[int, int]] = {}
    for n, data in ((3, 1), (300, "payload" * 100_000)):
        branches = [number.alias(f"branch{i:04}") for i in range(n)]
        run = Sequence(number, parallel(*branches, name="wide", optimization_enabled=False)).submit(
            data, id=f"run{n:04}"
        )
        queue.serve(run.id)
        [(_, advance)] = queue.messages(apps.ADVANCE)
        lanes = queue.messages(apps.LANE)
        assert len(lanes) == n
        args, kwargs, _ = body(lanes[0][1])
        created = session.current().ledger.work(run.id).created
        assert (args[0], args[2:], kwargs) == (run.id, [0, created], {})
        assert not any(b"payload" in raw or b"branch0" in raw for _, raw in lanes)
        sizes[n] = (len(advance), max(len(raw) for _, raw in lanes))
        queue.server.flushall()

    # A longer number here and there, in the chord's own bookkeeping.
    assert abs(sizes[300][0] - sizes[3][0]) < 16
    assert abs(sizes[300][1] - sizes[3][1]) < 128


def test_a_header_is_a_celery_chord(queue: Queue) -> None:
    """The lanes of a block are one Celery group whose chord holds the collect."""
    run = parallel(number, later, optimization_enabled=False).submit(1)
    queue.serve(run.id)
    lanes = queue.messages(apps.LANE)
    embed = body(lanes[0][1])[2]

    assert len({headers["group"] for headers, _ in lanes}) == 1
    assert embed["chord"]["task"] == apps.COLLECT
    assert embed["chord"]["args"] == [run.id, "0.0-", session.current().ledger.work(run.id).created]


def test_headers_expire_with_their_block(queue: Queue) -> None:
    """The lanes of a block with a timeout expire at its deadline, the others never."""
    for timeout in (None, 60.0):
        run = parallel(number, later, optimization_enabled=False, timeout=timeout).submit(1)
        queue.serve(run.id)
        expiries = [headers["expires"] for headers, _ in queue.messages(apps.LANE)]
        assert [expires is None for expires in expiries] == [timeout is None] * 2
        queue.server.flushall()


def test_every_failure_that_is_known_is_told(queue: Queue) -> None:
    """Of branches that fail before their block has ended, each is in the error's ``errors``, whichever was first."""
    flow = parallel(number.alias("a"), number.alias("b"), number.alias("c"), name="block")
    run = flow.submit(1)
    play = Play(session.current().ledger, run.id)
    lane = play.lane()
    play.serve("0", lane)
    block = play.nest("0", 0, lane, 3, path=(), tracks=[track(3, width=3, lanes=1)])
    assert numbers(play.serve(block, lane)) == [0, 1, 2]
    failures = {
        position: failure.encode(failure.Failure(type="ValueError", message=f"of {name}", node=name))
        for position, name in ((2, "c"), (0, "a"))
    }
    # One lane has executed them together.
    value = codec.encode(7, where="the value")
    commits = [Commit(1, "ok", value), *(Commit(branch, "error", raw) for branch, raw in failures.items())]
    play.serve(block, lane, commits, held=0)

    with pytest.raises(ParallelExecutionError) as caught:
        run.result(timeout=30)
    error = caught.value
    assert (error.block, error.branch, error.node, error.results) == ("block", "c", "c", {"b": 7})
    assert {name: (it.branch, it.type, it.message) for name, it in error.errors.items()} == {
        "a": ("a", "ValueError", "of a"),
        "c": ("c", "ValueError", "of c"),
    }
    assert str(error.__cause__) == "of c"


def test_the_input_is_stored_once(local: LocalCluster) -> None:
    """However many branches read it, a large input is written to the server once."""
    with redis.Redis.from_url(local.url) as server:
        before = server.info("stats")["total_net_input_bytes"]
        size = 4_000_000
        lengths = parallel(*(node(f"n{i}")(len) for i in range(30)))("x" * size)

        written = server.info("stats")["total_net_input_bytes"] - before

    assert lengths == {f"n{i}": size for i in range(30)}
    assert written < 1.2 * size


def test_a_block_leaves_no_subscription(local: LocalCluster) -> None:
    """Nobody listens for the results of lanes: what is published for a block is not remembered by who published it."""
    parallel(*(number.alias(f"n{i}") for i in range(5)), optimization_enabled=False)(1)

    with redis.Redis.from_url(local.url) as server:
        assert server.pubsub_channels("*celery-task-meta*") == []


@node("holds")
def holds(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.01)


def test_celery_shows_block_and_run(local: LocalCluster, tmp_path: Path) -> None:
    """Celery's own tools show a lane under the name of its block and its run."""
    gate = tmp_path / "gate"
    run = parallel(holds, holds.alias("again"), name="shown").submit(str(gate), id="seen-by-inspect")

    def shown() -> set[tuple[str, str]]:
        active = inspected(local).active() or {}
        return {(task["name"], task["args"][0]) for tasks in active.values() for task in tasks}

    until(lambda: ("lane shown", "seen-by-inspect") in shown(), what="a lane with a readable name")
    gate.touch()
    run.result(timeout=20)


# Binding and decisions


@node("two")
def two(first: int, second: int) -> int:
    return first + second


@node("sized")
def sized(size: int) -> int:
    return size


def test_input_that_does_not_fit_is_refused_at_submit(queue: Queue) -> None:
    """What the first nodes cannot bind is a `BindingError` here, before anything is published or written."""
    with pytest.raises(BindingError, match=r"two.*second"):
        parallel(number, two).submit({"first": 1})
    with pytest.raises(BindingError, match=r"'sized' needs 'size', missing from its input; .* 'siz'"):
        sized.submit({"siz": 1})

    assert queue.server.dbsize() == 0


def test_data_that_does_not_fit_a_later_node_fails_the_run(local: LocalCluster) -> None:
    """A later node's `BindingError` names node, parameter and the keys that were there."""
    with pytest.raises(RunFailed, match=r"node 'two'.*needs 'second'.*'b', 7, 'a'") as caught:
        Sequence(keyed, identity, node("two")(lambda second, b: b))(1)

    assert isinstance(caught.value.__cause__, BindingError)


def test_a_decision_without_an_answer_lists_its_choices(local: LocalCluster) -> None:
    """An answer that names no choice is an error with the answer and the choices, in a block too."""

    @decision("lost")
    def lost(value: int) -> str:
        return "nowhere"

    choosing = lost.to(number, later=later)
    with pytest.raises(RunFailed, match=r"'lost' answered 'nowhere'.*number, later"):
        choosing.run(1)
    with pytest.raises(ParallelExecutionError, match=r"'lost' answered 'nowhere'.*number, later") as caught:
        parallel(number, choosing)(1)
    assert caught.value.branch == "lost"


def test_a_decision_hands_on_its_own_input(local: LocalCluster) -> None:
    """The chosen step gets what the decision got, and the decision names the result."""
    flow = parallel(parity.to(odd=identity, even=parallel(identity, number)))

    assert flow(5) == {"parity": 5}
    assert flow(4) == {"parity": {"identity": 4, "number": 5}}


def test_context_says_where_a_node_runs(local: LocalCluster) -> None:
    """The injected `Context` names run, workflow, block, branch, node and attempt."""

    @node("where")
    def where(data: Any, context: Context) -> list[Any]:
        return [context.run, context.workflow, context.block, context.branch, context.node, context.attempt]

    flow = Sequence(where, parallel(where.alias("a"), where.map(name="over"), name="inside"), name="flow")
    found = flow.submit(1, id="context-1").result(timeout=20)

    assert found["a"] == ["context-1", "flow", "inside", "a", "a", 1]
    assert found["over"] == [["context-1", "flow", "over", index, "where", 1] for index in range(6)]


# Queues


@node("queue_cpu")
def here(data: Any, context: Context) -> int:
    return os.getpid()


@pytest.fixture(scope="module")
def gpu(one_slot: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A further worker of the one-slot cluster, which consumes the queue ``gpu`` only."""
    command = ["worker", "--queues", "gpu", "--name", "gpu@here", "--concurrency", "1"]
    log = tmp_path_factory.mktemp("gpu") / "log"
    process = Process.spawn(
        [sys.executable, "-m", "egregore_dist", *command], env=one_slot.worker_environment(), log=log
    )
    mine = Session(one_slot.settings)
    until(lambda: "gpu@here" in mine.ledger.reports(), seconds=60, what="a report of the gpu worker")
    yield process
    mine.close()
    process.stop()


def test_nodes_run_where_their_queue_is_consumed(slot: LocalCluster, gpu: Process) -> None:
    """A node of a queue runs on a worker of that queue: first, last, in the middle, in branches and in maps."""

    @node("there", queue="gpu")
    def there(data: Any) -> int:
        import os

        return os.getppid()

    @node("here")
    def plain(data: Any) -> int:
        import os

        return os.getppid()

    @node("both")
    def both(data: Any) -> list[Any]:
        return [data]

    main = slot.workers[0].pid
    deep = Sequence(plain, there, parallel(plain, there, Sequence(plain, there).alias("s")), both, there.map())

    assert there.run(1) == gpu.pid
    assert Sequence(plain, there)(1) == gpu.pid
    assert parallel(plain, there, Sequence(there, plain).alias("last"), Sequence(plain, there).alias("s"))(1) == {
        "here": main,
        "there": gpu.pid,
        "last": gpu.pid,
        "s": gpu.pid,
    }
    assert deep.submit(1).result(timeout=30) == [gpu.pid]
    assert Sequence(both, there.map())(1) == [gpu.pid]


def test_a_failure_on_another_queue_is_the_node_s_own(slot: LocalCluster, gpu: Process) -> None:
    """A node that fails on another queue fails its branch, not a block that nobody wrote."""

    @node("there", queue="gpu")
    def there(data: Any) -> int:
        raise KeyError("absent")

    with pytest.raises(RunFailed) as alone:
        Sequence(number, there)(1)
    with pytest.raises(ParallelExecutionError) as inside:
        parallel(number, Sequence(number, there))(1)
    collected = parallel(number, Sequence(number, there), on_error="collect")(1)

    assert type(alone.value) is RunFailed
    assert alone.value.node == "there"
    assert isinstance(alone.value.__cause__, KeyError)
    assert (inside.value.branch, inside.value.node) == ("there", "there")
    assert isinstance(inside.value.__cause__, KeyError)
    assert isinstance(collected["there"], BranchError)
    assert (collected["there"].type, collected["number"]) == ("KeyError", 2)


def test_workers_are_children_of_their_main_process(slot: LocalCluster) -> None:
    """Branches run in a pool's child, never in the worker's main process."""
    assert psutil.Process(here.run(1)).ppid() == slot.workers[0].pid

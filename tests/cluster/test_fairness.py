"""A large block does not keep a small one waiting, whatever its branches are."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from egregore_dist import LocalCluster, Run, Sequence, node, parallel
from egregore_dist.client import session
from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server
from egregore_dist.engine import urls
from egregore_dist.workflow.nodes import Node
from egregore_dist.workflow.step import Step
from tests.support.clusters import submitting
from tests.support.waiting import until

# So many branches that the block would take at least this long on one slot, and is cancelled before.
BRANCHES, AT_LEAST = 3000, 30.0


@node
def short(item: Any) -> Any:
    time.sleep(0.01)
    return item


@node
async def short_async(item: int) -> int:
    await asyncio.sleep(0.01)
    return item


@node
async def asks(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@node(io=True)
def waits(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@node
def one(data: Any) -> int:
    return 1


@node
def two(data: Any) -> int:
    return 2


@pytest.fixture
def slot() -> Iterator[LocalCluster]:
    """A cluster of one slot, as what this process submits to."""
    with LocalCluster(workers=1, concurrency=1) as cluster, submitting(cluster.settings):
        yield cluster


def ended(run: Run) -> int:
    """How many branches of a run have ended."""
    return sum(block.done for block in session.current().ledger.blocks(run.id) if block.parent is not None)


def has_begun(run: Run) -> bool:
    """Whether some branches of a run have ended."""
    return ended(run) > 0


@pytest.mark.parametrize(
    "large",
    [short.map(), short_async.map(max_concurrent=1), Sequence(short, short.alias("again")).map(max_concurrent=1)],
    ids=["map", "async", "sequence"],
)
def test_a_small_run_does_not_wait_for_a_large_one(slot: LocalCluster, large: Step) -> None:
    """With one slot, small runs end one after the other while a large block goes on."""
    run = large.submit(list(range(BRANCHES)))
    until(lambda: has_begun(run), what="the first branches")

    for _ in range(3):
        assert parallel(one, two).submit(0).result(timeout=AT_LEAST / 3) == {"one": 1, "two": 2}

    assert run.status == "running"
    run.cancel()


@pytest.mark.parametrize("large", [asks, waits], ids=["async", "threads"])
def test_a_small_run_waits_for_what_a_lane_of_many_has_begun(slot: LocalCluster, large: Node[Any, Any]) -> None:
    """It begins when the longest branch that goes on has ended, be that more than a second, and be it asked again."""
    longest = 2.0
    run = large.map().submit([longest / 2 + longest / 2 * (n % 97) / 97 for n in range(20_000)])
    until(lambda: has_begun(run), what="the first branches")

    for _ in range(2):
        began = time.monotonic()
        assert parallel(one, two).submit(0).result(timeout=60) == {"one": 1, "two": 2}
        # Coming anew to so large an input takes a while, too.
        assert time.monotonic() - began < 4 * longest

    assert run.status == "running"
    run.cancel()


def test_a_lane_does_not_stand_idle_behind_a_long_branch(slot: LocalCluster, tmp_path: Path) -> None:
    """A lane of many that should leave goes on where one of its branches takes too long."""

    def ended() -> int:
        return len(list(tmp_path.iterdir()))

    @node
    async def either(item: int) -> bool:
        if item == 0:
            # As long as the others have not all ended.
            for _ in range(2000):
                if ended() == 100:
                    return True
                await asyncio.sleep(0.01)
            return False
        await asyncio.sleep(0.02)
        (tmp_path / str(item)).touch()
        return True

    run = either.map(max_concurrent=2).submit(list(range(101)))
    until(lambda: has_begun(run), what="the first branches")
    other = one.submit(0)

    assert all(run.result(timeout=60))
    assert other.result(timeout=20) == 1


def test_a_run_of_many_blocks_gives_way_between_them(slot: LocalCluster) -> None:
    """A run whose blocks are each over in no time does not hold its slot from the first to the last."""
    flow = Sequence(*(parallel(Sequence(one, two).alias(f"a{n}"), short.alias(f"b{n}")) for n in range(300)))
    run = flow.submit(0)
    until(lambda: has_begun(run), what="the first branches")

    assert one.submit(0).result(timeout=20) == 1

    assert run.status == "running"
    run.cancel()


def test_what_gives_way_goes_on_where_it_stood(cluster: LocalCluster, tmp_path: Path) -> None:
    """Branches of blocks that take turns are executed once each, and every value is in its place."""
    executed = tmp_path / "executed"

    @node
    def noted(item: int) -> int:
        with executed.open("a") as file:
            file.write(f"{item}\n")
        time.sleep(0.002)
        return item * 2

    starts = range(0, 1500, 300)
    runs = [noted.map().submit(list(range(start, start + 300))) for start in starts]

    for run, start in zip(runs, starts, strict=True):
        assert run.result(timeout=60) == [2 * item for item in range(start, start + 300)]
    assert sorted(map(int, executed.read_text().split())) == list(range(1500))


OWN_APP = """
import sys
from celery import Celery
from egregore_dist.worker import install

app = Celery("theirs", broker=sys.argv.pop(1))
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)
install(app)
app.worker_main(sys.argv[1:])
"""


@contextmanager
def one_slot(tmp_path: Path, cluster: LocalCluster, *arguments: str) -> Iterator[None]:
    """A worker of one slot, started as users start theirs, on the server of a cluster that has none."""
    log = tmp_path / "worker.log"
    worker = Process.spawn([sys.executable, *arguments], env=cluster.worker_environment(), log=log)
    try:
        ledger = session.current().ledger
        until(lambda: len(ledger.reports()) == 1, seconds=60, what="the worker")
        yield
    finally:
        worker.kill()


def test_a_pool_shrinks_while_a_block_lasts() -> None:
    """Its lanes give back slots that it shall not have any more, whoever waits; those that it keeps go on."""
    with LocalCluster(workers=1, concurrency=4) as cluster, submitting(cluster.settings):
        workers = session.current().workers
        run = short.map().submit(list(range(4 * BRANCHES)))
        until(lambda: len(workers.list()[0].lanes) == 4, what="its lanes")
        workers.concurrency(workers.list()[0].worker, 2)
        until(lambda: len(workers.list()[0].children) == 2, what="a smaller pool")
        before = ended(run)
        until(lambda: ended(run) > before, what="branches that end in it")
        assert run.status == "running"
        run.cancel()


def test_those_on_other_queues_do_not_wait(tmp_path: Path) -> None:
    """A worker of two queues: a large block on one does not keep small runs on the other waiting."""

    @node(queue="gpu")
    def far(item: int) -> int:
        time.sleep(0.01)
        return item

    with LocalCluster(workers=0) as cluster:
        queues = f"{cluster.settings.queue},gpu"
        command = ("-m", "egregore_dist", "worker", "--concurrency", "1", "--queues", queues)
        with one_slot(tmp_path, cluster, *command):
            run = far.map().submit(list(range(BRANCHES)))
            until(lambda: has_begun(run), what="the first branches")

            for _ in range(3):
                assert parallel(one, two).submit(0).result(timeout=AT_LEAST / 3) == {"one": 1, "two": 2}

            assert run.status == "running"
            run.cancel()


def test_those_that_the_worker_has_received_do_not_wait(tmp_path: Path) -> None:
    """An app of the user's own whose worker takes four messages a slot: they are on no queue, and wait all the same."""
    with LocalCluster(workers=0) as cluster:
        url, queue = urls.for_kombu(cluster.url), cluster.settings.queue
        options = ("worker", "-c1", "-Q", queue, "-n", "own@here", "--without-mingle", "--without-gossip")
        with one_slot(tmp_path, cluster, "-c", OWN_APP, url, *options):
            run = short.map().submit(list(range(BRANCHES)))
            until(lambda: has_begun(run), what="the first branches")

            for _ in range(3):
                assert parallel(one, two).submit(0).result(timeout=AT_LEAST / 3) == {"one": 1, "two": 2}

            assert run.status == "running"
            run.cancel()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_lane_needs_no_broker(pool: str) -> None:
    """While the broker is away a lane goes on and commits what it does; once it is back, lanes take turns again."""
    with (
        Server.start() as broker,
        Server.start() as ledger,
        LocalCluster(workers=1, concurrency=1, broker_url=broker.url, ledger_url=ledger.url, pool=pool),
    ):
        run = short.map().submit(list(range(BRANCHES)))
        # It has had its turn, and asks.
        until(lambda: ended(run) > 20, what="the first branches")
        broker.kill()
        before = ended(run)
        until(lambda: ended(run) > before + 400, what="400 branches without the broker")

        broker.restart()
        assert one.submit(0).result(timeout=20) == 1
        assert run.status == "running"
        run.cancel()

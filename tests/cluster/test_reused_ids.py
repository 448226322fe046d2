"""An id that is used again after its run was deleted, while something of the former run is still there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from egregore_dist import Run, Sequence, errors, node, parallel
from egregore_dist.client.server import Server
from egregore_dist.client.session import Session
from egregore_dist.engine import app as apps
from egregore_dist.engine.lane import Lane
from egregore_dist.engine.runtime import Runtime, Workload
from egregore_dist.ledger import Work, openblocks
from egregore_dist.ledger.calls import Calls
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.profiles import Profiles
from egregore_dist.monitor.estimates import Estimator
from egregore_dist.settings import load
from egregore_dist.workflow.step import Step
from tests.support.clusters import submitting
from tests.support.messages import body, execute
from tests.support.secret import secret_of
from tests.support.waiting import until

ID = "used-again"


@node
def double(value: int) -> int:
    return value * 2


@node
def triple(value: int) -> int:
    return value * 3


@node
async def negated(value: int) -> int:
    return -value


@node
def total(values: dict[str, int]) -> int:
    return sum(values.values())


@node
def product(values: dict[str, int]) -> int:
    first, second = values.values()
    return first * second


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that no worker is connected to."""
    with Server.start() as started:
        yield started


@pytest.fixture
def empty(server: Server) -> Iterator[Session]:
    """A cluster without workers."""
    with submitting(load(broker_url=server.url, secret=secret_of("reused ids"))) as session:
        session.ledger.redis.flushall()
        yield session


def lane(session: Session, id: str) -> Lane:
    """A lane of its own, as of a worker."""
    return Lane(Runtime(session.app, session.settings), ID, worker="here", id=id)


def use_again(session: Session, step: Step) -> None:
    """Delete the run, and submit another workflow under its id."""
    created = session.ledger.work(ID).created
    session.ledger.cancel(ID)
    assert session.ledger.delete(ID)
    until(lambda: session.ledger.now() > created, what="the next millisecond")
    step.submit(5, id=ID)


def serve(session: Session) -> None:
    """Serve the run to its end."""
    for number in itertools.count():
        assert number < 20, "it goes on without end"
        if session.ledger.run(ID).ended is not None:
            return
        for record in session.ledger.blocks(ID):
            for track in range(len(record.queues)):
                lane(session, f"present{number}").serve(record.id, track)


def lose_one(monkeypatch: pytest.MonkeyPatch, number: int, meanwhile: Callable[[], None]) -> list[Any]:
    """Let the answer of one call of a lane be lost, so that it is made again; and something happen before that."""
    made, lost = itertools.count(), list[Any]()

    def losing(call: Callable[..., Any]) -> Callable[..., Any]:
        def ask(self: Calls, *asked: Any) -> Any:
            answer = call(self, *asked)
            # What is learned is told by a thread of its own.
            if lost or asked[0] == "learn" or next(made) != number:
                return answer
            lost.append(answer)
            meanwhile()
            return call(self, *asked)

        return ask

    monkeypatch.setattr(Calls, "one", losing(Calls.one))
    monkeypatch.setattr(Calls, "together", losing(Calls.together))
    return lost


@pytest.mark.parametrize("loads", [True, False])
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("optimize", [True, False])
def test_whichever_call_of_a_lane_is_made_again(empty: Session, optimize: bool, is_open: bool, loads: bool) -> None:
    """The lane does not take the run that has the id now for its own.

    Also where that has the same blocks, and nobody serves them yet; and where the lane could not load its own.
    """
    former = Sequence(double, parallel(double, negated, optimization_enabled=optimize), total)
    present = Sequence(triple, parallel(triple, negated, optimization_enabled=False), product)

    def meanwhile() -> None:
        use_again(empty, present)
        if is_open:
            lane(empty, "opener").serve(ROOT, 0)

    for number in itertools.count():
        former.submit(5, id=ID)
        with pytest.MonkeyPatch.context() as patch:
            lost = lose_one(patch, number, meanwhile)
            mine = lane(empty, "former")
            if not loads:
                patch.setattr(mine._runtime, "workload", loading_all_but(mine._runtime, empty.ledger.work(ID).created))
            mine.serve(ROOT, 0)
            if not optimize:
                lane(empty, "another").serve("0.0-1", 0)
        if not lost:
            break
        serve(empty)

        assert Run(ID).result(timeout=5) == 45 * -15, f"call {number} was made again"
        assert empty.ledger.delete(ID)
        empty.ledger.redis.flushall()

    assert number >= 2


def loading_all_but(runtime: Runtime, created: int) -> Callable[[str, Work], Workload]:
    """As where a worker does not have the code of one run."""
    load = runtime.workload

    def workload(run: str, work: Work) -> Workload:
        if work.created == created:
            raise errors.CodeError("not here")
        return load(run, work)

    return workload


def test_a_message_of_the_former_run(empty: Session) -> None:
    """It is for the workers of another queue, who need not be able to execute what the present run is."""
    elsewhere = node("elsewhere", queue="elsewhere")(double.fn)
    elsewhere.submit(5, id=ID)
    until(lambda: empty.ledger.redis.llen("elsewhere") == 1, what="its message")
    use_again(empty, triple)
    ((_, created),) = arguments(empty, "elsewhere")

    execute(empty, apps.ADVANCE, [ID, created])
    execute(empty, apps.LANE, [ID, ROOT, 0, created])
    assert Run(ID).status == "pending"

    execute(empty, apps.ADVANCE, [ID, empty.ledger.work(ID).created])
    assert Run(ID).result(timeout=5) == 15


def test_what_a_transition_wants_published_says_of_which_run_it_is(empty: Session) -> None:
    """As the messages of a run that is resumed."""
    run = double.submit(5, id=ID)
    empty.later.flush()
    run.pause()
    empty.ledger.redis.delete(empty.settings.queue)
    run.resume()

    assert arguments(empty, empty.settings.queue) == [[ID, ROOT, 0, empty.ledger.work(ID).created]]


def test_a_collect_of_the_former_run(empty: Session) -> None:
    """It carries the present one on no more than a lane does."""
    there = node("there", queue="elsewhere")(double.fn)
    Sequence(parallel(there), total).submit(5, id=ID)
    created = empty.ledger.work(ID).created
    execute(empty, apps.ADVANCE, [ID, created])
    execute(empty, apps.LANE, [ID, "0.0-0", 0, created])
    block = empty.ledger.block(ID, "0.0-0")
    assert block is not None
    assert block.state == "ok"

    execute(empty, apps.COLLECT, [ID, "0.0-0", created - 1])
    assert Run(ID).status == "running"
    execute(empty, apps.COLLECT, [ID, "0.0-0", created])
    assert Run(ID).result(timeout=5) == 10


def test_an_estimate_is_of_the_present_run(empty: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its branches execute is not remembered of the former one."""
    estimator, asked = Estimator(empty.ledger, empty.settings.queue), list[set[str]]()
    read = Profiles.read

    def reading(self: Profiles, functions: Any) -> Any:
        asked.append(set(functions))
        return read(self, functions)

    monkeypatch.setattr(Profiles, "read", reading)
    double.submit(5, id=ID)
    estimator.estimate(openblocks.look(empty.ledger).blocks)
    use_again(empty, triple)
    estimator.estimate(openblocks.look(empty.ledger).blocks)

    former, present = asked
    assert len(former) == len(present) == 1
    assert former != present


def arguments(session: Session, queue: str) -> list[list[Any]]:
    """Those of the messages on a queue."""
    raws = cast(list[bytes], session.ledger.redis.lrange(queue, 0, -1))
    return [body(raw)[0] for raw in raws]


def test_a_handle_of_the_former_run(empty: Session) -> None:
    """It is no handle of the present one: neither its value is that one's, nor does it end it."""
    run = double.submit(5, id=ID)
    use_again(empty, triple)
    lane(empty, "present").serve(ROOT, 0)

    asks = [lambda: run.result(timeout=5), run.cancel, run.pause, run.resume, run.retry, run.why, lambda: run.status]
    for ask in asks:
        with pytest.raises(errors.RunNotFound, match="its id was used again"):
            ask()
    assert Run(ID).result(timeout=5) == 15

"""Blocks as they are opened and published."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from celery import Celery
from hypothesis import strategies as st
from kombu import Connection, serialization
from kombu.exceptions import ContentDisallowed

from egregore_dist import Sequence, decision, errors, node, parallel
from egregore_dist.engine import app as apps
from egregore_dist.engine import compile as compiler
from egregore_dist.engine.compile import Kind
from egregore_dist.engine.interpret import Meet, Value
from egregore_dist.ledger import NewBlock
from egregore_dist.resources.chains import Chain, Choice
from egregore_dist.resources.profile import Learned
from egregore_dist.resources.report import Report
from egregore_dist.resources.router import Cluster
from egregore_dist.settings import Settings
from egregore_dist.workflow import describe, spec
from egregore_dist.workflow.limits import Limit
from egregore_dist.workflow.step import Step

HOME = "home"
HEAVY = f"gpu@memory:{2**30}+cpus:2"


@node
def plain(value: int) -> int:
    return value


@node
async def light(value: int) -> int:
    return value


@node(queue="gpu", memory="1GiB", cpus=2)
def heavy(value: int) -> int:
    return value


@pytest.fixture
def settings() -> Settings:
    return Settings(broker_url="redis://127.0.0.1:1/0", queue=HOME, async_width=50)


@pytest.fixture
def app(settings: Settings) -> Celery:
    return apps.make_app(settings)


def block_of(step: Step) -> Any:
    return describe.describe(step).spec.root


def kinds(step: Step) -> list[tuple[Kind, tuple[int, ...]]]:
    return [(part.kind, part.branches) for part in compiler.shape(block_of(step), HOME).parts]


def report(slots: int = 2, queues: tuple[str, ...] = (HOME,), memory: int = 64 * 2**30, host: str = "a") -> Report:
    return Report(
        worker=f"w@{host}",
        host=host,
        pid=1,
        cores=4.0,
        memory_available=memory,
        memory_total=memory,
        slots=slots,
        queues=queues,
    )


def opened(
    step: Step,
    settings: Settings,
    *,
    n: int | None = None,
    reports: tuple[Report, ...] = (),
    knows: compiler.Knows | None = None,
) -> NewBlock:
    root = block_of(step)
    return compiler.new_block(
        Meet(root, (), Value(b"\xc0", "0")),
        compiler.shape(root, HOME),
        parent="0",
        branch=0,
        n=len(spec.children(root)) if n is None else n,
        settings=settings,
        cluster=Cluster(reports),
        knows=knows,
    )


def test_branches_are_tracked_by_queue_and_kind() -> None:
    """Branches that the same lanes may serve are one track: one queue, all async or not."""
    block = parallel(plain, light, heavy, plain.alias("b"), light.alias("c"), Sequence(plain, light).alias("d"))

    assert kinds(block) == [
        (Kind(HOME, False), (0, 3, 5)),
        (Kind(HOME, True), (1, 4)),
        (Kind(HEAVY, False), (2,)),
    ]


def test_branches_are_tracked_by_memory_and_cores() -> None:
    """Each need is a track, a branch's that of its neediest node; as much as every worker has is none."""
    some, more = node("some", memory="1GiB")(plain.fn), node("more", memory="2GiB", cpus=1)(plain.fn)
    cores, little = node("cores", cpus=2.5)(plain.fn), node("little", memory="50MiB", cpus=0.5)(plain.fn)
    block = parallel(plain, some, more, cores, little, Sequence(plain, some, cores, plain).alias("both"))

    assert kinds(block) == [
        (Kind(HOME, False), (0, 4)),
        (Kind(f"{HOME}@memory:{2**30}", False), (1,)),
        (Kind(f"{HOME}@memory:{2**31}", False), (2,)),
        (Kind(f"{HOME}@cpus:2.5", False), (3,)),
        (Kind(f"{HOME}@memory:{2**30}+cpus:2.5", False), (5,)),
    ]
    assert compiler.shape(block_of(block), HOME).batched
    assert compiler.branch_queue(block_of(Sequence(parallel(more), some)), HOME) == f"{HOME}@memory:{2**30}"


def test_branches_are_tracked_by_what_they_need() -> None:
    """Labels and GPUs of the first node have a queue of their own, derived from its own or the run's."""
    eu = node("eu", labels={"zone": "eu"})(plain.fn)
    both = node("both", labels={"zone": "eu", "disk": "ssd"}, gpus=2, queue="gpu")(plain.fn)
    block = parallel(plain, eu, both, Sequence(eu, plain, eu).alias("c"), Sequence(plain, eu).alias("d"))

    assert kinds(block) == [
        (Kind(HOME, False), (0, 4)),
        (Kind(f"{HOME}@zone=eu", False), (1, 3)),
        (Kind("gpu@gpus:2+disk=ssd+zone=eu", False), (2,)),
    ]
    assert compiler.shape(block_of(parallel(Sequence(eu, plain))), HOME).batched
    assert not compiler.shape(block_of(parallel(Sequence(plain, eu))), HOME).batched


def test_what_no_worker_has_is_refused(settings: Settings) -> None:
    """A node with a label is refused where workers serve its queue and none has it; in a run that goes on it waits."""
    eu = node("eu", labels={"zone": "eu"})(plain.fn)
    for step in (eu, Sequence(plain, eu), parallel(Sequence(heavy, eu)), Sequence(eu, node("x", gpus=1)(plain.fn))):
        root = block_of(step)
        compiler.refuse_misfits(root, HOME, Cluster())
        with pytest.raises(errors.WorkflowError, match=r"node '(eu|x)' needs (label zone=eu|1 GPU), and the nearest"):
            compiler.refuse_misfits(root, HOME, Cluster([report(queues=(HOME, "gpu"))]))
    waits = opened(parallel(plain, eu), settings, reports=(report(),))
    assert [track.queue for track in waits.tracks] == [HOME, f"{HOME}@zone=eu"]


def test_only_what_is_async_throughout_is_wide() -> None:
    """A branch that meets a block, another queue or a sync node is not served many at a time."""
    nested = [parallel(light), light.map(), Sequence(light, heavy), Sequence(light, plain)]

    for branch in nested:
        [(kind, _)] = kinds(parallel(branch))
        assert kind == Kind(HOME, False)
    assert kinds(parallel(Sequence(light, light)))[0][0] == Kind(HOME, True)


def test_without_optimization_nothing_is_wide_or_batched() -> None:
    """``optimization_enabled=False``: each lease takes one branch."""
    shape = compiler.shape(block_of(parallel(light, plain, optimization_enabled=False)), HOME)

    assert (len(shape.parts), shape.parts[0].kind.wide, shape.batched, shape.optimize) == (1, False, False, False)


def test_only_plain_branches_are_leased_many_at_a_time() -> None:
    """A block whose branches may meet another block or queue is leased branch by branch."""
    assert compiler.shape(block_of(parallel(plain, light)), HOME).batched
    assert not compiler.shape(block_of(parallel(plain, parallel(light))), HOME).batched
    assert not compiler.shape(block_of(parallel(plain, Sequence(plain, heavy))), HOME).batched


def test_needs_are_those_of_the_neediest_node() -> None:
    """A track's memory and cores are the largest that a node in it declares: before any block, and on its queue."""
    needy = node("needy", memory="2GiB", cpus=3)(plain.fn)
    steps = [Sequence(plain, needy, plain.alias("p")), Sequence(plain.alias("b"), parallel(needy), heavy).alias("c")]
    [part] = compiler.shape(block_of(parallel(steps[0])), HOME).parts
    [other] = compiler.shape(block_of(parallel(steps[1])), HOME).parts

    assert (part.memory, part.cpus) == (2 * 2**30, 3.0)
    assert (other.memory, other.cpus) == (None, None)


def test_branches_share_a_process_where_every_sync_node_declares_it() -> None:
    """Async nodes have no say; a branch with another sync node, a block or another queue on its way runs alone."""
    waits, route = node("waits", io=True)(plain.fn), decision("route")(plain.fn)
    steps = (waits, plain, waits >> light, waits >> plain, waits >> parallel(waits), waits >> heavy, route.to(a=waits))
    found = [compiler.shape(block_of(parallel(step)), HOME).parts[0].kind.io for step in steps]

    assert found == [True, False, True, False, False, False, False]
    assert not compiler.shape(block_of(parallel(waits, optimization_enabled=False)), HOME).parts[0].kind.io


def test_what_shares_a_process_is_a_track_of_its_own() -> None:
    """Nodes beside it that do not declare ``io=True`` change nothing for it, and it nothing for them."""
    waits = node("waits", io=True)(plain.fn)
    block = parallel(plain, waits, waits.alias("b"), light)

    assert kinds(block) == [
        (Kind(HOME, False), (0,)),
        (Kind(HOME, False, io=True), (1, 2)),
        (Kind(HOME, True), (3,)),
    ]


@hypothesis.given(
    cpu=st.floats(0, 1), waits=st.floats(0, 1000), executions=st.floats(0, 1e6), items=st.integers(1, 10_000)
)
def test_what_was_learned_gives_no_sync_node_threads(cpu: float, waits: float, executions: float, items: int) -> None:
    """A block of nodes that do not declare ``io=True`` is opened with lanes that run one branch at a time."""
    known = Learned(executions=executions, wall=cpu + waits, cpu=cpu, memory=None, waits=waits)
    settings = Settings(broker_url="redis://127.0.0.1:1/0", queue=HOME, thread_width=32)

    for step in (plain.map(), node("n", io=False)(plain.fn).map(), (plain >> plain.alias("b")).map()):
        block = opened(step, settings, n=items, reports=(report(),), knows=lambda branches: known)
        assert [track.width for track in block.tracks] == [1]


def test_a_track_knows_what_its_branches_execute() -> None:
    """Branches are told by the functions that they execute, whatever their names; too many are not told."""
    block = parallel(plain, plain.alias("b"), Sequence(plain, heavy, light).alias("c"))
    [part] = compiler.shape(block_of(block), HOME).parts
    many = parallel(*(node(f"n{i}")(lambda value: value) for i in range(100)))

    assert part.chains == {(0,): 2, (0, 2): 1}
    assert compiler.shape(block_of(many), HOME).parts[0].chains == {}


def test_the_steps_of_a_decision_are_a_choice() -> None:
    """A branch executes one of them, or goes on elsewhere; where all do that, it executes its function alone."""

    def route(value: int) -> str:
        return "plain"

    decide = decision("route")(route)
    flow = Sequence(light, decide.to(plain, Sequence(plain.alias("x"), light).alias("both"), away=parallel(plain)))
    [part] = compiler.shape(block_of(flow.map()), HOME).parts
    [parked] = compiler.shape(block_of(decide.to(a=parallel(plain), b=heavy).map()), HOME).parts

    assert part.chains == {(0, 1, Choice(((2,), (2, 0), ()))): 1}
    assert parked.chains == {(0,): 1}


def test_what_is_known_is_planned_with(settings: Settings) -> None:
    """What was learned of a track's functions decides how much memory its branches are planned with."""
    asked = []

    def knows(chains: Mapping[Chain[int], int]) -> Learned:
        asked.append(chains)
        return Learned(executions=9.0, wall=1.0, cpu=1.0, memory=10 * 2**30)

    block = opened(plain.map(), settings, n=100, reports=(report(slots=50),), knows=knows)

    assert asked == [{(0,): 1}]
    assert block.tracks[0].lanes == 4


@pytest.mark.parametrize(("limit", "lease"), [(None, 100), (Limit(concurrent=50), 1)])
def test_branches_with_a_limit_are_planned_one_by_one(settings: Settings, limit: Limit | None, lease: int) -> None:
    """As lanes lease them."""
    step = block_of(node("tiny", limit=limit)(plain.fn).map())
    form = compiler.shape(step, HOME)

    planned = compiler.plan(
        step,
        form,
        1000,
        settings=settings,
        cluster=Cluster([report()]),
        knows=lambda _chains: Learned(executions=9.0, wall=50e-6, cpu=50e-6, memory=None),
    )

    assert planned.tracks[0].lease == lease


def test_what_fits_nowhere_is_refused(settings: Settings) -> None:
    """A node that needs more than the largest worker of its queue has is named, with both numbers."""
    small = (report(queues=("gpu",), memory=2**30),)
    flow = Sequence(plain, parallel(heavy, plain.alias("b")))

    with pytest.raises(
        errors.WorkflowError, match=r"node 'heavy' needs 1.07 GB of memory and 2 cores.* 'w@a', has 752 MB"
    ):
        compiler.refuse_misfits(block_of(flow), HOME, Cluster(small))
    with pytest.raises(errors.WorkflowError, match=r"a branch of 'parallel' needs"):
        opened(parallel(heavy), settings, reports=small)
    compiler.refuse_misfits(block_of(flow), HOME, Cluster([*small, report(queues=("gpu",), host="b")]))
    compiler.refuse_misfits(block_of(flow), HOME, Cluster([report(memory=1)]))


def test_a_block_is_planned_by_the_workers_that_may_serve_it(settings: Settings) -> None:
    """Lanes are planned track by track from the reports of the workers that consume its queue."""
    reports = (
        report(slots=3),
        report(slots=8, queues=("gpu",), host="b"),
        report(slots=8, queues=("other",), host="c"),
    )
    block = opened(
        parallel(*(plain.alias(f"p{i}") for i in range(9)), *(heavy.alias(f"h{i}") for i in range(9))),
        settings,
        reports=reports,
    )

    assert [(track.queue, track.lanes, track.count) for track in block.tracks] == [(HOME, 3, 9), (HEAVY, 2, 9)]
    assert block.tracks[0].branches == tuple(range(9))


def test_a_block_carries_its_limits(settings: Settings) -> None:
    """Limit, timeout, name, failure rule and the place of its input go to the ledger with the block."""
    step = parallel(plain, light, max_concurrent=2, timeout=1.5, on_error="collect", name="it")
    block = opened(step, settings)

    assert (block.id, block.name, block.n, block.limit, block.timeout) == ("0.0-", "it", 2, 2, 1.5)
    assert (block.on_error, block.input, block.path) == ("collect", "0", ())


def test_a_map_has_one_track(settings: Settings) -> None:
    """A map's branches are all alike: one track, which lists none of them."""
    block = opened(light.map(), settings, n=1000, reports=(report(),))

    [track] = block.tracks
    assert (track.count, track.branches, track.width, track.lanes) == (1000, None, 50, 2)


@pytest.mark.parametrize(("limit", "lanes"), [(None, 7), (3, 3)])
def test_without_optimization_there_is_a_lane_a_branch(
    app: Celery, settings: Settings, limit: int | None, lanes: int
) -> None:
    """``optimization_enabled=False``: as many lanes as branches, or as the limit, whatever the reports say."""
    step = parallel(*(plain.alias(f"p{i}") for i in range(7)), optimization_enabled=False, max_concurrent=limit)
    block = opened(step, settings, reports=(report(slots=1, memory=1),))
    chord = compiler.compile_block(app, "run", block, parent_queue=HOME, here=False)

    assert chord is not None
    assert len(chord.tasks) == lanes
    assert {task.task for task in chord.tasks} == {apps.LANE}


def test_s1_a_block_is_a_chord_of_messages_with_ids_alone(app: Celery, settings: Settings) -> None:
    """The chord's lanes go to their tracks' queues with ids alone, and its callback to the parent's queue."""
    block = opened(parallel(plain, heavy, name="it", timeout=9.0), settings)
    chord = compiler.compile_block(app, "run", block, parent_queue="parents", here=False, created=7)

    assert chord is not None
    assert [(task.args, task.options["queue"]) for task in chord.tasks] == [
        (("run", "0.0-", 0, 7), HOME),
        (("run", "0.0-", 1, 7), HEAVY),
    ]
    assert {(task.options["expires"], task.options["shadow"]) for task in chord.tasks} == {(9.0, "lane it")}
    assert (chord.body.task, chord.body.args) == (apps.COLLECT, ("run", "0.0-", 7))
    assert chord.body.options["queue"] == "parents"


@pytest.mark.parametrize(
    ("timeout", "left", "expires"),
    [(None, None, None), (9.0, None, 9.0), (None, 4.0, 4.0), (9.0, 4.0, 4.0), (2.0, 4.0, 2.0)],
)
def test_lanes_expire_at_the_first_deadline(
    app: Celery, settings: Settings, timeout: float | None, left: float | None, expires: float | None
) -> None:
    """That of their block, or of a block around it."""
    block = opened(parallel(plain, heavy, timeout=timeout), settings)
    chord = compiler.compile_block(app, "run", block, parent_queue=HOME, here=False, left=left)

    assert chord is not None
    assert {task.options.get("expires") for task in chord.tasks} == {expires}


def test_a_lane_in_place_needs_no_message(app: Celery, settings: Settings) -> None:
    """Where the process that opened the block is its only lane, nothing is published."""
    block = opened(parallel(plain), settings)

    assert compiler.compile_block(app, "run", block, parent_queue=HOME, here=True) is None
    assert compiler.compile_block(app, "run", block, parent_queue=HOME, here=False) is not None


def test_a_run_starts_on_the_queue_of_its_first_node() -> None:
    """The first node's queue, through sequences; the default where the first step is anything else."""
    assert compiler.queue_of(block_of(Sequence(Sequence(heavy, plain), plain.alias("b"))), HOME) == HEAVY
    assert compiler.queue_of(block_of(parallel(heavy)), HOME) == HOME
    assert compiler.queue_of(block_of(plain), HOME) == HOME


@pytest.mark.parametrize(
    ("urls", "ledger"),
    [
        ({"broker_url": "redis://h/1"}, "redis://h/1"),
        ({"broker_url": "redis+socket:///s"}, "unix:///s?db=0"),
        ({"broker_url": "amqp://h//", "ledger_url": "redis://l/0"}, "redis://l/0"),
    ],
)
def test_the_ledger_is_the_broker_unless_it_is_told(urls: dict[str, Any], ledger: str) -> None:
    """A broker that is a Redis or Valkey server holds the ledger too."""
    assert apps.ledger_url(Settings(**urls)) == ledger


def test_a_broker_that_cannot_hold_the_ledger_needs_one() -> None:
    """RabbitMQ alone is a `ConfigurationError` that says what to set; no broker at all is one too."""
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_LEDGER_URL"):
        apps.ledger_url(Settings(broker_url="amqp://h//"))
    with pytest.raises(errors.ConfigurationError, match="EGREGORE_BROKER_URL"):
        apps.make_app(Settings())


class Payload:
    """An object whose pickle runs a command of the shell when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_s1_messages_are_json_alone(app: Celery, tmp_path: Path) -> None:
    """Neither tasks nor results, events or remote control are read from anything else: no payload is run."""
    mark = tmp_path / "mark"
    command = f"touch {mark}"
    payloads = {
        "application/x-python-serialize": pickle.dumps(Payload(command)),
        "application/x-yaml": f"!!python/object/apply:os.system ['{command}']".encode(),
    }
    receiver: Any = app.events.Receiver(Connection("memory://"))
    for accepted in (
        serialization.prepare_accept_content(app.conf.accept_content),
        app.amqp.TaskConsumer(Connection("memory://")).accept,
        app.backend.accept,
        serialization.prepare_accept_content(app.control.mailbox.accept),
        serialization.prepare_accept_content(receiver.accept),
    ):
        assert accepted == {"application/json"}
        for content_type, payload in payloads.items():
            with pytest.raises(ContentDisallowed):
                serialization.loads(payload, content_type, "binary", accept=accepted)
    assert (app.conf.task_serializer, app.conf.result_serializer, app.conf.event_serializer) == ("json",) * 3
    assert not mark.exists()

    pickle.loads(payloads["application/x-python-serialize"])  # the payload would have run

    assert mark.exists()


def test_the_app_acknowledges_late_and_has_one_message_ahead(app: Celery) -> None:
    """A lane of a dead process is delivered again, and none waits behind a long one."""
    assert (app.conf.task_acks_late, app.conf.worker_prefetch_multiplier) == (True, 1)


def test_branches_that_are_alike_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of very many costs little to plan; which branches are of which track, and how many, is as it was."""
    looked: list[object] = []
    kind = compiler._kind

    def seen(root: spec.StepSpec, default: str, optimize: bool) -> Kind:
        looked.append(root)
        return kind(root, default, optimize)

    monkeypatch.setattr(compiler, "_kind", seen)
    few = [node(f"few{number}")(plain.fn) for number in range(200)]
    many = [node(f"many{number}", queue="gpu", memory="1GiB", cpus=2)(plain.fn) for number in range(200)]
    mixed = [branch for pair in zip(few, many, strict=True) for branch in pair]
    found = compiler.shape(block_of(parallel(*mixed, Sequence(plain, light), Sequence(light, plain))), HOME)

    assert len(looked) == 4
    one, other = found.parts
    assert (one.kind.queue, one.branches) == (HOME, (*range(0, 400, 2), 400, 401))
    assert (other.kind.queue, other.branches) == (HEAVY, tuple(range(1, 400, 2)))
    assert (one.memory, other.memory, other.cpus) == (None, 2**30, 2)
    assert (sum(one.chains.values()), sum(other.chains.values())) == (202, 200)

"""How the events and blocks of a run become its report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egregore_dist.client import accounting
from egregore_dist.client.events import Event, FailedCall
from egregore_dist.client.runreport import Durations, Retries, RunReport
from egregore_dist.client.timeline import Timeline
from egregore_dist.ledger import RunRecord
from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.workflow import spec
from tests.support import glances
from tests.unit.client.stories import STORY, event, timeline

FETCH = spec.ParallelSpec(
    name="fetch",
    branches=tuple(spec.NodeSpec(name=name, function=0) for name in ("a", "b", "c")),
    keys=("first", "second", "third"),
)
ROOT = spec.SequenceSpec(name="flow", steps=(spec.NodeSpec(name="load", function=0), FETCH))
RECORD = RunRecord(id="r", state="failed", workflow="flow", created=100.0, started=101.0, ended=108.0)
BLOCK = glances.block((1,), name="fetch", state="error", n=3, failed=1, opened=102_000, ended=108_000)
WHOLE = replace(BLOCK, id="0", path=(), name="flow", n=1, parent=None, branch=None)


def report(
    made: Timeline, *blocks: BlockGlance, record: RunRecord = RECORD, root: spec.StepSpec | None = ROOT, opened: int = 1
) -> RunReport:
    """The report of a run with these events and blocks; its block "0.0-1" has one value."""
    return accounting.account(
        record,
        made,
        blocks=blocks,
        opened=opened,
        values={"0.0-1": 1},
        whole=replace(WHOLE, state="open", failed=0) if record.ended is None else WHOLE,
        root=root,
        names=lambda block, branch: f"{block}/{branch}",
        now=200.0,
    )


def test_durations() -> None:
    """Min, mean, p95 and max are those of what was given, and None of nothing."""
    found = Durations.of(float(number) for number in range(100, 0, -1))

    assert (found.count, found.total) == (100, 5050.0)
    assert (found.min, found.mean, found.p95, found.max) == (1.0, 50.5, 95.0, 100.0)
    assert Durations.of([3.0]).p95 == 3.0
    assert Durations.of([]).min is None


def test_the_totals() -> None:
    """Branches are counted as the ledger has them, and the rate is of those that ended."""
    found = report(timeline(*STORY), BLOCK)

    assert (found.totals.blocks, found.totals.branches) == (1, 3)
    assert (found.totals.ok, found.totals.failed, found.totals.stopped, found.totals.open) == (1, 1, 1, 0)
    assert found.success_rate == pytest.approx(1 / 3)
    assert (found.waited, found.ran) == (1.0, 7.0)
    assert not found.partial


def test_the_executions() -> None:
    """Each lease is an execution, and only those that ended by themselves have a duration."""
    found = report(timeline(*STORY), BLOCK).executions

    assert (found.count, found.ok, found.failed, found.lost, found.together) == (3, 1, 1, 1, 2)
    assert (found.durations.count, found.durations.min, found.durations.max) == (2, 1.0, 5.0)


def counts(found: RunReport) -> dict[str, tuple[int, int, int, int]]:
    """How the executions of each node ended: ok, failed, lost or stopped, running."""
    every = {node.name: node.executions for node in found.nodes}
    return {name: (each.ok, each.failed, each.lost + each.stopped, each.running) for name, each in every.items()}


def node(name: str) -> spec.NodeSpec:
    return spec.NodeSpec(name=name, function=0)


def sequence(*steps: spec.StepSpec) -> spec.SequenceSpec:
    return spec.SequenceSpec(name="steps", steps=steps)


def in_one_branch(*steps: spec.StepSpec) -> spec.StepSpec:
    """A workflow that is a block with one branch, of these steps."""
    return spec.ParallelSpec(name="block", branches=(sequence(*steps),), keys=("only",))


BEGUN = (*STORY[:3], event(102.0, "block.opened", "0.0-", name="block", n=1))
LEASED = event(103.0, "branches.started", "0.0-", branches=(0,), worker="w")


def test_nodes_that_are_a_branch() -> None:
    """A node that is a whole branch has its executions with their times; one beside the block has called others too."""
    found = report(timeline(*STORY), BLOCK).nodes

    assert [(node.name, node.executions.count, node.executions.durations.total, node.steps) for node in found] == [
        ("a", 1, 5.0, 0),
        ("b", 2, 1.0, 0),
        ("load", 1, 0.0, 1),
    ]
    assert report(timeline(*STORY), BLOCK, root=None).nodes == ()


def test_the_nodes_of_a_branch_that_ended_well() -> None:
    """Each has been called, and how long it took is not known."""
    made = timeline(*BEGUN, LEASED, event(107.0, "branches.ended", "0.0-", branches=(0,), took={0: 2.0}))

    found = report(made, root=in_one_branch(node("a"), sequence(node("b"), node("c"))))

    assert counts(found) == dict.fromkeys("abc", (1, 0, 0, 0))
    assert [(node.steps, node.executions.durations.count) for node in found.nodes] == [(1, 0)] * 3
    assert "| b | 1 | 1 | 0 |" in found.markdown()
    assert "Steps are executions as one of several nodes" in found.markdown()
    assert "Steps are executions as one of several nodes" in found.html()


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (event(105.0, "branches.ended", "0.0-", failed=(0,), nodes={0: "b"}), {"a": (1, 0, 0, 0), "b": (0, 1, 0, 0)}),
        (event(105.0, "branch.lost", "0.0-", branches=(0,), nodes={0: "a"}), {"a": (0, 0, 1, 0)}),
        (event(105.0, "branch.lost", "0.0-", branches=(0,)), {}),
        (event(105.0, "branches.waiting", "0.0-", branches=(0,)), {}),
        (event(105.0, "block.ended", "0.0-", state="timeout"), {}),
    ],
    ids=["failed", "lost", "lost unseen", "running", "timeout"],
)
def test_the_nodes_of_a_branch_that_did_not_end_well(
    end: Event, expected: dict[str, tuple[int, int, int, int]]
) -> None:
    """The one that it ended at is told where an event says it, and those before it have ended well."""
    found = report(timeline(*BEGUN, LEASED, end), root=in_one_branch(node("a"), node("b"), node("c")))

    assert counts(found) == expected


def test_the_nodes_around_a_nested_block() -> None:
    """Those before it have ended when it is opened, and are not called again where the branch goes on behind it."""
    inner = spec.ParallelSpec(name="inner", branches=(node("x"),), keys=("x",))
    root = in_one_branch(node("a"), inner, node("b"), node("c"))
    story = [
        *BEGUN,
        LEASED,
        event(104.0, "block.opened", "0.0-.0-0,1", name="inner", n=1),
        event(104.0, "branches.started", "0.0-.0-0,1", branches=(0,), worker="w"),
    ]
    assert counts(report(timeline(*story), root=root)) == {"a": (1, 0, 0, 0), "x": (0, 0, 0, 1)}

    failed = [
        event(105.0, "branches.ended", "0.0-.0-0,1", failed=(0,), nodes={0: "x"}),
        event(105.0, "block.ended", "0.0-.0-0,1", state="error"),
        event(105.0, "branches.ended", "0.0-", failed=(0,)),
        event(105.0, "block.ended", "0.0-", state="error"),
        event(105.0, "block.ended", "0", state="error"),
        event(105.0, "run.ended", state="failed"),
    ]
    assert counts(report(timeline(*story, *failed), root=root)) == {"a": (1, 0, 0, 0), "x": (0, 1, 0, 0)}

    retried = [
        event(110.0, "run.retried"),
        event(110.0, "block.opened", "0.0-.0-0,1", name="inner", n=1),
        event(110.0, "block.opened", "0.0-", name="block", n=1),
        event(111.0, "branches.started", "0.0-.0-0,1", branches=(0,), worker="w"),
        event(112.0, "branches.ended", "0.0-.0-0,1", branches=(0,)),
        event(112.0, "block.ended", "0.0-.0-0,1", state="ok"),
        event(113.0, "branch.lost", "0.0-", branches=(0,), nodes={0: "c"}),
        event(114.0, "branches.started", "0.0-", branches=(0,), worker="w"),
        event(115.0, "branches.ended", "0.0-", branches=(0,)),
    ]
    assert counts(report(timeline(*story, *failed, *retried), root=root)) == {
        "a": (1, 0, 0, 0),
        "x": (1, 1, 0, 0),
        "b": (2, 0, 0, 0),
        "c": (1, 0, 1, 0),
    }


def test_a_node_that_was_met_as_a_block_is_counted_once() -> None:
    """One that runs elsewhere is the one branch of a block, and no step of the branch that waited for it."""
    made = timeline(
        *BEGUN,
        LEASED,
        event(104.0, "block.opened", "0.0-.0-0,1", name="b", n=1),
        event(104.0, "branches.started", "0.0-.0-0,1", branches=(0,), worker="w"),
        event(106.0, "branches.ended", "0.0-.0-0,1", branches=(0,)),
        event(106.0, "block.ended", "0.0-.0-0,1", state="ok"),
        event(107.0, "branches.ended", "0.0-", branches=(0,)),
    )
    found = report(made, root=in_one_branch(node("a"), node("b")))

    assert counts(found) == {"a": (1, 0, 0, 0), "b": (1, 0, 0, 0)}
    assert {node.name: node.steps for node in found.nodes} == {"a": 1, "b": 0}


def test_what_a_decision_chose() -> None:
    """Its function is a node; what it chose is told where that failed or has met a block, and guessed nowhere."""
    inner = spec.ParallelSpec(name="inner", branches=(node("x"),), keys=("x",))
    steps = (sequence(node("l1"), inner, node("l2")), sequence(node("r1"), node("r2")))
    choose = spec.DecisionSpec(name="choose", node=node("ask"), keys=("left", "right"), steps=steps)
    root = in_one_branch(choose, node("z"))
    ended = event(109.0, "branches.ended", "0.0-", branches=(0,))
    failed = event(109.0, "branches.ended", "0.0-", failed=(0,), nodes={0: "r2"})
    unseen = event(109.0, "branch.lost", "0.0-", branches=(0,))
    met = [
        event(104.0, "block.opened", "0.0-.0-0,0,0,1", name="inner", n=1),
        event(106.0, "block.ended", "0.0-.0-0,0,0,1", state="ok"),
    ]

    one = (1, 0, 0, 0)
    assert counts(report(timeline(*BEGUN, LEASED, ended), root=root)) == {"ask": one, "z": one}
    assert counts(report(timeline(*BEGUN, LEASED, failed), root=root)) == {"ask": one, "r2": (0, 1, 0, 0)}
    assert counts(report(timeline(*BEGUN, LEASED, unseen), root=root)) == {}
    assert counts(report(timeline(*BEGUN, LEASED, *met, ended), root=root)) == dict.fromkeys(
        ("ask", "l1", "l2", "z"), one
    )


def test_blocks_of_one_place_are_one() -> None:
    """A nested block that is opened for each branch around it is one row."""
    other = replace(BLOCK, id="0.0-1.1-1", state="open", ended=None, failed=0)

    (found,) = report(timeline(*STORY), BLOCK, other, opened=2).blocks

    assert (found.opened, found.branches, found.ok, found.failed, found.stopped) == (2, 6, 1, 1, 1)
    assert (found.took.count, found.took.total) == (1, 6.0)


def test_workers_are_busy_while_they_run_anything() -> None:
    """Executions side by side do not make a worker busier than all the time."""
    found = {worker.name: worker for worker in report(timeline(*STORY), BLOCK).workers}

    # The second before the block too, in which the run's own branch was at a node.
    assert (found["w1"].busy, found["w1"].executions.lost) == (6.0, 1)
    assert (found["w2"].busy, found["w2"].executions.ok) == (1.0, 1)


def test_the_critical_path() -> None:
    """The blocks that the end waited for, each with its last branch, in the order of time."""
    made = timeline(
        *STORY[:5],
        event(104.0, "block.opened", "0.0-1.0-0", name="inner", n=1),
        event(105.0, "branches.started", "0.0-1.0-0", branches=(0,), worker="w2"),
        event(106.0, "branches.ended", "0.0-1", branches=(1,), worker="w1"),
        event(107.0, "branches.ended", "0.0-1.0-0", branches=(0,), worker="w2"),
        event(108.0, "branches.ended", "0.0-1", branches=(0,), worker="w1"),
    )

    found = report(made, BLOCK).critical_path

    # That the inner block has ended is not told, nor when its branch went on: so that is one link.
    assert [(link.name, link.branch, link.worker, link.waited, link.ran) for link in found] == [
        ("flow", "0/0", "w1", 0.0, 1.0),
        ("fetch", "0.0-1/0", "w1", 1.0, 5.0),
        ("inner", "0.0-1.0-0/0", "w2", 1.0, 2.0),
    ]


def test_a_run_that_goes_on() -> None:
    """What has no end yet runs until now."""
    going = replace(RECORD, state="running", ended=None)

    found = report(timeline(*STORY[:5]), replace(BLOCK, state="open", ended=None, failed=0), record=going)

    assert (found.ran, found.ended, found.at) == (99.0, None, 200.0)
    assert (found.totals.open, found.totals.stopped) == (2, 0)
    assert (found.executions.running, found.executions.durations.count) == (2, 0)
    assert found.workers[0].busy == 98.0


def test_a_run_that_waits() -> None:
    """Before anything has happened there is nothing but the wait."""
    pending = replace(RECORD, state="pending", started=None, ended=None)

    found = report(Timeline(), record=pending, opened=0)

    assert (found.waited, found.ran, found.timeline, found.success_rate) == (100.0, 0.0, "", None)
    assert found.critical_path == ()


def test_a_workflow_without_a_block() -> None:
    """The run itself is the only branch, and its node is told where it is one."""
    made = timeline(*STORY[:3], event(105.0, "branches.ended", "0", branches=(0,), worker="w1"))

    found = report(made, root=spec.NodeSpec(name="load", function=0), opened=0)

    assert (found.totals.blocks, found.totals.branches) == (0, 1)
    assert [(node.name, node.executions.durations.max) for node in found.nodes] == [("load", 4.0)]


# Sequence(slow, parallel(Sequence(slow, parallel(x), slow2), quick), after): nodes beside blocks, one of these nested.
INNER = spec.ParallelSpec(name="inner", branches=(node("x"),), keys=("x",))
OUTER = spec.ParallelSpec(
    name="outer", branches=(sequence(node("slow"), INNER, node("slow2")), node("quick")), keys=("long", "quick")
)
BESIDE = sequence(node("before"), OUTER, node("after"))
OPENED = (
    event(100.0, "run.submitted"),
    event(100.0, "run.started"),
    event(100.0, "branches.started", "0", branches=(0,), worker="w1"),
    event(101.0, "block.opened", "0.0-1", name="outer", n=2),
    event(102.0, "branches.started", "0.0-1", branches=(0,), worker="w2"),
    event(102.0, "branches.started", "0.0-1", branches=(1,), worker="w1"),
    event(102.5, "branches.ended", "0.0-1", branches=(1,), worker="w1"),
    event(104.0, "block.opened", "0.0-1.0-1,0,1", name="inner", n=1),
    event(105.0, "branches.started", "0.0-1.0-1,0,1", branches=(0,), worker="w3"),
    event(110.0, "branches.ended", "0.0-1.0-1,0,1", branches=(0,), worker="w3"),
    event(110.0, "block.ended", "0.0-1.0-1,0,1", state="ok"),
)
# The lane that ended the inner block goes on behind it, and another one behind the outer block.
WENT_ON = (
    event(113.0, "branches.ended", "0.0-1", branches=(0,), worker="w3"),
    event(113.0, "block.ended", "0.0-1", state="ok"),
    event(115.0, "branches.started", "0", branches=(0,), worker="w4"),
)
ENDED = event(119.0, "branches.ended", "0", branches=(0,), worker="w4")
SUCCEEDED = replace(RECORD, state="succeeded", started=100.0, ended=119.0)


def busy(found: RunReport) -> dict[str, float]:
    """For how long each worker was."""
    return {worker.name: worker.busy for worker in found.workers}


def path(found: RunReport) -> list[tuple[str, tuple[str, ...], str | None, float, float]]:
    """The critical path: blocks, nodes of parts, workers, seconds waited and run."""
    return [(link.name, link.nodes, link.worker, link.waited, link.ran) for link in found.critical_path]


def test_the_parts_of_branches_that_met_blocks() -> None:
    """Nodes before and behind blocks keep workers busy, and the end waited for them; what is parked does not run."""
    found = report(timeline(*OPENED, *WENT_ON, ENDED), record=SUCCEEDED, root=BESIDE, opened=2)

    assert busy(found) == {"w1": 1.5, "w2": 2.0, "w3": 8.0, "w4": 4.0}
    assert path(found) == [
        ("flow", ("before",), "w1", 0.0, 1.0),
        ("outer", ("slow",), "w2", 1.0, 2.0),
        ("inner", (), "w3", 1.0, 5.0),
        ("outer", ("slow2",), "w3", 0.0, 3.0),
        ("flow", ("after",), "w4", 2.0, 4.0),
    ]
    assert (found.parts.count, found.parts.total, found.parts.max) == (4, 10.0, 4.0)
    assert (found.executions.count, found.executions.durations.total) == (2, 5.5)
    assert "| flow | 0/0: after | w4 | 2.0 s | 4.0 s |" in found.markdown()


def test_a_part_in_which_no_node_is_called() -> None:
    """A worker is at it, but it is told only where it takes long."""
    root = sequence(OUTER, node("after"))
    story = [replace(each, block=each.block and each.block.replace("0.0-1", "0.0-0")) for each in OPENED]
    at = 100.02
    quick = [event(at, "block.opened", "0.0-0", name="outer", n=2), *story[4:]]
    rest = [replace(each, block=each.block and each.block.replace("0.0-1", "0.0-0")) for each in (*WENT_ON, ENDED)]

    short = report(timeline(*story[:3], *quick, *rest), record=SUCCEEDED, root=root, opened=2)
    long = report(timeline(*story, *rest), record=SUCCEEDED, root=root, opened=2)

    assert path(short)[0][0] == "outer"
    assert busy(short)["w1"] == pytest.approx(0.52)
    assert path(long)[0] == ("flow", (), "w1", 0.0, 1.0)


def test_the_nodes_of_a_part() -> None:
    """What a decision chose is not known, and without the workflow nothing is: the part is told all the same."""
    choose = spec.DecisionSpec(name="choose", node=node("ask"), keys=("l", "r"), steps=(node("l"), node("r")))
    story = timeline(*OPENED, *WENT_ON, ENDED)

    chosen = report(story, record=SUCCEEDED, root=sequence(node("before"), OUTER, choose), opened=2)
    unread = report(story, record=SUCCEEDED, root=None, opened=2)

    assert path(chosen)[-1] == ("flow", ("ask", "…"), "w4", 2.0, 4.0)
    assert path(unread)[-1] == ("flow", (), "w4", 2.0, 4.0)
    assert unread.parts == chosen.parts


def test_a_part_that_goes_on() -> None:
    """Until an event tells where a branch goes on behind its block, no worker is said to be at it."""
    going = replace(RECORD, state="running", started=100.0, ended=None)

    untold = report(timeline(*OPENED), record=going, root=BESIDE, opened=2)
    told = report(timeline(*OPENED, *WENT_ON), record=going, root=BESIDE, opened=2)

    assert busy(untold) == {"w1": 1.5, "w2": 2.0, "w3": 5.0}
    assert path(untold)[-1] == ("outer", ("slow2",), None, 0.0, 90.0)
    assert busy(told)["w4"] == 85.0
    assert path(told)[-1] == ("flow", ("after",), "w4", 2.0, 85.0)


def test_a_branch_that_ended_with_its_block() -> None:
    """One that was parked when the block around it ended has nothing behind the block that it waited for."""
    made = timeline(
        *OPENED[:9],
        event(106.0, "branches.ended", "0.0-1.0-1,0,1", failed=(0,), worker="w3"),
        event(106.0, "block.ended", "0.0-1.0-1,0,1", state="error"),
        event(106.0, "branches.ended", "0.0-1", failed=(0,)),
        event(106.0, "block.ended", "0.0-1", state="error"),
        event(106.0, "branches.ended", "0", failed=(0,)),
        event(106.0, "block.ended", "0", state="error"),
        event(106.0, "run.ended", state="failed"),
        event(120.0, "run.retried"),
        event(120.0, "block.opened", "0.0-1.0-1,0,1", name="inner", n=1),
        event(120.0, "block.opened", "0.0-1", name="outer", n=2),
        event(121.0, "branches.started", "0.0-1.0-1,0,1", branches=(0,), worker="w3"),
        event(122.0, "branches.ended", "0.0-1.0-1,0,1", branches=(0,), worker="w3"),
        event(122.0, "block.ended", "0.0-1.0-1,0,1", state="ok"),
        event(125.0, "branches.ended", "0.0-1", branches=(0,), worker="w3"),
        event(125.0, "block.ended", "0.0-1", state="ok"),
        event(126.0, "branches.ended", "0", branches=(0,), worker="w3"),
    )

    found = report(made, record=replace(SUCCEEDED, ended=126.0), root=BESIDE, opened=2)

    assert busy(found) == {"w1": 1.5, "w2": 2.0, "w3": 6.0}
    assert path(found)[-2:] == [("outer", ("slow2",), "w3", 0.0, 3.0), ("flow", ("after",), "w3", 0.0, 1.0)]


def test_calls_that_failed_in_a_part() -> None:
    """They are of the part that they were made in, and not of the time in which the branch was parked."""
    calls = {0: (FailedCall(node="after", ago=3.0, took=1.0, waited=1.0),)}
    ended = event(119.0, "branches.ended", "0", branches=(0,), worker="w4", calls=calls)

    found = report(timeline(*OPENED, *WENT_ON, ended), record=SUCCEEDED, root=BESIDE, opened=2)

    # From 115 to 116, and from 117 to 119.
    assert busy(found)["w4"] == 3.0
    assert path(found)[-1] == ("flow", ("after",), "w4", 2.0, 4.0)


def test_parts_of_which_events_are_missing() -> None:
    """A branch that was not seen from its beginning to its end has no parts."""
    made = timeline(*OPENED)
    made.miss()
    made.add(ENDED)

    found = report(made, record=SUCCEEDED, root=BESIDE, opened=2)

    assert busy(found) == {"w1": 0.5, "w3": 5.0}
    assert found.partial


def test_what_a_retry_kept() -> None:
    """The branches that had ended well are kept, with the time of the executions in them."""
    story = (
        *STORY[:5],
        event(103.5, "block.opened", "0.0-1.0-0", name="inner", n=1),
        event(104.0, "branches.started", "0.0-1.0-0", branches=(0,), worker="w2"),
        event(105.0, "branches.ended", "0.0-1.0-0", branches=(0,), worker="w2"),
        event(105.0, "block.ended", "0.0-1.0-0", state="ok"),
        event(106.0, "branches.ended", "0.0-1", branches=(0,), worker="w1"),
        event(108.0, "branches.ended", "0.0-1", failed=(1,), worker="w1"),
        event(108.0, "block.ended", "0.0-1", state="error"),
        event(108.0, "run.ended", state="failed"),
        event(120.0, "run.retried"),
        event(120.0, "block.opened", "0.0-1", name="fetch", n=3),
        event(121.0, "branches.started", "0.0-1", branches=(1,), worker="w1"),
        event(125.0, "branches.ended", "0.0-1", branches=(1,), worker="w1"),
    )

    assert report(timeline(*story), BLOCK).retries == Retries(count=1, kept=1, saved=1.0)
    assert report(timeline(*STORY), BLOCK).retries == Retries()


def test_what_is_missing_is_told() -> None:
    """A stream without its beginning, and blocks that were not read, make a report partial."""
    assert report(timeline(*STORY[2:]), BLOCK).partial
    assert report(timeline(*STORY), BLOCK, opened=2).partial

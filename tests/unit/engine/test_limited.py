"""How blocks whose branches begin with a limited node are opened."""

from __future__ import annotations

from typing import Any

import pytest

from egregore_dist import Limit, Sequence, node, parallel
from egregore_dist.engine import compile as compiler
from egregore_dist.engine import interpret, limited
from egregore_dist.engine.interpret import Call, Done, Meet, Value
from egregore_dist.ledger import NewBlock
from egregore_dist.resources.report import Report
from egregore_dist.resources.router import Cluster
from egregore_dist.settings import Settings
from egregore_dist.wire import codec
from egregore_dist.workflow import spec
from egregore_dist.workflow.describe import describe
from egregore_dist.workflow.limits import Named, Rule
from egregore_dist.workflow.step import Step

WORKER = Report(
    worker="w", host="h", pid=1, cores=4.0, memory_available=2**33, memory_total=2**33, slots=4, queues=("home",)
)
HOME = Settings(queue="home")
RULE = "2 0 0 0"


@node
def plain(x: Any) -> Any:
    return x


@node
async def aplain(x: Any) -> Any:
    return x


@node(limit=Limit(concurrent=2))
def call(x: Any) -> Any:
    return x


@node(limit=Limit(concurrent=2))
async def acall(x: Any) -> Any:
    return x


@node(limit=Limit(concurrent=2, key="model"))
async def keyed(prompt: str, model: str = "m") -> Any:
    return prompt


def block(step: Step, data: Any, n: int) -> NewBlock:
    root = describe(step).spec.root
    assert isinstance(root, spec.ParallelSpec | spec.MapSpec)
    meet = Meet(root, (), Value(codec.encode(data, where="here")))
    shape = compiler.shape(root, "home")
    return compiler.new_block(meet, shape, parent="0", branch=0, n=n, settings=HOME, cluster=Cluster((WORKER,)))


def test_a_map_of_a_limited_node_is_one_track() -> None:
    """It is leased with places of the limit, many on one loop where it is async."""
    (track,) = block(call.map(), [1, 2, 3], 3).tracks
    (wide,) = block(acall.map(), list(range(100)), 100).tracks

    assert (track.limit, track.width) == (f"call {RULE} -", 1)
    assert wide.limit == f"acall {RULE} -"
    assert wide.width > 1


def test_what_has_none_has_none() -> None:
    """A track without a limit says nothing, beside one that has it too."""
    first, second = block(parallel(plain, call, aplain.alias("b") >> plain.alias("c")), 1, 3).tracks

    assert (first.limit, first.branches) == ("", (0, 2))
    assert (second.limit, second.branches) == (f"call {RULE} -", (1,))


def test_a_limited_node_on_the_way_keeps_its_branch_from_a_loop() -> None:
    """It is met as a block, and what meets a block is leased one by one; only the first node's limit is the track's."""
    (before,) = block(Sequence(aplain, acall).map(), list(range(100)), 100).tracks
    (after,) = block(Sequence(acall, aplain).map(), list(range(100)), 100).tracks

    assert (before.limit, before.width) == ("", 1)
    assert after.limit == f"acall {RULE} -"
    assert after.width > 1


def test_each_value_of_a_key_is_a_track() -> None:
    """Its branches are together, and the lanes are shared out."""
    items = [{"prompt": "p", "model": "ab"[i % 2]} for i in range(9)] + [{"prompt": "p"}]
    a, b, m = block(keyed.map(), items, 10).tracks

    assert [track.limit for track in (a, b, m)] == [f"keyed/{value} {RULE} model" for value in "abm"]
    assert (a.branches, b.branches, m.branches) == ((0, 2, 4, 6, 8), (1, 3, 5, 7), (9,))
    assert (a.count, b.count, m.count) == (5, 4, 1)
    assert all(track.lanes >= 1 for track in (a, b, m))


def test_one_value_is_one_track() -> None:
    """A block whose input has one value, as that of a parallel always has, is not split."""
    (track,) = block(keyed.map(), [{"prompt": "p"}] * 3, 3).tracks
    (same,) = block(parallel(keyed, keyed.alias("b")), {"prompt": "p", "model": "x/y z"}, 2).tracks

    assert (track.limit, track.branches) == (f"keyed/m {RULE} model", None)
    assert same.limit == f"keyed/x%2Fy%20z {RULE} model"


def test_very_many_values_are_not_tracks() -> None:
    """Each branch meets its node as a block then, which is opened with its own bucket."""
    n = limited.APART + 1
    (track,) = block(keyed.map(), [{"prompt": "p", "model": str(i)} for i in range(n)], n).tracks

    assert (track.limit, track.width, track.branches) == ("", 1, None)


@pytest.mark.parametrize(
    ("value", "bucket"),
    [
        ("gpt-4", "l/gpt-4"),
        ("a b/ü*", "l/a%20b%2F%C3%BC%2A"),
        (7, "l/7"),
        (True, "l/True"),
        (None, "l/"),
        ("x" * 101, "l/sha256-"),
        (["a"], "l/sha256-"),
    ],
)
def test_a_bucket_is_named_by_the_value(value: Any, bucket: str) -> None:
    """Nothing in it can be taken for a separator; what is long or no plain value goes by its digest."""
    limit = Named("l", Rule(concurrent=1), "k", whole=False)

    assert limited.bucket(limit, {"k": value}).startswith(bucket)
    assert " " not in limited.bucket(limit, {"k": value})


def test_only_the_node_that_has_a_place_is_called() -> None:
    """Any other that has a limit is met as a block."""
    root = describe(Sequence(call, plain, call.alias("again"))).spec.root
    value = Value(codec.encode(1, where="here"))

    met = interpret.walk(root, (), (), value, entering=True, queue="home")
    with pytest.raises(StopIteration) as stop:
        next(met)
    assert isinstance(stop.value.value, Meet)
    assert stop.value.value.path == (0,)

    called = interpret.walk(root, (), (), value, entering=True, queue="home", placed=interpret.head_path(root, ()))
    assert isinstance(next(called), Call)
    assert isinstance(called.send(value), Call)
    with pytest.raises(StopIteration) as stop:
        called.send(value)
    assert stop.value.value.path == (2,)
    assert not isinstance(stop.value.value, Done)

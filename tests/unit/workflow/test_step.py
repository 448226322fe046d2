"""Steps: chaining, renaming, immutability, and the way to the client."""

from __future__ import annotations

import asyncio
import copy
import re
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.workflow import Sequence, Step, decision, describe, node, parallel
from egregore_dist.workflow.step import MAX_NESTING, label


@node
def a(x: int) -> int:
    return x


@node
def b(x: int) -> int:
    return x


@node
def c(x: int) -> int:
    return x


@decision
def pick(x: int) -> str:
    return "a" if x else "b"


def plain(x: int) -> int:
    return x


ROUTE = pick.to(a, b)
EVERY_KIND: list[Step] = [a, a >> b, parallel(a, b), a.map(), ROUTE]


def test_chain_flattens_unnamed_sequences() -> None:
    """a >> b >> c is one sequence, however it is grouped."""
    assert (a, b, c) == (a >> b >> c).steps == (a >> (b >> c)).steps == ((a >> b) >> c).steps


def test_chain_keeps_named_sequences() -> None:
    """A named sequence stays a step of its own."""
    inner = Sequence(a, b, name="inner")

    assert (inner, c) == (inner >> c).steps
    assert (c, inner) == (c >> inner).steps


@pytest.mark.parametrize("left", EVERY_KIND)
@pytest.mark.parametrize("right", EVERY_KIND)
def test_everything_chains_with_everything(left: Step, right: Step) -> None:
    """Every kind of step can stand on either side of >>."""
    assert isinstance(left >> right, Sequence)


def test_chain_changes_nothing() -> None:
    """>> leaves both sides as they were."""
    chained = a >> b

    _ = chained >> c

    assert (a, b) == chained.steps


@pytest.mark.parametrize("step", EVERY_KIND)
def test_plain_function_in_a_chain(step: Any) -> None:
    """A plain function on either side of >> is refused with the way to wrap it."""
    for chain in (lambda: step >> plain, lambda: plain >> step):
        with pytest.raises(errors.WorkflowError, match=r"plain function plain.*wrap it: node\('plain'\)\(plain\)"):
            chain()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("value", [3, None, "b", {"x": 1}])
def test_other_values_in_a_chain(value: Any) -> None:
    """Anything else on either side of >> is refused."""
    for chain in (lambda: a >> value, lambda: value >> a):
        with pytest.raises(errors.WorkflowError, match="not a step"):
            chain()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("step", EVERY_KIND)
def test_alias_is_a_renamed_copy(step: Step) -> None:
    """.alias works on every step, and leaves the step alone."""
    name = step.name
    described = describe.describe(step)

    renamed = step.alias("other")

    assert renamed.name == "other"
    assert type(step) is type(renamed)
    assert name == step.name
    assert describe.describe(step) is described
    assert describe.describe(renamed).spec.name == "other"


@pytest.mark.parametrize("step", EVERY_KIND)
def test_alias_checks_the_name(step: Step) -> None:
    """.alias takes valid names only, and says of which step."""
    with pytest.raises(errors.WorkflowError, match=re.escape(f"cannot name a step (an alias of {label(step)})")):
        step.alias("not valid")


@pytest.mark.parametrize("step", EVERY_KIND)
def test_steps_never_change(step: Any) -> None:
    """Setting or deleting an attribute of a step is refused with a hint."""
    with pytest.raises(AttributeError, match=r"immutable .*\.alias"):
        step.name = "other"
    with pytest.raises(AttributeError, match="immutable"):
        del step.name


@pytest.mark.parametrize("step", EVERY_KIND)
def test_steps_are_hashable_by_identity(step: Step) -> None:
    """Two steps are equal only if they are the same one."""
    other = step.alias("other").alias(step.name or "x")

    assert {step: 1, other: 2}[step] == 1
    assert step != other


@pytest.mark.parametrize("step", EVERY_KIND)
def test_copies_do_not_share_what_is_remembered(step: Step) -> None:
    """A copied step is described anew."""
    describe.describe(step)

    assert describe.describe(copy.copy(step)).spec == describe.describe(step).spec


def nested(levels: int) -> Step:
    step: Step = a
    for _ in range(levels):
        step = parallel(b >> step)
    return step


def test_s6_the_nesting_of_blocks() -> None:
    """Blocks nest as deep as the limit, and no deeper; the sequences between them do not count."""
    assert nested(MAX_NESTING).nesting == MAX_NESTING

    with pytest.raises(errors.WorkflowError, match=f"nests {MAX_NESTING + 1} levels deep; at most {MAX_NESTING}"):
        nested(MAX_NESTING + 1)


@pytest.mark.parametrize(
    "wrap", [lambda step: step.map(), lambda step: Sequence(step, name="s"), lambda step: pick.to(a=step)]
)
def test_every_kind_of_nesting_is_limited(wrap: Callable[[Step], Step]) -> None:
    """Maps, decisions and sequences in sequences count as levels too."""
    step = wrap(a)
    while step.nesting < MAX_NESTING:
        step = wrap(step)

    with pytest.raises(errors.WorkflowError, match="levels deep"):
        wrap(step)


class Recorder:
    """A launcher that remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def run(self, step: Step, data: Any, progress: bool | None) -> str:
        self.calls.append(("run", step, data, progress))
        return "value"

    def submit(self, step: Step, data: Any, id: str | None) -> str:
        self.calls.append(("submit", step, data, id))
        return "handle"

    async def arun(self, step: Step, data: Any) -> str:
        self.calls.append(("arun", step, data))
        return "awaited"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder in the place of the client."""
    module = ModuleType("egregore_dist.client.launch")
    recorder = Recorder()
    vars(module)["launcher"] = recorder
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return recorder


@pytest.mark.parametrize("step", EVERY_KIND)
def test_every_step_can_be_run(step: Step, launcher: Recorder) -> None:
    """run, submit and arun of every step go to the client with their arguments."""
    assert step.run({"x": 1}, progress=True) == "value"
    assert step.submit(2, id="order-42") == "handle"  # type: ignore[comparison-overlap]
    assert asyncio.run(step.arun(3)) == "awaited"
    assert [("run", step, {"x": 1}, True), ("submit", step, 2, "order-42"), ("arun", step, 3)] == launcher.calls


@pytest.mark.parametrize("flow", [a >> b, parallel(a, b), a.map()])
def test_calling_a_flow_runs_it(flow: Any, launcher: Recorder) -> None:
    """A workflow is called with its input, or with nothing."""
    assert flow({"x": 1}) == "value"
    assert flow() == "value"
    assert [("run", flow, {"x": 1}, None), ("run", flow, None, None)] == launcher.calls


def test_calling_a_node_or_a_decision_stays_here(launcher: Recorder) -> None:
    """Nodes and decisions run their plain function when called."""
    assert a(3) == 3
    assert pick(0) == "b"
    assert launcher.calls == []


def test_building_imports_neither_celery_nor_redis() -> None:
    """The language needs no Celery, Redis or client to be imported."""
    program = (
        "import sys, egregore_dist.workflow, egregore_dist.workflow.describe, egregore_dist.workflow.binding\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('celery', 'kombu', 'redis', 'pydantic')"
        " or m.startswith('egregore_dist.client')])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_reprs() -> None:
    """A repr reads like the code that makes the step, and stays short."""
    assert repr(a >> b) == "Sequence(node('a'), node('b'))"
    assert repr(Sequence(a, name="s")) == "Sequence(node('a'), name='s')"
    assert (
        repr(parallel(a, b, max_concurrent=2, timeout=3))
        == "parallel(node('a'), node('b'), max_concurrent=2, timeout=3.0)"
    )
    assert repr(parallel()) == "parallel()"
    assert (
        repr(parallel(optimization_enabled=False, on_error="collect", name="p"))
        == "parallel(optimization_enabled=False, on_error='collect', name='p')"
    )
    assert repr(a.map(max_concurrent=8)) == "node('a').map(max_concurrent=8)"
    assert repr(pick) == "decision('pick')"
    assert repr(ROUTE) == "decision('pick').to(node('a'), node('b'))"
    assert repr(parallel(*[a.alias(f"a{i}") for i in range(1000)])).endswith("node('a5'), … 994 more)")

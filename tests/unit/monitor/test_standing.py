"""How far each step is, told from blocks and from what workers say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.monitor.standing import Facts, Standing, stand
from egregore_dist.workflow import spec
from egregore_dist.workflow.spec import Path
from tests.support import glances


def n(name: str) -> spec.NodeSpec:
    return spec.NodeSpec(name=name, function=0)


def seq(*steps: spec.StepSpec) -> spec.SequenceSpec:
    return spec.SequenceSpec(name="sequence", steps=steps)


def par(*branches: spec.StepSpec) -> spec.ParallelSpec:
    return spec.ParallelSpec(name="parallel", branches=branches, keys=tuple(branch.name for branch in branches))


def each(body: spec.StepSpec) -> spec.MapSpec:
    return spec.MapSpec(name="each", body=body)


def choice(*steps: spec.StepSpec) -> spec.DecisionSpec:
    return spec.DecisionSpec(name="route", node=n("route"), keys=tuple(step.name for step in steps), steps=steps)


def block(path: Path, state: str, *, id: str = "", failed: int = 0, running: int = 1) -> BlockGlance:
    known = {"id": id} if id else {}
    return glances.block(path, state=state, n=2, failed=failed, running=running, **known)


def facts(
    run: str,
    *blocks: BlockGlance,
    branches: Sequence[str] = (),
    called: tuple[tuple[str, int], str] | None = None,
    untold: str = "",
    culprit: str = "",
) -> Facts:
    by_path: dict[Path, list[BlockGlance]] = {}
    for found in blocks:
        by_path.setdefault(found.path, []).append(found)
    return Facts(
        run=run,
        blocks=by_path,
        counts={path: len(found) for path, found in by_path.items()},
        open={path: sum(one.state == "open" for one in found) for path, found in by_path.items()},
        branches={(blocks[0].id, position): state for position, state in enumerate(branches)},
        called=dict([called] if called else ()),
        untold={untold},
        culprit=culprit,
    )


#: A workflow, what is known, and how some of its steps stand.
CASES: dict[str, tuple[spec.StepSpec, Facts, dict[Path, Standing]]] = {
    "pending": (seq(n("a"), n("b")), facts("pending"), {(): "waiting", (0,): "waiting", (1,): "waiting"}),
    "succeeded without blocks": (seq(n("a"), n("b")), facts("succeeded"), {(0,): "ok", (1,): "ok"}),
    "running before the first block": (
        seq(n("a"), n("b"), par(n("c"), n("d")), n("e")),
        facts("running"),
        {(0,): "running", (1,): "waiting", (2,): "waiting", (2, 0): "waiting", (3,): "waiting"},
    ),
    "in a block": (
        seq(n("a"), par(n("b"), n("c")), n("d")),
        facts("running", block((1,), "open"), branches=["ok", "running"]),
        {(0,): "ok", (1,): "running", (1, 0): "ok", (1, 1): "running", (2,): "waiting"},
    ),
    "behind a block": (
        seq(par(n("a"), n("b")), n("c"), par(n("d"), n("e")), n("f")),
        facts("running", block((0,), "ok"), branches=["ok", "ok"]),
        {(0,): "ok", (0, 1): "ok", (1,): "running", (2,): "waiting", (3,): "waiting"},
    ),
    "a failed branch": (
        seq(n("a"), par(n("b"), n("c"), n("d")), n("e")),
        facts("failed", block((1,), "error"), branches=["ok", "error", "stopped"], culprit="c"),
        {(0,): "ok", (1,): "failed", (1, 0): "ok", (1, 1): "failed", (1, 2): "cancelled", (2,): "waiting"},
    ),
    "a failed node behind a block": (
        seq(par(n("a"), n("b")), n("c"), n("d"), n("e")),
        facts("failed", block((0,), "ok"), branches=["ok", "ok"], culprit="d"),
        {(0,): "ok", (1,): "ok", (2,): "failed", (3,): "waiting"},
    ),
    "a failed node of a sequence in a branch": (
        par(seq(n("a"), n("b"), n("c")), n("d")),
        facts("failed", block((), "error", id="0.0-"), branches=["error", "ok"], culprit="b"),
        {(0, 0): "ok", (0, 1): "failed", (0, 2): "waiting", (1,): "ok"},
    ),
    "a timeout": (
        seq(par(n("a"), n("b")), n("c")),
        facts("failed", block((0,), "timeout"), branches=["ok", "stopped"]),
        {(0,): "timeout", (0, 0): "ok", (0, 1): "timeout", (1,): "waiting"},
    ),
    "cancelled": (
        seq(par(n("a"), n("b")), n("c")),
        facts("cancelled", block((0,), "cancelled"), branches=["ok", "stopped"]),
        {(0,): "cancelled", (0, 0): "ok", (0, 1): "cancelled", (1,): "waiting"},
    ),
    "paused": (
        seq(par(n("a"), n("b")), n("c")),
        facts("paused", block((0,), "open"), branches=["running", "waiting"]),
        {(): "paused", (0,): "paused", (0, 0): "paused", (0, 1): "waiting", (1,): "waiting"},
    ),
    "a map": (
        seq(each(n("a")), n("b")),
        facts("running", block((0,), "open")),
        {(0,): "running", (0, 0): "running", (1,): "waiting"},
    ),
    "a map of which some have failed": (
        seq(each(n("a")), n("b")),
        facts("running", block((0,), "open", failed=1)),
        {(0,): "running", (0, 0): "failed"},
    ),
    "a block in each branch of a map": (
        each(seq(n("a"), par(n("b"), n("c")), n("d"))),
        facts(
            "running",
            block((), "open", id="0.0-"),
            block((0, 1), "ok", id="0.0-.0-0,1"),
            block((0, 1), "open", id="0.0-.1-0,1"),
        ),
        {(0, 0): "running", (0, 1): "running", (0, 1, 0): "running", (0, 2): "running"},
    ),
    "a block inside a branch": (
        par(seq(n("a"), par(n("b"), n("c")), n("d")), n("e")),
        facts(
            "running", block((), "open", id="0.0-"), block((0, 1), "open", id="0.0-.0-0,1"), branches=["parked", "ok"]
        ),
        {(0, 0): "ok", (0, 1): "running", (0, 2): "waiting", (1,): "ok"},
    ),
    "a choice with a block in it": (
        seq(choice(n("a"), par(n("b"), n("c"))), n("d")),
        facts("running", block((0, 1), "open"), branches=["running", "waiting"]),
        {(0,): "ok", (0, 0): "skipped", (0, 1): "running", (0, 1, 0): "running", (1,): "waiting"},
    ),
    "a choice without one": (
        seq(choice(n("a"), n("b")), n("c")),
        facts("succeeded"),
        {(0,): "ok", (0, 0): "unknown", (0, 1): "unknown", (1,): "ok"},
    ),
    "a branch at the node that it has called last": (
        par(seq(n("a"), n("b"), n("c")), n("d")),
        facts("running", block((), "open"), branches=["running", "waiting"], called=(("0.0-", 0), "b")),
        {(0, 0): "ok", (0, 1): "running", (0, 2): "waiting", (1,): "waiting"},
    ),
    "a branch at a node, in a run that is paused": (
        par(seq(n("a"), n("b"), n("c")), n("d")),
        facts("paused", block((), "open"), branches=["running", "waiting"], called=(("0.0-", 0), "b")),
        {(0, 0): "ok", (0, 1): "paused", (0, 2): "waiting"},
    ),
    "a branch of which nothing was said yet": (
        par(seq(n("a"), n("b"), n("c")), n("d")),
        facts("running", block((), "open"), branches=["running", "running"]),
        {(0, 0): "running", (0, 1): "waiting", (0, 2): "waiting", (1,): "running"},
    ),
    "branches that one lane executes many at a time": (
        par(seq(n("a"), n("b"), par(n("c"), n("d")), n("e")), n("f")),
        facts("running", block((), "open"), branches=["running", "running"], untold="0.0-"),
        {(0, 0): "running", (0, 1): "unknown", (0, 2): "waiting", (0, 2, 0): "waiting", (0, 3): "waiting"},
    ),
    "a node that is in its sequence twice": (
        seq(n("a"), n("b"), n("c"), n("b"), n("d")),
        facts("running", called=(("0", 0), "b")),
        {(0,): "ok", (1,): "running", (2,): "unknown", (3,): "unknown", (4,): "waiting"},
    ),
    "behind a block, as was said before it": (
        seq(n("a"), par(n("b"), n("c")), n("d"), n("e")),
        facts("running", block((1,), "ok"), called=(("0", 0), "a")),
        {(0,): "ok", (1,): "ok", (2,): "running", (3,): "waiting"},
    ),
    "behind a block in an inner sequence": (
        seq(seq(par(n("a"), n("b")), n("c")), n("d")),
        facts("running", block((0, 0), "ok")),
        {(0,): "running", (0, 0): "ok", (0, 1): "running", (1,): "waiting"},
    ),
    "behind an inner sequence with a block": (
        seq(seq(par(n("a"), n("b")), n("c")), n("d")),
        facts("running", block((0, 0), "ok"), called=(("0", 0), "d")),
        {(0,): "ok", (0, 0): "ok", (0, 1): "ok", (1,): "running"},
    ),
    "a decision that is asked": (
        seq(n("a"), choice(n("b"), n("c")), n("d")),
        facts("running", called=(("0", 0), "route")),
        {(0,): "ok", (1,): "running", (1, 0): "waiting", (1, 1): "waiting", (2,): "waiting"},
    ),
    "a choice that is at a node": (
        seq(choice(n("a"), seq(n("b"), n("c"))), n("d")),
        facts("running", called=(("0", 0), "b")),
        {(0,): "ok", (0, 0): "skipped", (0, 1, 0): "running", (0, 1, 1): "waiting", (1,): "waiting"},
    ),
    "a choice of a branch among many": (
        choice(n("a"), n("b")),
        facts("running", untold="0"),
        {(): "running", (0,): "unknown", (1,): "unknown"},
    ),
    "a map that no branch has begun of": (
        seq(each(n("a")), n("b")),
        facts("running", block((0,), "open", running=0)),
        {(0,): "running", (0, 0): "waiting", (1,): "waiting"},
    ),
    "a map of which no branch has come to its block": (
        each(seq(n("a"), par(n("b"), n("c")), n("d"))),
        facts("running", block((), "open")),
        {(0, 0): "running", (0, 1): "waiting", (0, 2): "waiting"},
    ),
    "a map of which no branch is behind its block": (
        each(seq(n("a"), par(n("b"), n("c")), n("d"))),
        facts("running", block((), "open"), block((0, 1), "open", id="0.0-.0-0,1")),
        {(0, 0): "running", (0, 1): "running", (0, 2): "waiting"},
    ),
    "a node of another queue": (
        seq(n("a"), n("b"), n("c")),
        facts("running", block((1,), "open")),
        {(0,): "ok", (1,): "running", (2,): "waiting"},
    ),
    "blocks that are not kept any more": (par(n("a"), n("b")), facts("succeeded"), {(): "ok", (0,): "ok"}),
}


@pytest.mark.parametrize("case", CASES)
def test_standing(case: str) -> None:
    """What is done, what runs and what has not begun is told from the blocks, and within a branch from its worker."""
    root, known, expected = CASES[case]

    found = stand(root, known)

    assert {path: found[path] for path in expected} == expected


@pytest.mark.parametrize("case", CASES)
def test_every_step_has_a_standing(case: str) -> None:
    """Whatever is known, each step of the workflow stands somehow."""
    root, known, _ = CASES[case]

    def paths(step: spec.StepSpec, path: Path) -> list[Path]:
        inner: list[Any] = [paths(child, (*path, position)) for position, child in enumerate(spec.children(step))]
        return [path, *(found for group in inner for found in group)]

    assert set(stand(root, known)) == set(paths(root, ()))

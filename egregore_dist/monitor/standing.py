"""How far each step of a workflow is, told from the run's blocks alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.workflow import spec
from egregore_dist.workflow.spec import Path

#: "unknown": of a decision's choices without a block in them, the ledger does not tell which was taken.
Standing = Literal["waiting", "running", "paused", "ok", "failed", "timeout", "cancelled", "skipped", "unknown"]

_OF_RUN: Mapping[str, Standing] = {
    "pending": "waiting",
    "running": "running",
    "paused": "paused",
    "succeeded": "ok",
    "failed": "failed",
    "cancelled": "cancelled",
}
_OF_BLOCK: Mapping[str, Standing] = {
    "open": "running",
    "ok": "ok",
    "error": "failed",
    "timeout": "timeout",
    "cancelled": "cancelled",
}
_OF_BRANCH: Mapping[str, Standing] = {
    "waiting": "waiting",
    "running": "running",
    "parked": "running",
    "ok": "ok",
    "error": "failed",
    "stopped": "cancelled",
}
# Of several blocks at one place: the first that any of them has stands for all.
_WEIGHT: Sequence[Standing] = ("running", "paused", "failed", "timeout", "cancelled", "ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run.

    Attributes:
        run: the run's state.
        blocks: its blocks, by path; as many as were read.
        counts: how many there are, by path.
        open: how many of them are open, by path.
        branches: states of branches, by block and position: of blocks that are alone at their path.
        culprit: the name of the node that failed the run, or "".
    """

    run: str
    blocks: Mapping[Path, Sequence[BlockGlance]] = field(default_factory=dict)
    counts: Mapping[Path, int] = field(default_factory=dict)
    open: Mapping[Path, int] = field(default_factory=dict)
    branches: Mapping[tuple[str, int], str] = field(default_factory=dict)
    culprit: str = ""


def stand(root: spec.StepSpec, facts: Facts) -> dict[Path, Standing]:
    """How far every step is, by its path."""
    found: dict[Path, Standing] = {}
    _Teller(facts, found).tell(root, (), _OF_RUN.get(facts.run, "unknown"), alone=True)
    return found


class _Teller:
    def __init__(self, facts: Facts, found: dict[Path, Standing]) -> None:
        self._facts = facts
        self._found = found
        # Every path with a block at it or below it.
        self._met = {path[:length] for path in facts.counts for length in range(len(path) + 1)}

    def tell(self, step: spec.StepSpec, path: Path, given: Standing, *, alone: bool) -> None:
        """Tell of a step and of all in it.

        Args:
            given: how what is around it stands.
            alone: one execution is around it, and not those of many branches.
        """
        match step:
            case spec.NodeSpec():
                # A node of another queue is a block of its own.
                self._found[path] = self._of_blocks(path) or given
            case spec.SequenceSpec():
                self._found[path] = given
                self._sequence(step, path, given, alone)
            case spec.DecisionSpec():
                self._found[path] = given
                self._decision(step, path, given, alone)
            case spec.ParallelSpec() | spec.MapSpec():
                own = self._of_blocks(path) or (given if given in ("ok", "skipped", "unknown") else "waiting")
                self._found[path] = own
                self._block(step, path, own, alone)

    def _of_blocks(self, path: Path) -> Standing | None:
        if path not in self._facts.counts:
            return None
        if self._facts.open.get(path):
            return "paused" if self._facts.run == "paused" else "running"
        states = {_OF_BLOCK.get(block.state, "unknown") for block in self._facts.blocks.get(path, ())}
        return next((state for state in _WEIGHT if state in states), "unknown")

    def _block(self, step: spec.BlockSpec, path: Path, own: Standing, alone: bool) -> None:
        blocks = self._facts.blocks.get(path, ())
        single = blocks[0] if alone and len(blocks) == 1 else None
        if isinstance(step, spec.MapSpec):
            body: Standing = own
            if single is not None and single.state == "open" and single.failed:
                body = "failed"
            self.tell(step.body, (*path, 0), body, alone=False)
            return
        for position, branch in enumerate(step.branches):
            state = self._facts.branches.get((single.id, position)) if single is not None else None
            given = own if state is None else _OF_BRANCH.get(state, "unknown")
            if given == "running" and self._facts.run == "paused":
                given = "paused"
            if state == "stopped" and own == "timeout":
                given = "timeout"
            self.tell(branch, (*path, position), given, alone=alone)

    def _sequence(self, step: spec.SequenceSpec, path: Path, given: Standing, alone: bool) -> None:
        paths = [(*path, position) for position in range(len(step.steps))]
        states = [given] * len(paths)
        if alone and given not in ("ok", "waiting", "skipped", "unknown"):
            states = self._along(step.steps, paths, given)
        for inner, at, state in zip(step.steps, paths, states, strict=True):
            self.tell(inner, at, state, alone=alone)

    def _along(self, steps: Sequence[spec.StepSpec], paths: Sequence[Path], given: Standing) -> list[Standing]:
        """Steps before the last block that was met are done; those behind one that is not done have not begun."""
        reached = max((index for index, at in enumerate(paths) if at in self._met), default=-1)
        states: list[Standing] = ["ok"] * max(reached, 0)
        if reached >= 0:
            behind = [self._of_blocks(at) for at in self._met if at[: len(paths[reached])] == paths[reached]]
            inside = all(state in (None, "ok") for state in behind)
            # The step itself is told from its own blocks; this is for plain nodes inside it.
            states.append("ok" if inside else given)
            if not inside:
                return states + ["waiting"] * (len(steps) - len(states))
        begun = True
        for index in range(reached + 1, len(steps)):
            is_culprit = _name(steps[index]) == self._facts.culprit != ""
            culprit_comes = any(_name(later) == self._facts.culprit != "" for later in steps[index + 1 :])
            if not begun:
                states.append("waiting")
            elif given == "failed" and culprit_comes and not is_culprit:
                states.append("ok")
            else:
                states.append(given)
                begun = not is_culprit and isinstance(steps[index], spec.NodeSpec)
        return states

    def _decision(self, step: spec.DecisionSpec, path: Path, given: Standing, alone: bool) -> None:
        paths = [(*path, position) for position in range(len(step.steps))]
        taken = [at for at in paths if at in self._met]
        if taken and alone:
            self._found[path] = "ok"
        for inner, at in zip(step.steps, paths, strict=True):
            if given in ("waiting", "skipped"):
                state: Standing = given
            elif taken and alone:
                state = given if at in taken else "skipped"
            else:
                state = given if at in taken else "unknown"
            self.tell(inner, at, state, alone=alone)


def _name(step: spec.StepSpec) -> str:
    return step.name if isinstance(step, spec.NodeSpec) else ""

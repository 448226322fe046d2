"""How far each step of a workflow is, told from the run's blocks and from what workers say of its branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.ledger.keys import ROOT
from egregore_dist.workflow import spec
from egregore_dist.workflow.spec import Path

#: "unknown": begun or not. Of steps without a block in them the ledger does not tell which were taken, nor does a lane
#: that executes many branches at a time.
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
_GOES_ON: Set[Standing] = frozenset({"running", "paused"})
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
        called: the node that a branch has called last, by block and position, where its worker has said it.
        untold: the blocks with a lane that does not say which branch it is at.
        culprit: the name of the node that failed the run, or "".
    """

    run: str
    blocks: Mapping[Path, Sequence[BlockGlance]] = field(default_factory=dict)
    counts: Mapping[Path, int] = field(default_factory=dict)
    open: Mapping[Path, int] = field(default_factory=dict)
    branches: Mapping[tuple[str, int], str] = field(default_factory=dict)
    called: Mapping[tuple[str, int], str] = field(default_factory=dict)
    untold: Set[str] = frozenset()
    culprit: str = ""


def stand(root: spec.StepSpec, facts: Facts) -> dict[Path, Standing]:
    """How far every step is, by its path."""
    found: dict[Path, Standing] = {}
    _Teller(facts, found).tell(root, (), _OF_RUN.get(facts.run, "unknown"), (ROOT, 0))
    return found


class _Teller:
    def __init__(self, facts: Facts, found: dict[Path, Standing]) -> None:
        self._facts = facts
        self._found = found
        # Every path with a block at it or below it.
        self._met = {path[:length] for path in facts.counts for length in range(len(path) + 1)}

    def tell(self, step: spec.StepSpec, path: Path, given: Standing, within: tuple[str, int] | None) -> None:
        """Tell of a step and of all in it.

        Args:
            given: how what is around it stands.
            within: the branch whose execution is around it, by block and position; None for those of many.
        """
        match step:
            case spec.NodeSpec():
                # A node of another queue is a block of its own.
                self._found[path] = self._of_blocks(path) or given
            case spec.SequenceSpec():
                self._found[path] = given
                self._sequence(step, path, given, within)
            case spec.DecisionSpec():
                self._found[path] = given
                self._decision(step, path, given, within)
            case spec.ParallelSpec() | spec.MapSpec():
                own = self._of_blocks(path) or (given if given in ("ok", "skipped", "unknown") else "waiting")
                self._found[path] = own
                self._block(step, path, own, within)

    def _of_blocks(self, path: Path) -> Standing | None:
        if path not in self._facts.counts:
            return None
        if self._facts.open.get(path):
            return "paused" if self._facts.run == "paused" else "running"
        states = {_OF_BLOCK.get(block.state, "unknown") for block in self._facts.blocks.get(path, ())}
        return next((state for state in _WEIGHT if state in states), "unknown")

    def _block(self, step: spec.BlockSpec, path: Path, own: Standing, within: tuple[str, int] | None) -> None:
        blocks = self._facts.blocks.get(path, ())
        single = blocks[0] if within is not None and len(blocks) == 1 else None
        inside: Standing = "waiting" if own in _GOES_ON and not self._has_begun(path) else own
        if isinstance(step, spec.MapSpec):
            if single is not None and single.state == "open" and single.failed:
                inside = "failed"
            self.tell(step.body, (*path, 0), inside, None)
            return
        for position, branch in enumerate(step.branches):
            state = self._facts.branches.get((single.id, position)) if single is not None else None
            given = inside if state is None else _OF_BRANCH.get(state, "unknown")
            if given == "running" and self._facts.run == "paused":
                given = "paused"
            if state == "stopped" and own == "timeout":
                given = "timeout"
            self.tell(branch, (*path, position), given, None if single is None else (single.id, position))

    def _has_begun(self, path: Path) -> bool:
        """Whether a branch may have begun of the blocks at a path."""
        blocks = self._facts.blocks.get(path, ())
        is_seen = len(blocks) == self._facts.counts.get(path, 0)
        return not is_seen or any(block.running or block.done or block.failed for block in blocks)

    def _sequence(self, step: spec.SequenceSpec, path: Path, given: Standing, within: tuple[str, int] | None) -> None:
        paths = [(*path, position) for position in range(len(step.steps))]
        states = [given] * len(paths)
        if within is not None and given not in ("ok", "waiting", "skipped", "unknown"):
            states = self._along(step.steps, paths, given, within)
        elif given in _GOES_ON:
            reached = self._reached(step.steps, paths)
            states[reached + 1 :] = ["waiting"] * (len(states) - reached - 1)
        for inner, at, state in zip(step.steps, paths, states, strict=True):
            self.tell(inner, at, state, within)

    def _reached(self, steps: Sequence[spec.StepSpec], paths: Sequence[Path]) -> int:
        """The last of these steps that an execution may have come to."""
        pairs = enumerate(zip(steps, paths, strict=True))
        return next((index for index, (step, at) in pairs if not self._may_be_over(step, at)), len(steps) - 1)

    def _may_be_over(self, step: spec.StepSpec, path: Path) -> bool:
        """Whether an execution may have this step behind it: a block that it needs leaves a trace."""
        match step:
            case spec.SequenceSpec():
                return all(self._may_be_over(inner, (*path, at)) for at, inner in enumerate(step.steps))
            case spec.DecisionSpec():
                return any(self._may_be_over(inner, (*path, at)) for at, inner in enumerate(step.steps))
            case _ if path in self._facts.counts:
                blocks = self._facts.blocks.get(path, ())
                return len(blocks) < self._facts.counts[path] or any(block.state == "ok" for block in blocks)
            case _:
                return isinstance(step, spec.NodeSpec)

    def _along(
        self, steps: Sequence[spec.StepSpec], paths: Sequence[Path], given: Standing, within: tuple[str, int]
    ) -> list[Standing]:
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
        if given in _GOES_ON:
            if reached >= 0 and not self._is_over(steps[reached], paths[reached]):
                states.pop()
            left = len(states)
            return states + self._onward(steps[left:], paths[left:], given, within)
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

    def _is_over(self, step: spec.StepSpec, path: Path) -> bool:
        """Whether nothing is left behind the last block that was met in a step, where all of them have ended well."""
        match step:
            case spec.SequenceSpec():
                last = len(step.steps) - 1
                return (*path, last) in self._met and self._is_over(step.steps[last], (*path, last))
            case spec.DecisionSpec():
                taken = [at for at in range(len(step.steps)) if (*path, at) in self._met]
                return all(self._is_over(step.steps[at], (*path, at)) for at in taken)
            case _:
                return True

    def _onward(
        self, steps: Sequence[spec.StepSpec], paths: Sequence[Path], given: Standing, within: tuple[str, int]
    ) -> list[Standing]:
        """What is left of a sequence in a branch that goes on: one of these steps is the one that it is at."""
        if not steps:
            return []
        called = self._facts.called.get(within)
        at = [index for index, step in enumerate(steps) if called in _calls(step)]
        if not at and within[0] in self._facts.untold:
            at = [0, self._reached(steps, paths)]
        # A branch of which nothing was said yet has only just begun, or come back from its block.
        first, last = (at[0], at[-1]) if at else (0, 0)
        between: list[Standing] = [
            "waiting" if isinstance(step, spec.ParallelSpec | spec.MapSpec) else "unknown"
            for step in steps[first + 1 : last + 1]
        ]
        done: list[Standing] = ["ok"] * first
        after: list[Standing] = ["waiting"] * (len(steps) - last - 1)
        return [*done, given, *between, *after]

    def _decision(self, step: spec.DecisionSpec, path: Path, given: Standing, within: tuple[str, int] | None) -> None:
        paths = [(*path, position) for position in range(len(step.steps))]
        taken = [at for at in paths if at in self._met]
        other: Standing = "skipped"
        if within is not None and not taken and given in _GOES_ON:
            called = self._facts.called.get(within)
            taken = [at for inner, at in zip(step.steps, paths, strict=True) if called in _calls(inner)]
            if len(taken) > 1 or (not taken and called != step.node.name and within[0] in self._facts.untold):
                taken, other = [], "unknown"
            elif not taken:
                other = "waiting"
        elif within is None or not taken:
            other = "unknown"
        if taken and within is not None:
            self._found[path] = "ok"
        for inner, at in zip(step.steps, paths, strict=True):
            state = given if given in ("waiting", "skipped") or at in taken else other
            self.tell(inner, at, state, within)


def _calls(step: spec.StepSpec) -> Set[str]:
    """The names of what an execution itself calls in a step: what is in its blocks others do."""
    match step:
        case spec.NodeSpec():
            return {step.name}
        case spec.SequenceSpec():
            return {name for inner in step.steps for name in _calls(inner)}
        case spec.DecisionSpec():
            return {step.node.name, *(name for inner in step.steps for name in _calls(inner))}
        case _:
            return frozenset()


def _name(step: spec.StepSpec) -> str:
    return step.name if isinstance(step, spec.NodeSpec) else ""

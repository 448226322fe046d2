"""Sequences: steps one after the other."""

from __future__ import annotations

from typing import ClassVar

from egregore_dist import errors
from egregore_dist.workflow import names
from egregore_dist.workflow.step import Flow, Step, as_step, check_nesting, listed


class Sequence(Flow):
    """Steps one after the other, each fed with the value of the one before.

    Args:
        steps: at least one step.
        name: the name of its result; by default that of its last step's result.

    Raises:
        WorkflowError: there is no step, something is not a step, or it nests too deeply.

    Attributes:
        steps: the steps, in order.
    """

    kind: ClassVar[str] = "sequence"
    steps: tuple[Step, ...]

    def __init__(self, *steps: Step, name: str | None = None) -> None:
        checked_name = names.optional(name, "Sequence")
        where = "Sequence" if name is None else f"Sequence {name!r}"
        if not steps:
            raise errors.WorkflowError(f"{where} has no steps: give at least one")
        placed = tuple(as_step(step, f"{where}, step {position}") for position, step in enumerate(steps))
        # A sequence inside a block is just that block's branch; only one directly inside another is a level.
        nesting = max(step.nesting + isinstance(step, Sequence) for step in placed)
        self._init(name=checked_name, steps=placed, _nesting=nesting)
        check_nesting(self)

    @property
    def nesting(self) -> int:
        level: int = vars(self)["_nesting"]
        return level

    @property
    def own_name(self) -> str | None:
        return self.name or self.steps[-1].own_name

    def result_name(self, position: int) -> str:
        return self.name or self.steps[-1].result_name(position)

    def __repr__(self) -> str:
        named = "" if self.name is None else f", name={self.name!r}"
        return f"Sequence({listed(self.steps)}{named})"


def chain(left: object, right: object) -> Sequence:
    """The sequence that ``left >> right`` stands for; unnamed sequences melt into it."""
    first = as_step(left, "the left side of >>")
    second = as_step(right, "the right side of >>")
    return Sequence(*_unrolled(first), *_unrolled(second))


def _unrolled(step: Step) -> tuple[Step, ...]:
    return step.steps if isinstance(step, Sequence) and step.name is None else (step,)

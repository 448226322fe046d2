"""Steps: whatever can stand in a workflow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as AbstractSequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from egregore_dist import errors
from egregore_dist.workflow import launcher, names

if TYPE_CHECKING:
    from egregore_dist.client.run import Run
    from egregore_dist.workflow.parallel import Map
    from egregore_dist.workflow.sequence import Sequence
    from egregore_dist.workflow.spec import OnError

MAX_NESTING = 16

_SHOWN = 6


class Step(ABC):
    """A part of a workflow, or a whole one: a node, Sequence, parallel, map or decision.

    Steps never change, so one step can stand in many workflows; methods that seem to change one return a copy.

    Attributes:
        kind: the word for it: ``"node"``, ``"sequence"``, ``"parallel"``, ``"map"`` or ``"decision"``.
        name: the name it was given, or None.
    """

    kind: ClassVar[str]
    name: str | None

    @property
    def own_name(self) -> str | None:
        """The name of its result wherever it stands, or None where that comes from its place."""
        return self.name

    def result_name(self, position: int) -> str:
        """The name of its result where it is the branch at ``position`` of a block."""
        return self.own_name or f"{self.kind}_{position}"

    @property
    @abstractmethod
    def nesting(self) -> int:
        """How many levels of blocks, decisions and sequences in sequences it has."""

    def placed(self) -> Step:
        """What stands in a workflow for this step: itself, except for a decision whose choices are still open."""
        return self

    def __rshift__(self, following: Step) -> Sequence:
        """``a >> b``: a `Sequence` that feeds ``b`` with the value of ``a``."""
        # A Sequence is a Step, so its module imports this one.
        from egregore_dist.workflow.sequence import chain

        return chain(self, following)

    def __rrshift__(self, preceding: object) -> Sequence:
        from egregore_dist.workflow.sequence import chain

        return chain(preceding, self)

    def alias(self, name: str) -> Self:
        """A copy of this step whose result has another name.

        Raises:
            WorkflowError: ``name`` is not a valid name.
        """
        return self._changed(name=names.checked(name, f"step (an alias of {label(self)})"))

    def map(
        self,
        *,
        max_concurrent: int | None = None,
        timeout: float | None = None,
        optimization_enabled: bool = True,
        on_error: OnError = "cancel",
        name: str | None = None,
    ) -> Map:
        """A step that runs this one for each item of the incoming list or mapping.

        Its value is a list in the order of the items, or a mapping with the same keys.

        Args:
            max_concurrent: how many items run at a time, over the whole cluster; None for no limit.
            timeout: seconds for the whole map; None for no limit.
            optimization_enabled: let the cluster's resources decide how many run at a time.
            on_error: ``"cancel"`` ends the map at the first failure, ``"collect"`` makes `BranchError` values of them.
            name: the name of its result; by default that of this step's result.

        Raises:
            WorkflowError: a limit or the name is not valid.
        """
        from egregore_dist.workflow.parallel import Map

        return Map(
            self,
            max_concurrent=max_concurrent,
            timeout=timeout,
            optimization_enabled=optimization_enabled,
            on_error=on_error,
            name=name,
        )

    def run(self, data: Any = None, *, progress: bool | None = None) -> Any:
        """Run this step on the cluster, wait for it, and return its value.

        Args:
            data: the input.
            progress: show a progress bar; None for only on a terminal.

        Raises:
            RunFailed: the run ended without a value.
        """
        return launcher.current().run(self, data, progress)

    def submit(self, data: Any = None, *, id: str | None = None) -> Run:
        """Start a run of this step on the cluster and return its handle at once.

        Args:
            data: the input.
            id: the id of the run, by default a new one. If a run of this workflow's name and of an equal input has the
                id, its handle is returned, and nothing new is started. Fields that have their default are not compared.

        Raises:
            RunExists: the id belongs to a run of another workflow name, or of another input.
        """
        return launcher.current().submit(self, data, id)

    def submit_on_commit(self, data: Any = None, *, using: str | None = None, id: str | None = None) -> str:
        """Start a run of this step when Django's current database transaction commits, and not if it is rolled back.

        Outside of a transaction the run starts at once. The input is taken as it is now.

        Args:
            data: the input.
            using: the alias of the database; by default Django's default one.
            id: the id of the run, as of `submit`; by default a new one.

        Returns:
            The id that the run will have.

        Raises:
            ConfigurationError: Django is not installed, or has no settings.
            BindingError: the input does not fit the first nodes.
            EncodingError: the input cannot travel.
        """
        return launcher.current().submit_on_commit(self, data, id, using)

    async def arun(self, data: Any = None) -> Any:
        """Run this step on the cluster without blocking the event loop, and return its value."""
        return await launcher.current().arun(self, data)

    def _init(self, **fields: object) -> None:
        """Set fields while the step is being made: the only way in."""
        vars(self).update(fields)

    def _changed(self, **fields: object) -> Self:
        copy = object.__new__(type(self))
        vars(copy).update(self.__getstate__(), **fields)
        return copy

    def __getstate__(self) -> dict[str, object]:
        # What `describe` remembers belongs to this object only.
        return {key: value for key, value in vars(self).items() if key not in ("_described", "_result_type")}

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{label(self)} cannot change: steps are immutable (to rename one, use .alias('...'))")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{label(self)} cannot change: steps are immutable")


class Flow(Step):
    """A step made of steps; calling it runs it on the cluster."""

    def __call__(self, data: Any = None) -> Any:
        """Run on the cluster, wait for it, and return the value.

        Raises:
            RunFailed: the run ended without a value.
        """
        return self.run(data)


def label(step: Step) -> str:
    """A step in an error message: its kind and its name."""
    return f"unnamed {step.kind}" if step.name is None else f"{step.kind} {step.name!r}"


def as_step(value: object, where: str) -> Step:
    """Return what stands in a workflow for ``value``.

    Args:
        value: what the user gave.
        where: its place, for the error, such as ``"parallel, branch 2"``.

    Raises:
        WorkflowError: it is not a step; the message says how to make one of it.
    """
    if isinstance(value, Step):
        return value.placed()
    if isinstance(value, list | tuple):
        raise errors.WorkflowError(
            f"{where} is a {type(value).__name__}: spread it with a star, as in parallel(*tasks) or Sequence(*steps)"
        )
    if isinstance(value, type):
        raise errors.WorkflowError(f"{where} is the class {value.__name__}: give a node, made of a function")
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        wrapped = "node('a_name')(...)" if name == "<lambda>" else f"node({name!r})({name})"
        raise errors.WorkflowError(f"{where} is the plain function {name}, not a step; wrap it: {wrapped}")
    raise errors.WorkflowError(
        f"{where} is not a step but {names.shortened(value)} ({type(value).__name__}): "
        "give a node, Sequence, parallel, map or decision itself, without calling it"
    )


def check_nesting(step: Step) -> None:
    """Refuse what is nested too deeply to be run safely."""
    if step.nesting > MAX_NESTING:
        raise errors.WorkflowError(
            f"{label(step)} nests {step.nesting} levels deep; at most {MAX_NESTING} are allowed: "
            "run the inner part as a workflow of its own"
        )


def listed(steps: AbstractSequence[Step]) -> str:
    """Steps in a repr: the first few."""
    shown = [repr(step) for step in steps[:_SHOWN]]
    if len(steps) > _SHOWN:
        shown.append(f"… {len(steps) - _SHOWN} more")
    return ", ".join(shown)

"""Blocks: parallel, where the workflow names the branches, and map, where the data does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, get_args

import msgspec

from egregore_dist import errors
from egregore_dist.workflow import checks, launcher, names
from egregore_dist.workflow.spec import OnError
from egregore_dist.workflow.step import Flow, Step, as_step, check_nesting, label, listed

if TYPE_CHECKING:
    from egregore_dist.client.plans import BlockPlan

MAX_BRANCHES = 100_000


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a block may run.

    Attributes:
        max_concurrent: how many branches run at a time, or None for no limit.
        timeout: seconds for the whole block, or None.
        optimize: whether the cluster's resources decide how many run at a time.
        on_error: whether a failing branch ends the block or becomes a value of it.
    """

    max_concurrent: int | None = None
    timeout: float | None = None
    optimize: bool = True
    on_error: OnError = "cancel"

    @classmethod
    def checked(
        cls, where: str, *, max_concurrent: object, timeout: object, optimization_enabled: object, on_error: Any
    ) -> Limits:
        """Make limits of what the user gave.

        Raises:
            WorkflowError: one of them is not valid; the message names ``where``.
        """
        if not isinstance(optimization_enabled, bool):
            given = names.shortened(optimization_enabled)
            raise errors.WorkflowError(f"{where}: optimization_enabled must be True or False, not {given}")
        if on_error not in get_args(OnError):
            given = names.shortened(on_error)
            raise errors.WorkflowError(f"{where}: on_error must be 'cancel' or 'collect', not {given}")
        if max_concurrent is not None:
            max_concurrent = checks.whole_number(max_concurrent, f"{where}: max_concurrent", least=1)
        if timeout is not None:
            timeout = checks.seconds(timeout, f"{where}: timeout")
        return cls(max_concurrent=max_concurrent, timeout=timeout, optimize=optimization_enabled, on_error=on_error)


class Parallel(Flow):
    """Branches that run at once on one input; its value is a dict of their results by name. Made by `parallel`.

    Attributes:
        branches: the branches, in order.
        keys: the names of their results, in the same order.
        limits: how it may run.
    """

    kind: ClassVar[str] = "parallel"
    branches: tuple[Step, ...]
    keys: tuple[str, ...]
    limits: Limits

    def __init__(
        self,
        *branches: Step,
        max_concurrent: int | None = None,
        timeout: float | None = None,
        optimization_enabled: bool = True,
        on_error: OnError = "cancel",
        name: str | None = None,
    ) -> None:
        checked_name = names.optional(name, "parallel")
        where = "parallel" if name is None else f"parallel {name!r}"
        limits = Limits.checked(
            where,
            max_concurrent=max_concurrent,
            timeout=timeout,
            optimization_enabled=optimization_enabled,
            on_error=on_error,
        )
        if len(branches) > MAX_BRANCHES:
            raise errors.WorkflowError(
                f"{where} has {len(branches)} branches; at most {MAX_BRANCHES} are allowed: use step.map() on a list"
            )
        placed = tuple(as_step(branch, f"{where}, branch {position}") for position, branch in enumerate(branches))
        self._init(
            name=checked_name,
            branches=placed,
            keys=_keys(placed, where),
            limits=limits,
            _nesting=1 + max((branch.nesting for branch in placed), default=0),
        )
        check_nesting(self)

    @property
    def nesting(self) -> int:
        level: int = vars(self)["_nesting"]
        return level

    def plan(self) -> BlockPlan:
        """How the cluster would serve this block now, with every number that decided on it; nothing is run.

        Raises:
            WorkflowError: a node needs more than the largest worker has.
        """
        return launcher.current().plan(self, 1)

    def __repr__(self) -> str:
        return f"parallel({', '.join(filter(None, [listed(self.branches), _options(self.limits, self.name)]))})"


class Map(Flow):
    """One branch per item of the incoming list or mapping. Made by ``step.map()``.

    Attributes:
        body: the step that each item goes through.
        limits: how it may run.
    """

    kind: ClassVar[str] = "map"
    body: Step
    limits: Limits

    def __init__(
        self,
        body: Step,
        *,
        max_concurrent: int | None = None,
        timeout: float | None = None,
        optimization_enabled: bool = True,
        on_error: OnError = "cancel",
        name: str | None = None,
    ) -> None:
        checked_name = names.optional(name, "map")
        where = "map" if name is None else f"map {name!r}"
        placed = as_step(body, f"the body of {where}")
        limits = Limits.checked(
            f"{where} of {label(placed)}",
            max_concurrent=max_concurrent,
            timeout=timeout,
            optimization_enabled=optimization_enabled,
            on_error=on_error,
        )
        self._init(name=checked_name, body=placed, limits=limits)
        check_nesting(self)

    @property
    def nesting(self) -> int:
        return 1 + self.body.nesting

    @property
    def own_name(self) -> str | None:
        return self.name or self.body.own_name

    def plan(self, items: int = 1000) -> BlockPlan:
        """How the cluster would serve this map now, with every number that decided on it; nothing is run.

        Args:
            items: how many items it is assumed to get.

        Raises:
            WorkflowError: a node needs more than the largest worker has, or ``items`` is not a number from 1 on.
        """
        return launcher.current().plan(self, checks.whole_number(items, f"{label(self)}: items", least=1))

    def __repr__(self) -> str:
        return f"{self.body!r}.map({_options(self.limits, self.name)})"


def parallel(
    *branches: Step,
    max_concurrent: int | None = None,
    timeout: float | None = None,
    optimization_enabled: bool = True,
    on_error: OnError = "cancel",
    name: str | None = None,
) -> Parallel:
    """Run branches at once, each on the same input; the value is a dict of their results by name.

    Args:
        branches: steps; each is named by the last node in it, or by its own name.
        max_concurrent: how many branches run at a time, over the whole cluster; None for no limit.
        timeout: seconds for the whole block; None for no limit.
        optimization_enabled: let the cluster's resources decide how many run at a time.
        on_error: ``"cancel"`` ends the block at the first failure, ``"collect"`` makes `BranchError` values of them.
        name: the name of its result; by default ``parallel_<position>`` where it is nested.

    Raises:
        WorkflowError: two branches have one name, something is not a step, or a limit is not valid.
    """
    return Parallel(
        *branches,
        max_concurrent=max_concurrent,
        timeout=timeout,
        optimization_enabled=optimization_enabled,
        on_error=on_error,
        name=name,
    )


def _keys(branches: tuple[Step, ...], where: str) -> tuple[str, ...]:
    places: dict[str, int] = {}
    for position, branch in enumerate(branches):
        key = branch.result_name(position)
        first = places.setdefault(key, position)
        if first != position:
            raise errors.WorkflowError(
                f"{where}: branch {first} ({label(branches[first])}) and branch {position} ({label(branch)}) "
                f"would both be named {key!r} in the result; rename one, for example with .alias('{key[:120]}2')"
            )
    return tuple(places)


def _options(limits: Limits, name: str | None) -> str:
    given = {
        "max_concurrent": limits.max_concurrent,
        "timeout": limits.timeout,
        "optimization_enabled": None if limits.optimize else False,
        "on_error": None if limits.on_error == "cancel" else limits.on_error,
        "name": name,
    }
    return ", ".join(f"{key}={value!r}" for key, value in given.items() if value is not None)

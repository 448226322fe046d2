"""Nodes: functions with a name and options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Generic, ParamSpec, Protocol, Self, TypeVar, overload

import msgspec

from egregore_dist import errors
from egregore_dist.workflow import checks, functions, limits, names, resolvable
from egregore_dist.workflow import labels as node_labels
from egregore_dist.workflow.limits import Limit
from egregore_dist.workflow.step import Step, label

P = ParamSpec("P")
R = TypeVar("R")

_UNITS = {"": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate(["", "K", "M", "G", "T"])}
_UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate(["K", "M", "G", "T"], start=1)}
_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a node asks of the cluster.

    Attributes:
        retries: how often it is tried again after a failure.
        retry_on: the names of the exception classes that it is tried again after, or None for every ``Exception``.
        retry_delay: seconds before the first of these attempts; doubled for each further one.
        timeout: seconds for one attempt, or None.
        memory: bytes that it needs, or None for what is learned.
        cpus: cores that it needs, or None for one.
        gpus: GPUs that it needs, or None for none.
        labels: that a worker must have to run it, each as ``key=value``, sorted.
        queue: the Celery queue whose workers run it; None for where its branch runs, first of all the default queue.
        io: whether a sync function may run on threads, beside other branches of its process.
        limit: how many of it there may be over all runs and workers, or None.
    """

    retries: int = 0
    retry_on: tuple[str, ...] | None = None
    retry_delay: float = 0.1
    timeout: float | None = None
    memory: int | None = None
    cpus: float | None = None
    gpus: int | None = None
    labels: tuple[str, ...] = ()
    queue: str | None = None
    io: bool = False
    limit: limits.Named | None = None


class Node(Step, Generic[P, R]):
    """A user's function with a name and options; calling it runs the plain function, here.

    Attributes:
        fn: the function.
        name: its name in results, errors and logs.
        options: what it asks of the cluster.
        is_async: whether it is an ``async def``.
    """

    kind: ClassVar[str] = "node"
    name: str
    fn: Callable[P, R]
    options: Options
    is_async: bool

    def __init__(self, fn: Callable[P, R], name: str | None = None, options: Options | None = None) -> None:
        function = functions.checked(fn, "node", name)
        self._init(**functions.wrapper_attributes(function, type(self)))
        self._init(
            fn=function,
            name=functions.own_name(function, "node") if name is None else names.checked(name, "node"),
            options=options or Options(),
            is_async=functions.is_async(function),
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function, in this process."""
        return self.fn(*args, **kwargs)

    def placed(self) -> Self:
        """This node, if its annotations can be resolved, now or when its module has been executed."""
        resolvable.check(self.fn, label(self), final=False)
        return self

    @property
    def nesting(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"node({self.name!r})"

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        # A node that its module holds travels as a reference, like a function. Its parts would copy the function
        # instead: pickle looks for the function under its name, and finds the node there.
        return functions.global_name(self) or super().__reduce_ex__(protocol)


class NodeDecorator(Protocol):
    """Makes nodes of functions."""

    def __call__(self, function: Callable[P, R], /) -> Node[P, R]:
        """Make a node of ``function``."""


@overload
def node(name: Callable[P, R], /) -> Node[P, R]: ...


@overload
def node(
    name: str | None = None,
    *,
    retries: int | None = None,
    retry_on: type[Exception] | tuple[type[Exception], ...] | None = None,
    retry_delay: float = 0.1,
    timeout: float | None = None,
    memory: int | str | None = None,
    cpus: float | None = None,
    gpus: int | None = None,
    labels: Mapping[str, str] | None = None,
    queue: str | None = None,
    io: bool = False,
    limit: Limit | None = None,
) -> NodeDecorator: ...


def node(
    name: Any = None,
    *,
    retries: int | None = None,
    retry_on: type[Exception] | tuple[type[Exception], ...] | None = None,
    retry_delay: float = 0.1,
    timeout: float | None = None,
    memory: int | str | None = None,
    cpus: float | None = None,
    gpus: int | None = None,
    labels: Mapping[str, str] | None = None,
    queue: str | None = None,
    io: bool = False,
    limit: Limit | None = None,
) -> Any:
    """Make a node of a function: ``@node``, ``@node("name", ...)`` or ``node("name")(function)``.

    Args:
        name: the name of the node; by default that of the function.
        retries: how often it is tried again after a failure; absent, not at all.
        retry_on: the exception class, or a tuple of classes, that it is tried again after; absent, every ``Exception``.
            It needs ``retries``, which may be 0. They travel by name, and a subclass counts. Data that does not fit,
            values that cannot travel and code that cannot be loaded are never tried again.
        retry_delay: seconds before the first of these attempts; doubled for each further one up to a hundredfold, and
            with as much again at random, so that many nodes do not try at the same moment.
        timeout: seconds for one attempt; one that takes longer has failed with ``TimeoutError``.
        memory: what it needs, in bytes or as a string such as ``"2GB"`` or ``"512MiB"``.
        cpus: how many cores it needs.
        gpus: how many GPUs it needs; it runs only on workers whose machines have so many.
        labels: what a worker must say of itself to run it: ``labels={"zone": "eu"}``, of a worker that was started with
            ``--label zone=eu``.
        queue: the Celery queue whose workers run it; absent, it runs where its branch does.
        io: of a sync function that mostly waits (for the network, a disk): True runs many branches of it at once, on
            threads of one process, so it must be thread-safe. By default each branch has its process for itself.
        limit: how many of it may run at a time, or start in a time, over all runs and workers of the cluster:
            ``Limit(concurrent=5, per="20/s")``. Aliases of the node share it.

    Raises:
        WorkflowError: the name, an option or the function is not valid.
    """
    if name is not None and not isinstance(name, str):
        if not callable(name):
            raise errors.WorkflowError(
                f"node() takes a name or a function, not {names.shortened(name)}: @node('a_name') or @node"
            )
        return Node(name)
    if name is not None:
        names.checked(name, "node")

    def checked(where: str) -> Options:
        if retry_on is not None and retries is None:
            raise errors.WorkflowError(
                f"{where}: retry_on does nothing without retries: give retries=3 too, or leave it out"
            )
        return Options(
            retries=0 if retries is None else checks.whole_number(retries, f"{where}: retries", least=0),
            retry_on=None if retry_on is None else _class_names(retry_on, f"{where}: retry_on"),
            retry_delay=checks.seconds(retry_delay, f"{where}: retry_delay"),
            timeout=None if timeout is None else checks.seconds(timeout, f"{where}: timeout"),
            memory=None if memory is None else _bytes(memory, f"{where}: memory"),
            cpus=None if cpus is None else checks.positive_number(cpus, f"{where}: cpus"),
            gpus=None if gpus is None else checks.whole_number(gpus, f"{where}: gpus", least=1),
            labels=() if labels is None else node_labels.of_node(labels, f"{where}: labels"),
            queue=names.optional(queue, f"queue ({where})"),
            io=checks.boolean(io, f"{where}: io"),
        )

    of_name = None if name is None else checked(f"node {name!r}")

    def decorate(function: Callable[P, R], /) -> Node[P, R]:
        options = of_name or checked(f"node {getattr(function, '__name__', '')!r}")
        made = Node(function, name, options)
        if limit is None:
            return made
        own = limits.named(limit, made.fn, made.name)
        return Node(function, name, msgspec.structs.replace(options, limit=own))

    return decorate


def _class_names(classes: object, where: str) -> tuple[str, ...]:
    given = classes if isinstance(classes, tuple) else (classes,)
    for kind in given:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise errors.WorkflowError(
                f"{where} takes an exception class or a tuple of them, not {names.shortened(kind)}: "
                "retry_on=(ConnectionError, TimeoutError)"
            )
    if not given:
        raise errors.WorkflowError(f"{where} is empty: leave it out, or give retries=0")
    return tuple(names.of_class(kind) for kind in given)


def _bytes(memory: object, where: str) -> int:
    if not isinstance(memory, str):
        return checks.whole_number(memory, f"{where} (bytes)", least=1)
    match = _MEMORY.fullmatch(memory)
    unit = _UNITS.get(match[2].upper()) if match else None
    amount = int(Decimal(match[1]) * unit) if match and unit else 0
    if not 1 <= amount <= checks.LARGEST:
        raise errors.WorkflowError(
            f"{where}: {names.shortened(memory)} is no amount of memory; write '2GB' or '512MiB'"
        )
    return amount

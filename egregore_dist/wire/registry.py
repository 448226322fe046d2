"""The nodes and decisions that a worker serves, as the modules that it was told to load hold them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType, ModuleType
from typing import Any

from egregore_dist.wire import code
from egregore_dist.workflow.decision import Decision
from egregore_dist.workflow.nodes import Node
from egregore_dist.workflow.parallel import Map, Parallel
from egregore_dist.workflow.sequence import Sequence
from egregore_dist.workflow.step import Step

Callee = Node[..., Any] | Decision[..., Any]


class NodeRegistry:
    """The nodes and decisions of some modules: a table that is made once and never changes.

    The nodes of a module are the steps among its attributes and among the attributes of its own classes, and the nodes
    inside of these steps. It does not matter where a function was written: an imported node is the module's node too.
    A listed package has the nodes of those of its submodules that are imported when the registry is made.

    Args:
        modules: names of modules; each is imported.

    Attributes:
        steps: the nodes and decisions, in the order of the modules and in each in the order of its attributes.
        functions: their functions, by the reference that clients send. Functions that cannot be imported have none.

    Raises:
        CodeError: a module cannot be imported.
    """

    __slots__ = ("functions", "steps")

    def __init__(self, modules: Iterable[str]) -> None:
        listed = tuple(modules)
        load(listed)
        steps: dict[int, Callee] = {}
        functions: dict[str, Callable[..., Any]] = {}
        for module in _loaded(listed):
            for step in _steps(module):
                for callee in _callees(step):
                    if id(callee) in steps:
                        continue
                    steps[id(callee)] = callee
                    ref = code.reference(callee.fn)
                    if ref is not None:
                        functions[ref] = callee.fn
        self.steps: tuple[Callee, ...] = tuple(steps.values())
        self.functions: Mapping[str, Callable[..., Any]] = MappingProxyType(functions)

    def __iter__(self) -> Iterator[Callee]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def load(modules: Iterable[str]) -> None:
    """Import modules.

    Raises:
        CodeError: one of them cannot be imported.
    """
    for module in modules:
        code.import_module(module)


@lru_cache(maxsize=8)
def of(modules: tuple[str, ...]) -> NodeRegistry:
    """The registry of this process for these modules: made by the first call, and inherited by forked processes.

    Raises:
        CodeError: a module cannot be imported.
    """
    return NodeRegistry(modules)


def _loaded(listed: tuple[str, ...]) -> Iterator[ModuleType]:
    """The listed modules, each followed by its submodules that are imported."""
    known = sorted(sys.modules)
    names = [name for module in listed for name in (module, *(n for n in known if n.startswith(f"{module}.")))]
    for name in dict.fromkeys(names):
        module = sys.modules[name]
        if isinstance(module, ModuleType):
            yield module


def _steps(holder: ModuleType | type) -> Iterator[Step]:
    home = holder.__name__ if isinstance(holder, ModuleType) else holder.__module__
    for value in tuple(vars(holder).values()):
        if isinstance(value, Step):
            yield value
        elif isinstance(value, type) and value.__module__ == home and value is not holder:
            yield from _steps(value)


def _callees(step: Step) -> Iterator[Callee]:
    pending, seen = [step], set[int]()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        match part:
            case Node():
                yield part
            case Decision():
                yield part
                pending += reversed(list((part.choices or {}).values()))
            case Sequence():
                pending += reversed(part.steps)
            case Parallel():
                pending += reversed(part.branches)
            case Map():
                pending.append(part.body)

"""Refuse nodes whose annotations cannot be resolved: what their parameters receive depends on them."""

from __future__ import annotations

import ast
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FunctionType
from typing import Any

from egregore_dist import errors
from egregore_dist.workflow import functions, hints, names
from egregore_dist.workflow.binding import Parameters

_resolved: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def check(function: Callable[..., Any], what: str, *, final: bool, returns: bool = False) -> None:
    """Refuse a function with an annotation that matters and cannot be resolved.

    Annotations of parameters that no input fills do not matter.

    Args:
        function: the function of a node or a decision.
        what: the step, for the error.
        final: whether to refuse names, too, that its module may define further down.
        returns: whether the annotation of its value matters.

    Raises:
        WorkflowError: there is one; the message names the parameter and the cure.
    """
    code = functions.underlying(function)
    if code in _resolved:
        return
    failed = hints.unresolved(function)
    if not failed:
        if isinstance(code, FunctionType):
            _resolved.add(code)
        return
    matters = Parameters.of(function).filled | ({"return"} if returns else set())
    for name, each in failed.items():
        if name in matters and (final or not _may_appear(each.name, code)):
            whose = "of its return value" if name == "return" else f"of parameter {name!r}"
            raise errors.WorkflowError(
                f"{what}: the annotation {whose}, {names.shortened(each.annotation)}, cannot be resolved "
                f"({each.reason}). {_cure(each.name)}"
            )


def _cure(name: str | None) -> str:
    if name is None:
        return "Correct it, or leave it out, or wrap the function in one of your own"
    return (
        f"Import or define {name} at the top level of the module, outside of `if TYPE_CHECKING` and of functions, and "
        "before the workflow runs; or leave the annotation out, or wrap the function in one of your own"
    )


def _may_appear(name: str | None, code: Callable[..., Any]) -> bool:
    """Whether the module of ``code``, which may still be executed, binds ``name``; True where its source is unknown."""
    if name is None:
        return False
    module = sys.modules.get(getattr(code, "__module__", None) or "")
    if module is None:
        return True
    try:
        return name in _names_of(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # a notebook
        return True


@lru_cache(maxsize=16)
def _names_of(source: str) -> frozenset[str]:
    return frozenset(_bound(ast.parse(source).body))


def _bound(statements: list[ast.stmt]) -> Iterator[str]:
    """The names that are bound at the top level of a module when it is executed."""
    for statement in statements:
        match statement:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield statement.name
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
            case ast.If() if "TYPE_CHECKING" in ast.unparse(statement.test):
                yield from _bound(statement.orelse)
            case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While():
                handlers = getattr(statement, "handlers", [])
                for block in (statement, *handlers):
                    for field in ("body", "orelse", "finalbody"):
                        yield from _bound(getattr(block, field, []))
            case _:
                stored = (each for each in ast.walk(statement) if isinstance(each, ast.Name))
                yield from (each.id for each in stored if isinstance(each.ctx, ast.Store))

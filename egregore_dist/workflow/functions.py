"""The functions that users write: which ones can be run, and what can be read from them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from egregore_dist import errors
from egregore_dist.workflow import names
from egregore_dist.workflow.step import Step, label


def checked(function: object, kind: str, name: str | None = None) -> Callable[..., Any]:
    """Return ``function`` if it can be the function of a node or a decision.

    Args:
        function: what the user gave.
        kind: ``"node"`` or ``"decision"``, for the error.
        name: the name that it was given; absent, the error says what the function is called.

    Raises:
        WorkflowError: it cannot; the message says why and what to give instead.
    """
    called = getattr(function, "__qualname__", None) if name is None else name
    what = kind if called is None else f"{kind} {called!r}"
    if isinstance(function, Step):
        raise errors.WorkflowError(
            f"{what}: {label(function)} is a step already; use it as it is, or .alias('new_name')"
        )
    if isinstance(function, type):
        raise errors.WorkflowError(f"{what}: {function.__name__} is a class; give a function that uses it")
    if not callable(function):
        raise errors.WorkflowError(f"{what}: {names.shortened(function)} is not a function")
    code = underlying(function)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise errors.WorkflowError(f"{what}: a generator function gives no value; return a list instead of yielding")
    if _takes_self(function):
        raise errors.WorkflowError(
            f"{what}: a method needs its object, and no data can be that; make it a plain function, or give one of "
            f"an object: {kind}('a_name')(thing.method)"
        )
    return function


def _takes_self(function: Callable[..., Any]) -> bool:
    """Whether ``function`` is a method as it stands in its class."""
    plain = inspect.unwrap(function) if isinstance(function, FunctionType) else None
    return isinstance(plain, FunctionType) and plain.__code__.co_varnames[: plain.__code__.co_argcount][:1] == ("self",)


def own_name(function: Callable[..., Any], what: str) -> str:
    """The name that ``function`` carries.

    Raises:
        WorkflowError: it has none, or none that is valid; the message asks for one.
    """
    name = getattr(function, "__name__", None)
    if name is None or name == "<lambda>":
        kind = "a lambda" if name else f"a {type(function).__name__}"
        raise errors.WorkflowError(f"{what}: {kind} has no name of its own; give one: {what}('a_name')(...)")
    return names.checked(name, what)


def underlying(function: Callable[..., Any]) -> Callable[..., Any]:
    """What holds the code of ``function``: through partials, callable instances and bound methods."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    # Looked up without binding: for all but an instance with a __call__ of its own this is a C slot.
    call = inspect.getattr_static(type(function), "__call__", None)
    return call if isinstance(call, FunctionType) else function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` gives a coroutine."""
    return inspect.iscoroutinefunction(underlying(function))


def closure(function: Callable[..., Any]) -> dict[str, object]:
    """The variables of enclosing functions that ``function`` uses, by name."""
    found: dict[str, object] = {}
    code = getattr(function, "__code__", None)
    if code is None:
        return found
    for name, cell in zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def global_name(step: Step) -> str | None:
    """The name under which an importable module holds ``step``, made by a decorator there; None if none does."""
    module, name = step.__module__, vars(step).get("__qualname__")
    if module == "__main__" or not isinstance(name, str):
        return None
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return name if found is step else None


def wrapper_attributes(function: Callable[..., Any], wrapper: type) -> dict[str, object]:
    """What `functools.update_wrapper` would set on an instance of ``wrapper``, and nothing that hides its methods."""
    copied: dict[str, object] = {
        name: getattr(function, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(function, name)
    }
    own = vars(function) if isinstance(function, FunctionType) else {}
    kept = {name: value for name, value in own.items() if not hasattr(wrapper, name)}
    return kept | copied | {"__wrapped__": function}

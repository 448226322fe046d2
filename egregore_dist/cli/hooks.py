"""The user's own say in what is shown: a function that every input, result, error and line passes first."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from egregore_dist import errors

if TYPE_CHECKING:
    from egregore_dist.client.logs import LogLine

#: What is about to be shown. An input and a result come as JSON has them, the others as text: what an error says, its
#: traceback, a line that a node logged or printed, a value of a limit's key, a part of a message that was set aside.
What = Literal["input", "result", "error", "traceback", "log", "limit", "message"]
#: Gets what it is, and the data; returns what is shown in their place.
Hook = Callable[[str, Any], Any]

#: Shown where the hook fails.
REDACTED = "redacted"

_hook: Hook | None = None


def use(hook: Hook | str | None) -> None:
    """Pass all that this process shows through a hook from now on.

    Args:
        hook: the function, or ``module:function``; None for none.

    Raises:
        errors.ConfigurationError: there is no such function.
    """
    global _hook
    _hook = _load(hook) if isinstance(hook, str) else hook


def value(what: What, data: Any) -> Any:
    """What is shown of an input or a result, which is as JSON has it."""
    if _hook is None:
        return data
    try:
        import msgspec

        from egregore_dist.cli import show

        shown = show.plain(_hook(what, data))
        msgspec.json.encode(shown)
        return shown
    except Exception as error:
        return _failed(what, error)


def text(what: What, said: str) -> str:
    """What is shown of a text."""
    if _hook is None:
        return said
    try:
        shown = _hook(what, said)
    except Exception as error:
        return _failed(what, error)
    return shown if isinstance(shown, str) else _failed(what, TypeError())


def line(said: LogLine) -> LogLine:
    """A line that a node said, as it is shown."""
    return said if _hook is None else replace(said, text=text("log", said.text))


def _failed(what: What, error: Exception) -> str:
    # Its message may hold the data.
    logging.getLogger(__name__).warning(
        "the hook EGREGORE_REDACT failed on %s: %s", what, type(error).__name__, extra={"action": "redact_failed"}
    )
    return REDACTED


def _load(name: str) -> Hook:
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # the module is the user's, and may do anything
        raise errors.ConfigurationError(
            f"EGREGORE_REDACT: {name!r} names no function: write module:function ({error})"
        ) from error
    if not callable(found):
        raise errors.ConfigurationError(f"EGREGORE_REDACT: {name!r} is no function but {type(found).__name__}")
    hook: Hook = found
    return hook

"""Names of nodes, steps and branches: what they may be made of."""

from __future__ import annotations

import re

from egregore_dist import errors

MAX_LENGTH = 128

#: Names end up in ledger keys, log lines and web pages, so nothing in them ever needs quoting; "." and ".." are steps
#: of an address. To be matched in full.
PATTERN = rf"(?!\.\.?(?:/|\Z))[A-Za-z0-9_.-]{{1,{MAX_LENGTH}}}"
_VALID = re.compile(PATTERN)


def checked(name: object, what: str) -> str:
    """Return ``name`` if it is a valid name.

    Args:
        name: the candidate.
        what: what is being named, for the error, such as ``"node"``.

    Raises:
        WorkflowError: it is not a string of 1 to 128 letters, digits, ``_``, ``.`` or ``-``, or it is "." or "..".
    """
    if not isinstance(name, str):
        raise errors.WorkflowError(
            f"the name of a {what} must be a string, not {type(name).__name__}: {shortened(name)}"
        )
    if not _VALID.fullmatch(name):
        raise errors.WorkflowError(
            f"{shortened(name)} cannot name a {what}: "
            f"use 1 to {MAX_LENGTH} of the letters A-Z and a-z, the digits, '_', '.' and '-', not '.' or '..' alone"
        )
    return name


def is_valid(name: object) -> bool:
    """Whether ``name`` is a valid name, as for `checked`."""
    return isinstance(name, str) and _VALID.fullmatch(name) is not None


def optional(name: object, what: str) -> str | None:
    """Like `checked`, and ``None`` stays ``None``."""
    return None if name is None else checked(name, what)


def of_class(kind: type) -> str:
    """How a class is called where it is not at hand: a builtin by its name, others as ``package.module.Class``."""
    module, name = str(kind.__module__), str(kind.__qualname__)
    return name if module == "builtins" else f"{module}.{name}"


def shortened(value: object, limit: int = 80) -> str:
    """The repr of ``value``, cut to ``limit`` characters."""
    try:
        text = repr(value)
    except Exception:
        # An int of thousands of digits has none.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(text: str, limit: int) -> str:
    """``text`` as one harmless line of at most ``limit`` bytes: what does not print is written as an escape."""
    short = text[:limit]
    escaped = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in short)
    if len(short) == len(text) and len(escaped.encode()) <= limit:
        return escaped
    return escaped.encode()[: limit - 3].decode(errors="ignore") + "…"

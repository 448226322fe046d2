"""A short hash of a function's code: whether two workers have the same version of a node."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

_LENGTH = 12


def of(fn: Callable[..., Any]) -> str:
    """The hash of the function's source, or of its code where that is not there; "" where it has neither."""
    fn = inspect.unwrap(fn)
    code = getattr(fn, "__code__", None)
    try:
        text = inspect.getsource(fn).encode() if _has_file(code) else b""
    except (OSError, TypeError):
        text = b""
    if not text:
        if not isinstance(code, CodeType):
            return ""
        text = _content(code)
    return hashlib.sha256(text).hexdigest()[:_LENGTH]


def _has_file(code: object) -> bool:
    # All that is executed from a string has this name, and since Python 3.13 the source of ``python -c`` too.
    return not isinstance(code, CodeType) or code.co_filename != "<string>"


def _content(code: CodeType) -> bytes:
    # Constants hold the code of functions inside; their own text would tell where in memory they are.
    constants = [_content(each) if isinstance(each, CodeType) else repr(each).encode() for each in code.co_consts]
    return b"\0".join([code.co_code, *constants, *(name.encode() for name in code.co_names)])

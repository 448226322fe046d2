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
    try:
        text = inspect.getsource(fn).encode()
    except (OSError, TypeError):
        code = getattr(fn, "__code__", None)
        if not isinstance(code, CodeType):
            return ""
        text = _content(code)
    return hashlib.sha256(text).hexdigest()[:_LENGTH]


def _content(code: CodeType) -> bytes:
    # Constants hold the code of functions inside; their own text would tell where in memory they are.
    constants = [_content(each) if isinstance(each, CodeType) else repr(each).encode() for each in code.co_consts]
    return b"\0".join([code.co_code, *constants, *(name.encode() for name in code.co_names)])

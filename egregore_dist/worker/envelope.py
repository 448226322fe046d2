"""What a message looks like that asks for one of the three tasks, and what may be said of one that does not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import msgspec

from egregore_dist.engine import app as apps
from egregore_dist.workflow import names

#: The longest excerpt that is kept of a message.
EXCERPT = 400

# What may be shown of a stranger's message: enough to find who sends it, and no place for a secret.
_SHOWN = frozenset({"task", "id", "lang", "content-type", "content-encoding", "body_encoding", "delivery_tag"})
_HARMLESS = re.compile(r"[A-Za-z0-9_.:/@+-]{1,80}")
_FIELDS = _SHOWN | {
    "args", "argsrepr", "body", "callbacks", "chain", "chord", "compression", "correlation_id", "delivery_info",
    "delivery_mode", "errbacks", "eta", "exchange", "expires", "group", "headers", "kwargs", "kwargsrepr", "origin",
    "parent_id", "priority", "properties", "reply_to", "retries", "root_id", "routing_key", "shadow", "timelimit",
}  # fmt: skip

_Run = Annotated[str, msgspec.Meta(pattern=rf"\A{names.PATTERN}\Z")]
_Block = Annotated[str, msgspec.Meta(pattern=r"\A[0-9.,-]{1,4096}\Z")]
_Track = Annotated[int, msgspec.Meta(ge=0, le=10**6)]
_Created = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
# With when the run was submitted; who writes a message by hand may leave that out.
_Arguments = {
    apps.ADVANCE: (tuple[_Run], tuple[_Run, _Created]),
    apps.LANE: (tuple[_Run, _Block, _Track], tuple[_Run, _Block, _Track, _Created]),
    apps.COLLECT: (tuple[_Run, _Block], tuple[_Run, _Block, _Created]),
}


class _Headers(msgspec.Struct):
    """The headers that Celery acts upon; it sets more."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    expires: str | None = None
    eta: None = None
    group: str | None = None
    group_index: int | None = None
    root_id: str | None = None
    parent_id: str | None = None
    retries: int = 0
    shadow: str | None = None
    timelimit: tuple[float | None, float | None] = (None, None)
    compression: None = None
    ignore_result: bool | None = None
    stamps: dict[str, Any] | None = None
    stamped_headers: list[str] | None = None


class _Embed(msgspec.Struct):
    """What comes with the arguments: a chord, or for a single lane what follows it."""

    callbacks: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chain: list[dict[str, Any]] | None = None
    chord: dict[str, Any] | None = None


def is_ours(task: str) -> bool:
    """Whether a task is one of the three."""
    return task in _Arguments


def fault(task: str, headers: Mapping[str, Any], body: object) -> str | None:
    """What is wrong with a message for one of the three tasks, or None.

    Args:
        body: the decoded body.
    """
    part = "headers"
    try:
        msgspec.convert(headers, _Headers)
        part = "body"
        arguments, named, _ = msgspec.convert(body, tuple[list[Any], dict[str, Any], _Embed])
        part = "arguments"
        shorter, whole = _Arguments[task]
        msgspec.convert(arguments, shorter if len(arguments) == len(get_args(shorter)) else whole)
    except (msgspec.ValidationError, RecursionError) as error:
        return f"{part}: {error}"
    return "arguments: none is given by name" if named else None


def excerpt(raw: object) -> str:
    """The shape of a message, its size and a digest: never its content."""
    if isinstance(raw, str | bytes | bytearray | memoryview):
        data = raw.encode(errors="surrogatepass") if isinstance(raw, str) else bytes(raw)
        digest = hashlib.sha256(data).hexdigest()[:16]
        return f"{len(data)} bytes, sha256 {digest}"
    return _shape(raw, depth=4)[:EXCERPT]


def _shape(value: object, *, depth: int, shown: bool = False) -> str:
    match value:
        case None | bool() | int() | float():
            return type(value).__name__ if not isinstance(value, bool | None) else str(value)
        case str() if shown and _HARMLESS.fullmatch(value):
            return value
        case str() | bytes():
            return f"{type(value).__name__}[{len(value)}]"
        case Mapping() if depth:
            known = [key for key in value if isinstance(key, str) and key in _FIELDS]
            parts = [f"{key}: {_shape(value[key], depth=depth - 1, shown=key in _SHOWN)}" for key in sorted(known)]
            parts += [f"{len(value) - len(known)} more"] if len(value) > len(known) else []
            return "{" + ", ".join(parts) + "}"
        case list() | tuple() if depth:
            parts = [_shape(item, depth=depth - 1) for item in value[:5]]
            return "[" + ", ".join(parts + ([f"{len(value) - 5} more"] if len(value) > 5 else [])) + "]"
        case _:
            return type(value).__name__

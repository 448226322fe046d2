"""Failures as data: what an exception says, without its class."""

from __future__ import annotations

import builtins
import traceback
from typing import Any, Literal

import msgspec

from egregore_dist import errors
from egregore_dist.wire import codec

MESSAGE_LIMIT = 8192
"""The largest message kept, in bytes of UTF-8."""

TRACEBACK_LIMIT = 16384
"""The largest traceback kept, in bytes of UTF-8; a longer one loses its middle."""

_ARGS_LIMIT = 2048
_NAME_LIMIT = 256
_CUT = "\n  ... cut ...\n"

# What stands between the entry of a worker process and the user's code.
_MACHINERY = frozenset({"egregore_dist", "celery", "billiard", "kombu", "asyncio", "concurrent", "threading"})

Kind = Literal["error", "timeout", "cancelled", "lost"]

# Classes of this package that one message builds.
_OURS: dict[str, type[errors.EgregoreError]] = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        errors.EgregoreError,
        errors.WorkflowError,
        errors.BindingError,
        errors.EncodingError,
        errors.PayloadTooLarge,
        errors.CodeError,
        errors.ConfigurationError,
        errors.BrokerUnavailable,
        errors.NestedWaitError,
        errors.RunNotFound,
        errors.RunFailed,
        errors.RunCancelled,
    )
}

# Those that are Exception subclasses: KeyboardInterrupt, SystemExit and GeneratorExit would stop the one who reads.
_BUILTIN: dict[str, type[Exception]] = {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)
}


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a node failed.

    Attributes:
        kind: the outcome.
        type: the class of the exception: ``"ValueError"`` for a builtin, otherwise ``"package.module.Class"``.
        message: what the exception said, at most `MESSAGE_LIMIT`.
        traceback: text from the user's first frame on, with causes, at most `TRACEBACK_LIMIT`.
        node: the name of the node, or None.
        branch: the names of the branches from the outermost block down to where it failed.
        attempt: which attempt this was, from 1.
        args: the exception's arguments if they are few, small and plain, otherwise None.
    """

    kind: Kind = "error"
    type: str = "Exception"
    message: str = ""
    traceback: str | None = None
    node: str | None = None
    branch: tuple[Any, ...] = ()
    attempt: int = 1
    args: tuple[Any, ...] | None = None

    @classmethod
    def of(
        cls,
        exc: BaseException,
        *,
        node: str | None,
        attempt: int,
        kind: Kind = "error",
        branch: tuple[Any, ...] = (),
    ) -> Failure:
        """The failure that ``exc`` is; never raises, whatever the exception's own methods do."""
        return cls(
            kind=kind,
            type=_type_name(exc),
            message=_capped(_text(exc), MESSAGE_LIMIT),
            traceback=_traceback(exc),
            node=node,
            branch=branch,
            attempt=attempt,
            args=_plain_args(exc),
        )


def encode(failure: Failure) -> bytes:
    """The MessagePack of ``failure``."""
    return codec.encode(failure, where=f"the failure of node {failure.node!r}")


def decode(raw: bytes) -> Failure:
    """The failure that ``raw`` holds.

    Raises:
        EncodingError: ``raw`` holds something else.
    """
    try:
        return _decoder.decode(raw)
    except Exception as cause:
        raise errors.EncodingError(f"stored data is not a failure: {cause}. Something else wrote it.") from cause


def rebuild(failure: Failure) -> BaseException:
    """An exception that stands for ``failure``, with the remote traceback as a note.

    Builtin exceptions and those of `egregore_dist.errors` that one message builds are looked up in fixed tables;
    every other class becomes a `RemoteError`. Nothing is imported by a name from data.
    """
    exc = _instance(failure)
    if failure.traceback:
        exc.add_note(f"remote traceback:\n{failure.traceback}")
    return exc


def to_branch_error(failure: Failure, branch: Any) -> errors.BranchError:
    """The value that stands for the branch named ``branch``, which ended with ``failure``."""
    return errors.BranchError(
        branch,
        kind=failure.kind,
        type=failure.type,
        message=failure.message,
        node=failure.node,
        traceback=failure.traceback,
        attempt=failure.attempt,
    )


_decoder = msgspec.msgpack.Decoder(Failure)


def _instance(failure: Failure) -> BaseException:
    remote = errors.RemoteError(failure.type, failure.message)
    if failure.type in _OURS:
        return _OURS[failure.type](failure.message)
    kind = _BUILTIN.get(failure.type)
    if kind is None:
        return remote
    try:
        return kind(*((failure.message,) if failure.args is None else failure.args))
    except Exception:
        # ExceptionGroup and UnicodeDecodeError want more than a message
        return remote


def _type_name(exc: BaseException) -> str:
    try:
        module, name = str(type(exc).__module__), str(type(exc).__qualname__)
    except Exception:  # a metaclass can make anything of them
        return "Exception"
    return _capped(name if module == "builtins" else f"{module}.{name}", _NAME_LIMIT)


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as broken:
        return f"<str() of the exception raised {type(broken).__name__}>"


def _traceback(exc: BaseException) -> str | None:
    try:
        told = traceback.TracebackException.from_exception(exc, compact=True)
        _cut_machinery(told, exc)
        text = _encodable("".join(told.format()))
    except Exception:
        return None
    size = len(text.encode())
    if size <= TRACEBACK_LIMIT:
        return text
    # the start tells where the user's code began, the end what went wrong
    half = (TRACEBACK_LIMIT - len(_CUT)) // 2
    return _capped(text, half) + _CUT + text.encode()[-half:].decode(errors="ignore")


def _cut_machinery(told: traceback.TracebackException, exc: BaseException) -> None:
    """Drops the leading frames that are not the user's, from ``exc`` and from its causes."""
    frames = list(traceback.walk_tb(exc.__traceback__))
    leading = 0
    for frame, _ in frames:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _MACHINERY:
            break
        leading += 1
    if leading < len(frames):
        del told.stack[:leading]
    for part, cause in ((told.__cause__, exc.__cause__), (told.__context__, exc.__context__)):
        if part is not None and cause is not None:
            _cut_machinery(part, cause)
    if isinstance(exc, BaseExceptionGroup):
        for part, member in zip(told.exceptions or (), exc.exceptions, strict=False):
            _cut_machinery(part, member)


def _plain_args(exc: BaseException) -> tuple[Any, ...] | None:
    try:
        args = tuple(exc.args)
        if not all(type(arg) in (str, int, float, bool, bytes, type(None)) for arg in args):
            return None
        return args if len(msgspec.msgpack.encode(args)) <= _ARGS_LIMIT else None
    except Exception:
        return None


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _capped(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` bytes of UTF-8, without lone surrogates."""
    raw = text[:limit].encode("utf-8", "backslashreplace")
    if len(raw) <= limit and len(text) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode(errors="ignore") + "..."

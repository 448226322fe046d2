"""Failures as data: what an exception says, and its class by name only."""

from __future__ import annotations

import builtins
import re
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from egregore_dist import errors
from egregore_dist.wire import codec
from egregore_dist.workflow import names

MESSAGE_LIMIT = 8192
"""The largest message kept, in bytes of UTF-8."""

TRACEBACK_LIMIT = 16384
"""The largest traceback kept, in bytes of UTF-8; a longer one loses its middle."""

_NAME_LIMIT = 256
_NOTES = 16
_NOTE_LIMIT = 1024
_STATE_LIMIT = 4096
_STATE_DEPTH = 4

# Causes and members of groups: how many of them are kept, and how much of the message of each.
_PARTS = 16
# Each part may hold sixteen notes, its arguments and its attributes: much more than a failure ever has.
_ENCODED_LIMIT = 2**20
_PART_DEPTH = 8
_PART_LIMIT = 1024

# ASCII alone, and no name of the interpreter's own but that of a script.
_NAME = r"(?!__)[A-Za-z_][A-Za-z0-9_]*"
_CLASS_NAME = re.compile(rf"(?:__main__|{_NAME})(?:\.{_NAME})+", re.ASCII)
_CUT = "\n  ... cut ...\n"

# What stands between the entry of a worker process and the user's code.
_MACHINERY = frozenset(
    {"egregore_dist", "celery", "billiard", "kombu", "asyncio", "concurrent", "threading", "tenacity"}
)

Kind = Literal["error", "timeout", "cancelled", "lost"]

# Classes of this package that one message builds.
_OURS: dict[str, type[errors.EgregoreError]] = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        errors.EgregoreError,
        errors.WorkflowError,
        errors.BindingError,
        errors.EncodingError,
        errors.UnreadableWorkflow,
        errors.PayloadTooLarge,
        errors.CodeError,
        errors.ConfigurationError,
        errors.BrokerUnavailable,
        errors.BrokerFull,
        errors.NestedWaitError,
        errors.RunNotFound,
        errors.WorkerNotFound,
        errors.RunFailed,
        errors.RunCancelled,
        errors.RunLost,
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
        attempt: which attempt this was, from 1.
        args: the exception's arguments if they are few, small and plain, otherwise None.
        attributes: its attributes that are plain, if they are small.
        whole: whether args and attributes are all that the exception had.
        notes: its notes, the first few.
        cause: the exception that it was raised from, without traceback.
        members: the exceptions of a group, without traceback.
    """

    kind: Kind = "error"
    type: str = "Exception"
    message: str = ""
    traceback: str | None = None
    node: str | None = None
    attempt: int = 1
    args: tuple[Any, ...] | None = None
    attributes: dict[str, Any] = {}
    whole: bool = False
    notes: tuple[str, ...] = ()
    cause: Failure | None = None
    members: Annotated[tuple[Failure, ...], msgspec.Meta(max_length=_PARTS)] = ()

    @classmethod
    def of(cls, exc: BaseException, *, node: str | None, attempt: int, kind: Kind = "error") -> Failure:
        """The failure that ``exc`` is; never raises, whatever the exception's own methods do."""
        told = _told(exc, MESSAGE_LIMIT, iter(range(_PARTS)), _PART_DEPTH)
        return msgspec.structs.replace(told, kind=kind, node=node, attempt=attempt, traceback=_traceback(exc))

    def __repr__(self) -> str:
        # Arguments and attributes may hold what no log shall show.
        return f"Failure({self.kind}, {self.type}, node={self.node!r}, attempt={self.attempt})"


def encode(failure: Failure) -> bytes:
    """The MessagePack of ``failure``."""
    return codec.encode(failure, where=f"the failure of node {failure.node!r}")


def decode(raw: bytes) -> Failure:
    """The failure that ``raw`` holds.

    Raises:
        EncodingError: ``raw`` holds something else, or more causes, members or bytes than `encode` writes.
    """
    try:
        if len(raw) > _ENCODED_LIMIT:
            raise ValueError(f"it has {len(raw)} bytes, and a failure at most {_ENCODED_LIMIT}")
        decoded = _decoder.decode(raw)
        _check_parts(decoded)
    except Exception as cause:
        raise errors.EncodingError(f"stored data is not a failure: {cause}. Something else wrote it.") from cause
    return decoded


def _check_parts(failure: Failure) -> None:
    """Refuse more causes and members than `Failure.of` makes."""
    count, level = 0, [failure]
    for _ in range(_PART_DEPTH + 1):
        level = [part for each in level for part in (each.cause, *each.members) if part is not None]
        count += len(level)
        if count > _PARTS:
            raise ValueError(f"it has more than {_PARTS} causes and members")
    if level:
        raise ValueError(f"its causes and members are more than {_PART_DEPTH} levels deep")


def rebuild(failure: Failure) -> Exception:
    """An exception that stands for ``failure``, with its notes, and the remote traceback as one more.

    Builtin exceptions and those of `egregore_dist.errors` that one message builds are looked up in fixed tables.
    Another class is taken where this process has imported it, and all that the exception held was plain: that is set,
    and none of the class's code is called but ``__str__``. Whatever else there is becomes a `RemoteError`. Nothing is
    imported by a name from data.
    """
    try:
        exc = _instance(failure)
        if exc is not None:
            return _dressed(exc, failure)
    except Exception:  # noqa: S110  # a builtin wants other arguments, or a class of this name is another one here
        pass
    return _dressed(errors.RemoteError(failure.type, failure.message), failure)


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


def users_part(exc: BaseException) -> types.TracebackType | None:
    """The traceback of ``exc`` from the first frame of the user's code on; None where it has no such frame."""
    part = exc.__traceback__
    while part is not None and str(part.tb_frame.f_globals.get("__name__")).partition(".")[0] in _MACHINERY:
        part = part.tb_next
    return part


_decoder = msgspec.msgpack.Decoder(Failure)


def _instance(failure: Failure) -> Exception | None:
    if failure.type in _OURS:
        return _OURS[failure.type](failure.message)
    kind = _BUILTIN.get(failure.type)
    if kind is not None:
        return _filled(kind(*_arguments(failure)), kind, failure)
    own = _class_of(failure.type) if failure.whole else None
    if own is None:
        return None
    base, args = _builtin_base(own), _arguments(failure)
    # What the class itself does when it is called stays undone.
    exc = base.__new__(own, *args)
    base.__init__(exc, *args)
    _filled(exc, base, failure)
    return exc if _says(exc, failure.message) else None


def _filled(exc: Exception, base: type[Exception], failure: Failure) -> Exception:
    """Sets the attributes of ``exc`` without calling code of its class."""
    for name, value in failure.attributes.items():
        slot = getattr(base, name, None)
        if isinstance(slot, types.MemberDescriptorType | types.GetSetDescriptorType):
            slot.__set__(exc, value)
        elif not name.startswith("__"):
            vars(exc)[name] = value
    return exc


def _dressed(exc: Exception, failure: Failure) -> Exception:
    for note in failure.notes:
        exc.add_note(note)
    if failure.traceback:
        exc.add_note(f"remote traceback:\n{failure.traceback}")
    if failure.cause is not None:
        exc.__cause__ = rebuild(failure.cause)
    return exc


def _arguments(failure: Failure) -> tuple[Any, ...]:
    if failure.members:
        return (*(failure.args or (failure.message,)), [rebuild(member) for member in failure.members])
    return (failure.message,) if failure.args is None else failure.args


def _class_of(name: str) -> type[Exception] | None:
    """The exception class of this name in a module that this process has imported, or None."""
    if _CLASS_NAME.fullmatch(name) is None or name.startswith("egregore_dist."):
        return None
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:length]))
        if found is None:
            continue
        for part in parts[length:]:
            # Not getattr: a module's or a metaclass's own one can import, or compute.
            found = vars(found).get(part)
            if not isinstance(found, type):
                return None
        # What a module merely imported is not its own, and a reader knows errors of this package by their class.
        is_own = issubclass(found, Exception) and not issubclass(found, errors.EgregoreError)
        return found if is_own and names.of_class(found) == name else None
    return None


def _builtin_base(kind: type[BaseException]) -> Any:
    return next(base for base in kind.__mro__ if vars(builtins).get(base.__name__) is base)


def _told(exc: BaseException, limit: int, parts: Iterator[int], depth: int) -> Failure:
    """What ``exc`` says, with its causes and members as far as ``parts`` and ``depth`` go, without tracebacks."""

    def part(of: BaseException | None) -> Failure | None:
        if of is None or depth == 0 or next(parts, None) is None:
            return None
        return _told(of, _PART_LIMIT, parts, depth - 1)

    args, attributes, whole = _state(exc)
    members: list[Failure | None] = []
    if isinstance(exc, BaseExceptionGroup):
        args, members = (_capped(exc.message, limit),), [part(member) for member in exc.exceptions[:_PARTS]]
        whole = whole and None not in members and len(members) == len(exc.exceptions)
    return Failure(
        type=_type_name(exc),
        message=_capped(_text(exc), limit),
        args=args,
        attributes=attributes,
        whole=whole and args is not None,
        notes=_notes(exc),
        cause=part(exc.__cause__),
        members=tuple(member for member in members if member is not None) if whole else (),
    )


def _state(exc: BaseException) -> tuple[tuple[Any, ...] | None, dict[str, Any], bool]:
    """The arguments of ``exc`` if they are plain, its attributes as far as they are, and whether those are all."""
    try:
        # Of the builtin class: it knows what its instances need to be built again, and runs no code of the user's.
        _, args, *more = _builtin_base(type(exc)).__reduce__(exc)
        attributes = {name: value for name, value in (more[0] or {} if more else {}).items() if name != "__notes__"}
        slots = any(vars(base).get("__slots__") for base in type(exc).__mro__)
    except Exception:
        return None, {}, False
    plain = {name: value for name, value in attributes.items() if _is_plain(value)}
    if not _is_small(plain):
        plain = {}
    known = _is_plain(args) and _is_small(args)
    return (args if known else None), plain, len(plain) == len(attributes) and not slots


def _is_plain(value: Any, depth: int = _STATE_DEPTH) -> bool:
    kind = type(value)
    if kind in (str, bytes, list, tuple, dict) and len(value) > _STATE_LIMIT:
        return False
    if kind in (list, tuple, dict) and depth > 0:
        parts = (*value, *value.values()) if kind is dict else value
        return all(_is_plain(part, depth - 1) for part in parts)
    return kind in (str, int, float, bool, bytes, type(None))


def _is_small(state: Any) -> bool:
    try:
        return len(msgspec.msgpack.encode(state)) <= _STATE_LIMIT
    except Exception:  # an integer of many digits, or a lone surrogate
        return False


def _notes(exc: BaseException) -> tuple[str, ...]:
    try:
        return tuple(_capped(str(note), _NOTE_LIMIT) for note in exc.__notes__[:_NOTES])
    except BaseException:  # there are none, or they are not what they should be
        return ()


def _type_name(exc: BaseException) -> str:
    try:
        return _capped(names.of_class(type(exc)), _NAME_LIMIT)
    except BaseException:  # a metaclass can make anything of them
        return "Exception"


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as broken:  # as the interpreter does, where it shows an exception
        return f"<str() of the exception raised {type(broken).__name__}>"


def _says(exc: BaseException, message: str) -> bool:
    try:
        return str(exc) == message
    except BaseException:  # as above
        return False


def _traceback(exc: BaseException) -> str | None:
    try:
        told = traceback.TracebackException.from_exception(exc, compact=True)
        _trim(told, exc)
        text = _encodable("".join(told.format()))
    except Exception:
        return None
    size = len(text.encode())
    if size <= TRACEBACK_LIMIT:
        return text
    # the start tells where the user's code began, the end what went wrong
    half = (TRACEBACK_LIMIT - len(_CUT)) // 2
    return _capped(text, half) + _CUT + text.encode()[-half:].decode(errors="ignore")


def _trim(told: traceback.TracebackException, exc: BaseException) -> None:
    """Drops the leading frames that are not the user's, and most of huge messages, from ``exc`` and its causes."""
    pending: list[tuple[traceback.TracebackException | None, BaseException | None]] = [(told, exc)]
    while pending:
        part, of = pending.pop()
        if part is None or of is None:
            continue
        _cut_machinery(part, of)
        # Else it would be copied some times over before all is cut: it may take much of the memory there is.
        for name in ("_str", "__notes__"):
            said = getattr(part, name, None)
            if isinstance(said, str) and len(said) > 2 * TRACEBACK_LIMIT:
                setattr(part, name, said[:TRACEBACK_LIMIT] + _CUT + said[-TRACEBACK_LIMIT:])
            elif isinstance(said, list):
                setattr(part, name, list(_notes(of)))
        pending += [(part.__cause__, of.__cause__), (part.__context__, of.__context__)]
        if isinstance(of, BaseExceptionGroup):
            pending += zip(part.exceptions or (), of.exceptions, strict=False)


def _cut_machinery(told: traceback.TracebackException, exc: BaseException) -> None:
    part = users_part(exc)
    if part is not None:
        del told.stack[: len(told.stack) - sum(1 for _ in traceback.walk_tb(part))]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _capped(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` bytes of UTF-8, without lone surrogates."""
    raw = text[:limit].encode("utf-8", "backslashreplace")
    if len(raw) <= limit and len(text) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode(errors="ignore") + "..."

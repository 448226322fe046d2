"""Annotations of functions: what they resolve to, and which values they accept."""

from __future__ import annotations

import builtins
import datetime
import enum
import inspect
import numbers
import pathlib
import types
import typing
import uuid
from collections import abc, deque
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, NewType, Union, get_args, get_origin

import msgspec

from egregore_dist.workflow import functions

# Nothing that travels as a mapping is one of these, nor do functions that take one make it of a mapping.
_NO_MAPPINGS = (
    *(str, bytes, bytearray, memoryview, numbers.Number),
    *(list, tuple, set, frozenset, deque, range, abc.Sequence, abc.Set),
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, uuid.UUID, pathlib.PurePath, type(None)),
)
# Means the same whether it was imported for type checkers only.
_ANY = {"Any": Any, "typing": typing}


class Unresolved(NamedTuple):
    """An annotation that cannot be resolved: as it is written, why, and the name that is missing, if it is one."""

    annotation: object
    reason: str
    name: str | None


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of ``function``, resolved; never raises.

    A string that cannot be resolved, such as a name imported for type checkers only, stays as it was.
    """
    return _read(function)[0]


def unresolved(function: Callable[..., Any]) -> dict[str, Unresolved]:
    """The annotations of ``function`` that cannot be resolved, by parameter; that of its value as ``return``."""
    return _read(function)[1]


def _read(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Unresolved]]:
    code = functions.underlying(function)
    local = functions.closure(inspect.unwrap(code))
    try:
        return typing.get_type_hints(code, localns=local or None), {}
    except Exception:  # a user's annotation can raise anything
        return _one_by_one(code, local)


def _one_by_one(code: Callable[..., Any], local: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Unresolved]]:
    scope = {**_ANY, **vars(builtins), **getattr(inspect.unwrap(code), "__globals__", {}), **local}
    resolved = {}
    failed = {}
    for name, annotation in getattr(code, "__annotations__", {}).items():
        probe = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            resolved[name] = typing.get_type_hints(probe, globalns=scope, localns=scope)[name]
        except Exception as error:  # as above
            resolved[name] = annotation if isinstance(annotation, str) else Any
            missing = error.name if isinstance(error, NameError) else None
            failed[name] = Unresolved(annotation, f"{type(error).__name__}: {error}", missing)
    return resolved, failed


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone, without ``Annotated``, ``NewType`` and type aliases."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in members(part))
    return (annotation,)


def literals(annotation: Any) -> tuple[Any, ...] | None:
    """The values of a ``Literal``, or of a union of them; None for any other annotation."""
    parts = members(annotation)
    if not all(get_origin(part) is Literal for part in parts):
        return None
    return tuple(dict.fromkeys(value for part in parts for value in get_args(part)))


def refuses_mapping(annotation: Any) -> bool:
    """Whether ``annotation`` is known to be what no mapping can be, such as a number, text, a list or a date.

    Of a class that is none of these nobody knows: its function may make one of the mapping that it gets.
    """
    return all(_member_refuses_mapping(member) for member in members(annotation))


def _bare(annotation: Any) -> Any:
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # the ``type`` statement of Python 3.12
            annotation = annotation.__value__
        else:
            return annotation


def _member_accepts_mapping(member: Any) -> bool:
    if member is None or get_origin(member) is Literal:
        return False
    if not _is_definite(member):
        return True
    cls = get_origin(member) or member
    return (
        typing.is_typeddict(cls)  # first: it refuses issubclass
        or issubclass(dict, cls)
        or issubclass(cls, Mapping | msgspec.Struct)
        or is_dataclass(cls)
        or hasattr(cls, "__attrs_attrs__")
        or hasattr(cls, "model_validate")  # pydantic, without importing it
    )


def _member_refuses_mapping(member: Any) -> bool:
    if member is None:
        return True
    if get_origin(member) is Literal:
        return all(_member_refuses_mapping(type(value)) for value in get_args(member))
    if _member_accepts_mapping(member):
        return False
    cls = get_origin(member) or member
    if issubclass(cls, enum.Enum):
        # A member whose value is a mapping, or travels as one, comes as that.
        return all(_member_refuses_mapping(type(value.value)) for value in cls)
    return issubclass(cls, _NO_MAPPINGS)


def _is_definite(member: Any) -> bool:
    """Whether ``member`` says what a value must be: not a type variable, a protocol, or an unresolved name."""
    if get_origin(member) is Literal:
        return True
    cls = get_origin(member) or member
    return isinstance(cls, type) and cls is not Any and not getattr(cls, "_is_protocol", False)

"""Builders of what stands inside containers: records, models, enums, dates, bytes."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from egregore_dist import errors

Converter = Callable[[Any], Any]
ConverterOf = Callable[[Any], Converter | None]

_SCALARS = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal)
_BYTES = (bytes, bytearray, memoryview)


class Mismatch(Exception):  # not an error that anybody sees
    """A value does not fit an annotation.

    Attributes:
        annotation: what was asked for, innermost.
        value: what came.
        detail: more about it, or nothing.
        path: from the outermost value to ``value``.
    """

    def __init__(self, annotation: Any, value: Any, detail: str = "", path: str = "") -> None:
        super().__init__(detail)
        self.annotation = annotation
        self.value = value
        self.detail = detail
        self.path = path

    def at(self, step: str) -> Mismatch:
        """The same, seen from one step further out."""
        return Mismatch(self.annotation, self.value, self.detail, step + self.path)


def leaf(hint: Any, kind: type, converter_of: ConverterOf) -> Converter | None:
    """The builder of ``kind`` (``hint`` without its arguments), or None if values of it need no building."""
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if kind in _BYTES:
        return _bytes(kind)
    if kind in _SCALARS:
        return _native(hint, kind)
    if is_model(kind):
        return _model(kind)
    if is_record(kind):
        return _record(hint, kind, converter_of)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple(kind, converter_of)
    return None


def all_of(values: list[Any], hint: Any) -> list[Any] | None:
    """Each of ``values`` as ``hint``, a record or a scalar, in one call; None if they must be taken one by one."""
    kind = typing.get_origin(hint) or hint
    if not isinstance(kind, type) or not (kind in _SCALARS or (is_record(kind) and not is_model(kind))):
        return None
    try:
        return msgspec.convert(values, list[hint], builtin_types=_BYTES, dec_hook=_decode_other)
    except Exception:  # one of them does not fit, or is a BranchError, or msgspec refuses the class
        return None


def is_record(kind: type) -> bool:
    """Whether ``kind`` is a dataclass, a msgspec struct or an attrs class."""
    return dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct) or hasattr(kind, "__attrs_attrs__")


def is_model(kind: type) -> bool:
    """Whether ``kind`` is a pydantic model."""
    return callable(getattr(kind, "model_validate", None)) and hasattr(kind, "model_fields")


def is_typed_dict(kind: type) -> bool:
    """Whether ``kind`` is a TypedDict, of `typing` or of `typing_extensions`."""
    return issubclass(kind, dict) and hasattr(kind, "__total__") and hasattr(kind, "__required_keys__")


def hints_of(kind: type) -> dict[str, Any]:
    """The resolved annotations of a class's fields; what cannot be resolved stays as it is written."""
    try:
        return typing.get_type_hints(kind)
    except Exception:  # a user's annotation can raise anything
        return {
            name: _resolved(hint, base)
            for base in reversed(kind.__mro__)
            for name, hint in inspect.get_annotations(base).items()
        }


def _resolved(hint: Any, kind: type) -> Any:
    probe = types.SimpleNamespace(__annotations__={"it": hint})
    scope = {**vars(sys.modules.get(kind.__module__, types)), kind.__name__: kind}
    try:
        return typing.get_type_hints(probe, globalns=scope)["it"]
    except Exception:  # as above
        return hint


def names_of(member: Any) -> frozenset[str] | None:
    """The keys that a record, a model or a TypedDict has; None for other annotations."""
    kind = typing.get_origin(member) or member
    if not isinstance(kind, type):
        return None
    if is_typed_dict(kind):
        return frozenset(hints_of(kind))
    if is_model(kind):
        fields: dict[str, Any] = kind.model_fields  # type: ignore[attr-defined]
        return frozenset(fields) | {field.alias for field in fields.values() if getattr(field, "alias", None)}
    if not is_record(kind):
        return None
    tag = kind.__struct_config__.tag_field if issubclass(kind, msgspec.Struct) else None
    return frozenset(_fields(kind)) | ({tag} if tag else set())


def at(step: str, converter: Converter | None, value: Any) -> Any:
    """``value`` converted; ``step`` says where it stands, should it not fit."""
    if converter is None:
        return value
    try:
        return converter(value)
    except Mismatch as miss:
        raise miss.at(step) from miss.__cause__


def hashable(value: Any) -> Any:
    """Lists as tuples: what stood in a set, or was the value of an enum, could be hashed when it was sent."""
    return tuple(hashable(child) for child in value) if isinstance(value, list) else value


def _native(hint: Any, kind: type) -> Converter:
    """What msgspec builds by itself."""

    def build(value: Any) -> Any:
        if isinstance(value, (kind, errors.BranchError)):
            return value
        try:
            # bytes are named, so that text is never taken for base64
            return msgspec.convert(value, hint, builtin_types=_BYTES, dec_hook=_decode_other)
        except msgspec.ValidationError as cause:
            raise Mismatch(hint, value, str(cause)) from cause

    return build


def _decode_other(kind: Any, value: Any) -> Any:
    """A field whose type msgspec does not know."""
    return _model(kind)(value) if isinstance(kind, type) and is_model(kind) else value


def _record(hint: Any, kind: type, converter_of: ConverterOf) -> Converter:
    native = _native(hint, kind)
    by_fields: Converter | None = None

    def build(value: Any) -> Any:
        nonlocal by_fields
        if by_fields is not None:
            return by_fields(value)
        try:
            return native(value)
        except Mismatch:
            raise
        except Exception:  # TypeError, NameError and what msgspec lets through
            # a field's annotation is one that msgspec refuses, such as a union of two dataclasses
            by_fields = _by_fields(kind, converter_of)
            return by_fields(value)

    return build


def _by_fields(kind: type, converter_of: ConverterOf) -> Converter:
    """Calls the class with its fields, each converted on its own."""
    hints = hints_of(kind)
    fields = _fields(kind)

    def build(value: Any) -> Any:
        if isinstance(value, (kind, errors.BranchError)):
            return value
        if not isinstance(value, Mapping):
            raise Mismatch(kind, value)
        arguments = {
            parameter: at(f".{name}", converter_of(hints.get(parameter, Any)), value[name])
            for name, parameter in fields.items()
            if name in value
        }
        try:
            return kind(**arguments)
        except Exception as cause:
            raise Mismatch(kind, value, f"{type(cause).__name__}: {cause}") from cause

    return build


def _fields(kind: Any) -> dict[str, str]:
    """The names of a record's fields as they travel, each with the parameter of its class that sets it."""
    if issubclass(kind, msgspec.Struct):
        return dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    if dataclasses.is_dataclass(kind):
        return {field.name: field.name for field in dataclasses.fields(kind) if field.init}
    return {item.name: item.alias or item.name for item in kind.__attrs_attrs__ if item.init}


def _model(kind: Any) -> Converter:
    accepted = inspect.signature(kind.model_validate).parameters
    options: dict[str, Any] = {"by_alias": True, "by_name": True} if "by_name" in accepted else {}
    if getattr(kind, "model_config", {}).get("strict"):
        # a strict model takes no text for a date or a UUID, but as text they travel
        options["strict"] = False

    def build(value: Any) -> Any:
        if isinstance(value, (kind, errors.BranchError)):
            return value
        try:
            return kind.model_validate(value, **options)
        except Exception as cause:
            raise Mismatch(kind, value, _validation_text(cause)) from cause

    return build


def _validation_text(cause: Any) -> str:
    """What pydantic found, without the values that it found it in."""
    try:
        found = cause.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in found[:5])
    except Exception:  # an exception of a validator that the user wrote
        return f"{type(cause).__name__}: {cause}"


def _bytes(kind: Any) -> Converter:
    def build(value: Any) -> Any:
        if isinstance(value, (kind, errors.BranchError)):
            return value
        if isinstance(value, _BYTES):
            return kind(value)
        raise Mismatch(kind, value)

    return build


def _enum(kind: type[enum.Enum]) -> Converter:
    def build(value: Any) -> Any:
        if isinstance(value, (kind, errors.BranchError)):
            return value
        try:
            return kind(hashable(value))
        except Exception as cause:
            for member in kind:
                if _travelled(member.value) == value:
                    return member
            raise Mismatch(kind, value, "it is none of its values") from cause

    return build


def _travelled(value: Any) -> Any:
    """What an enum's value is after a journey: a date has become text."""
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    except Exception:  # then it never travelled
        return value


def literal(members: Sequence[enum.Enum]) -> Converter:
    """The builder of a ``Literal`` that names members of enums."""

    def build(value: Any) -> Any:
        return next((member for member in members if member is value or _travelled(member.value) == value), value)

    return build


def _named_tuple(kind: Any, converter_of: ConverterOf) -> Converter:
    hints = hints_of(kind)

    def build(value: Any) -> Any:
        if isinstance(value, (kind, errors.BranchError)):
            return value
        if not isinstance(value, (list, tuple)) or len(value) > len(kind._fields):
            raise Mismatch(kind, value)
        named = zip(kind._fields, value, strict=False)
        try:
            return kind(*[at(f".{name}", converter_of(hints.get(name, Any)), child) for name, child in named])
        except TypeError as cause:
            raise Mismatch(kind, value, str(cause)) from cause

    return build

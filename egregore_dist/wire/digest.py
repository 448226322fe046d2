"""The digest of a value: the same in every process for values that are equal."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import hashlib
import uuid
from typing import Any

import msgspec

from egregore_dist.wire import codec

_encoder = msgspec.msgpack.Encoder()
_sorting_encoder = msgspec.msgpack.Encoder(order="sorted")
_LEAVES = frozenset((str, int, float, bool, bytes, type(None), dt.datetime, dt.date, uuid.UUID, decimal.Decimal))
_TEXT = frozenset((str,))


def of(value: Any) -> str:
    """The SHA-256, as hexadecimal text, of a value that `codec.encode` takes.

    The order of a mapping's keys and of a set's items does not matter. An object has the digest of the mapping of its
    fields, without those that have their default: a class may gain such fields. Values of different types are
    different: ``1``, ``1.0`` and ``True`` have three digests.
    """
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    """MessagePack in a fixed order: the same bytes for equal values, other bytes for other values."""
    if _is_plain(value):
        return _sorting_encoder.encode(value)
    if isinstance(value, dict):
        return _mapping([(_canonical(key), _canonical(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return _encoder.encode([msgspec.Raw(_canonical(item)) for item in value])
    if isinstance(value, set | frozenset):
        return _encoder.encode([msgspec.Raw(item) for item in sorted(map(_canonical, value))])
    fields = _fields(value)
    if fields is not None:
        return _canonical(fields)
    try:
        return _encoder.encode(value)
    except TypeError:
        return _canonical(codec.replacement(value))


def _is_plain(value: Any) -> bool:
    """Whether msgspec orders ``value``: it does so for keys that are text, and not for every set."""
    level = [value]
    while level := [part for part in level if type(part) not in _LEAVES]:
        for part in level:
            if type(part) is dict:
                if not _TEXT.issuperset(map(type, part)):
                    return False
            elif type(part) not in (list, tuple):
                return False
        level = [child for part in level for child in (part.values() if type(part) is dict else part)]
    return True


def _mapping(pairs: list[tuple[bytes, bytes]]) -> bytes:
    ordered = sorted((_text_of(key), key, item) for key, item in pairs)
    size = len(pairs)
    if size < 16:
        header = bytes((0x80 | size,))
    else:
        header = b"\xde" + size.to_bytes(2) if size < 2**16 else b"\xdf" + size.to_bytes(4)
    return header + b"".join(key + item for _, key, item in ordered)


def _text_of(key: bytes) -> bytes:
    """The text of an encoded key, by which msgspec orders keys; of any other key what it is encoded as."""
    if 0xA0 <= key[0] <= 0xBF:
        return key[1:]
    return key[{0xD9: 2, 0xDA: 3, 0xDB: 5}.get(key[0], 0) :]


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields that msgspec encodes of an object, without those that have their default, and its tag.

    None of a type that has no fields.
    """
    kind, tag = type(value), {}
    # Of each field: its name, its name when it is encoded, its default, and what makes its default.
    fields: list[tuple[str, str, Any, Any]]
    if isinstance(value, msgspec.Struct):
        fields = [(it.name, it.encode_name, it.default, it.default_factory) for it in msgspec.structs.fields(kind)]
        if value.__struct_config__.tag is not None:
            tag = {value.__struct_config__.tag_field: value.__struct_config__.tag}
    elif dataclasses.is_dataclass(kind):
        fields = [(it.name, it.name, it.default, it.default_factory) for it in dataclasses.fields(kind)]
    elif hasattr(kind, "__attrs_attrs__"):
        attributes = [it for it in kind.__attrs_attrs__ if not it.name.startswith("_")]
        fields = [(it.name, it.name, it.default, getattr(it.default, "factory", None)) for it in attributes]
    elif callable(getattr(kind, "model_dump", None)) and hasattr(kind, "model_fields"):
        return dict(value.model_dump(round_trip=True, exclude_defaults=True))
    else:
        return None
    present = [(name, getattr(value, field, msgspec.UNSET), *default) for field, name, *default in fields]
    return tag | {
        name: item
        for name, item, default, factory in present
        if item is not msgspec.UNSET and not _is_default(item, default, factory)
    }


def _is_default(item: Any, default: Any, factory: Any) -> bool:
    if callable(factory):
        try:
            default = factory()
        except Exception:  # a user's factory can raise anything
            return False
    return item is default or (type(item) is type(default) and _canonical(item) == _canonical(default))

"""Values as MessagePack: encode, decode, and assembly of encoded parts without reading them."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import inspect
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import msgspec

from egregore_dist import errors
from egregore_dist.wire.annotations import convert
from egregore_dist.workflow import names
from egregore_dist.workflow.parallel import MAX_BRANCHES
from egregore_dist.workflow.step import MAX_NESTING

__all__ = ["convert", "decode", "encode", "join_list", "join_mapping", "split", "count", "has_entries", "Entries"]

log = logging.getLogger(__name__)

BRANCH_ERROR = 1
"""The code of the MessagePack extension that carries a `BranchError`."""

READ_BACK = 2**20
"""Encoded values up to this many bytes are read back at once, larger ones only if a key may arrive as another."""

DEPTH = 64
"""How deep lists and mappings may stand inside each other in a value."""

LARGE = 2**20
"""Values over this many bytes are warned of, once each place."""

LARGEST = 512 * 2**20 - 1
"""What a server takes as one value, in bytes."""

CONTAINERS = 4_000_000
"""How many lists, mappings and extensions a value may hold; more only with 16 bytes or more for each of them.

An empty list takes one byte, and 72 bytes of memory once it is decoded; a mapping of one entry takes 3 and 234."""

BRANCH_ERROR_LIMIT = 128 * 2**10
"""The largest encoded `BranchError`, in bytes: twice its texts, and the name of its branch."""

# Each block puts its branches' values into one mapping more.
_JOINED_DEPTH = DEPTH + MAX_NESTING

# Bytes that begin no list and no mapping: what is left without them counts the containers, and never too few.
_NO_CONTAINERS = bytes(byte for byte in range(256) if not (0x80 <= byte <= 0x9F or 0xDC <= byte <= 0xDF))
_NO_MAPPING = bytes(byte for byte in range(256) if not (0x80 <= byte <= 0x8F or byte in (0xDE, 0xDF)))
_BYTES_EACH = 16
_WINDOW = 2**20
# As many numbers, constants and short texts as follow each other, and then as many short lists and mappings.
_RUN_OF_ITEMS = re.compile(
    rb"(?:[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]|[\xcc\xd0].|[\xcd\xd1].{2}|[\xca\xce\xd2].{4}|[\xcb\xcf\xd3].{8}|"
    + b"|".join(re.escape(bytes([0xA0 + size])) + b".{%d}" % size for size in range(32))
    + rb")*+([\x80-\x9f]*+)",
    re.DOTALL,
)
# Of other first bytes: how many bytes hold the size of what follows, the bytes besides, and whether it is counted.
_HEADS = {0xDC: (0, 3, 1), 0xDD: (0, 5, 1), 0xDE: (0, 3, 1), 0xDF: (0, 5, 1)}
_HEADS |= {0xD4 + power: (0, 2 + 2**power, 1) for power in range(5)}
_HEADS |= {0xC7: (1, 3, 1), 0xC8: (2, 4, 1), 0xC9: (4, 6, 1)}
_HEADS |= {0xC4: (1, 2, 0), 0xC5: (2, 3, 0), 0xC6: (4, 5, 0), 0xD9: (1, 2, 0), 0xDA: (2, 3, 0), 0xDB: (4, 5, 0)}
_CONTAINERS = (list, dict, tuple, set, frozenset)
_FLAT = frozenset((str, int, float, bool, bytes, type(None)))
_LEAVES = _FLAT | {dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal}
# Finite, and in order: they travel as lists.
_LISTS: tuple[Any, ...] = (range, collections.deque, type({}.keys()), type({}.values()), type({}.items()))
_LONGEST = 2**24

_KEY_DEPTH = 4
_DEEPEST = 32
_SHOWN = 60
_WARNED_OF_AT_MOST = 1024
_warned_of: set[str] = set()

_NUMPY_TIMES = ("datetime", "timedelta")  # their items may be bare numbers, without a unit
_LIMIT = "EGREGORE_PAYLOAD_LIMIT"
_RUN = "egregore_dist.client.run.Run"  # by its name: clients stand above the wire


class _BranchErrorFields(msgspec.Struct, array_like=True):
    branch: msgspec.Raw
    kind: Annotated[str, msgspec.Meta(max_length=32)]
    type: Annotated[str, msgspec.Meta(max_length=1024)]
    message: str
    node: Annotated[str, msgspec.Meta(max_length=1024)] | None
    traceback: str | None
    attempt: int


def encode(value: Any, *, where: str, limit: int | None = None) -> bytes:
    """The MessagePack of ``value``.

    Args:
        value: plain data, or what msgspec encodes (dataclasses, attrs, structs, dates, UUIDs, enums, sets ...), or
            pydantic models, numpy scalars and `BranchError` values, anywhere inside each other. Of an attrs class,
            attributes whose names begin with an underscore stay behind: msgspec takes them for private.
        where: what the value is, for messages, such as ``"the value returned by node 'load'"``.
        limit: the largest result, in bytes; None for no limit. With one, results over `LARGE` are warned of.

    Raises:
        EncodingError: something inside cannot be encoded; says what, where inside, and what to do.
        PayloadTooLarge: the result is larger than ``limit``.
    """
    try:
        raw = _encoder.encode(value)
    except RecursionError:
        raise _too_deep(where) from None
    except errors.EncodingError as cause:
        raise errors.EncodingError(f"{where} cannot be encoded: {cause}") from None
    except Exception as cause:
        raise _explain(value, where, cause) from cause
    containers = _most_containers(raw, where)
    if limit is not None:
        _check_size(raw, where, limit)
    seen = value
    if len(raw) <= READ_BACK or not _keeps_its_keys(value):
        try:
            seen = _decoder.decode(raw)
        except Exception as cause:
            raise errors.EncodingError(
                f"{where} could not be read back: {cause}. "
                "As keys of a dict use text, numbers, bytes, or tuples of these."
            ) from cause
        # Keys that were different here and are equal there, such as a date and its text, leave fewer entries.
        if len(raw.translate(None, _NO_MAPPING)) and len(_encoder.encode(seen)) != len(raw):
            raise errors.EncodingError(
                f"{where} has a mapping with two keys that are equal where they are read: an entry would be lost. "
                "Dates, UUIDs and enums are read as plain text or numbers there; rename one of the keys."
            )
    if containers > DEPTH and _is_deeper(seen, DEPTH):
        raise _too_deep(where)
    return raw


def decode(raw: bytes) -> Any:
    """The plain value that ``raw`` holds; keys of mappings keep their types.

    Raises:
        EncodingError: ``raw`` is not well-formed MessagePack, is nested too deeply, or holds too many `CONTAINERS`.
    """
    containers = _most_containers(raw, "stored data")
    try:
        value = _decoder.decode(raw)
    except RecursionError:
        raise _too_deep("stored data", _JOINED_DEPTH) from None
    except Exception as cause:
        raise _malformed(cause) from cause
    if containers > _JOINED_DEPTH and _is_deeper(value, _JOINED_DEPTH):
        raise _too_deep("stored data", _JOINED_DEPTH)
    return value


def join_list(raws: Sequence[bytes]) -> bytes:
    """A list of encoded values, without decoding them.

    Raises:
        EncodingError: together they hold too many `CONTAINERS`.
        PayloadTooLarge: together they are larger than what a server takes as one value.
    """
    return _storable(_encoder.encode([msgspec.Raw(raw) for raw in raws]))


def join_mapping(pairs: Sequence[tuple[Any, bytes]]) -> bytes:
    """A mapping of keys to encoded values, in order, without decoding them.

    Raises:
        EncodingError: two keys are equal, a key cannot be encoded, or together they hold too many `CONTAINERS`.
        PayloadTooLarge: together they are larger than what a server takes as one value.
    """
    mapping = {key: msgspec.Raw(raw) for key, raw in pairs}
    if len(mapping) != len(pairs):
        raise errors.EncodingError("two entries of a mapping have one key: a result would be lost. Rename one of them.")
    try:
        raw = _encoder.encode(mapping)
    except Exception as cause:
        raise _explain(list(mapping), "the keys of a mapping", cause) from cause
    return _storable(raw)


def has_entries(raw: bytes) -> bool:
    """Whether an encoded value is a list or a mapping, which `split` takes apart."""
    return bool(raw[:1].translate(None, _NO_CONTAINERS))


def count(raw: bytes) -> int | None:
    """How many entries an encoded list or mapping says that it has, without decoding them; None for another value."""
    head = raw[0] if raw else 0
    if 0x80 <= head <= 0x9F:
        return head & 0x0F
    if head in (0xDC, 0xDE):
        return int.from_bytes(raw[1:3], "big")
    return int.from_bytes(raw[1:5], "big") if head in (0xDD, 0xDF) else None


class Entries:
    """The entries of an encoded list or mapping, of which a reader copies those that it needs.

    Attributes:
        keys: a mapping's keys in order, or a list's indices.
    """

    def __init__(self, parts: list[msgspec.Raw] | dict[Any, msgspec.Raw]) -> None:
        self.keys: Sequence[Any] = tuple(parts) if isinstance(parts, dict) else range(len(parts))
        self._values = tuple(parts.values()) if isinstance(parts, dict) else parts

    def __len__(self) -> int:
        return len(self._values)

    def value(self, at: int) -> bytes:
        """The encoded value of the entry at this place."""
        return bytes(self._values[at])


def split(raw: bytes) -> Entries:
    """Take an encoded list or mapping apart, without decoding its values.

    Raises:
        EncodingError: ``raw`` holds something else, or is malformed.
    """
    n = count(raw)
    if n is not None and n > MAX_BRANCHES:
        raise errors.EncodingError(f"a list or mapping of {n} entries: a block has at most {MAX_BRANCHES} branches")
    if len(raw) > CONTAINERS and is_mapping(raw):
        _most_containers(raw, "a mapping")  # its keys are decoded
    try:
        parts = _splitter.decode(raw)
    except msgspec.ValidationError:
        came = type(decode(raw)).__name__
        raise errors.EncodingError(
            f"a list or a mapping is needed here, one branch per item, but {came} came. "
            "Let the step before return a list or a dict."
        ) from None
    except Exception as cause:
        raise _malformed(cause) from cause
    return Entries(parts)


def replacement(value: Any) -> Any:
    """What to encode in place of ``value``, whose type msgspec does not know."""
    if isinstance(value, errors.BranchError):
        fields = _BranchErrorFields(
            msgspec.Raw(_encoder.encode(value.branch)),
            value.kind,
            value.type,
            value.message,
            value.node,
            value.traceback,
            value.attempt,
        )
        return msgspec.msgpack.Ext(BRANCH_ERROR, _encoder.encode(fields))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, _LISTS):
        if len(value) > _LONGEST:
            raise errors.EncodingError(f"a {type(value).__name__} of {len(value)} items. Send what makes it instead.")
        return list(value)
    kind = type(value)
    if callable(getattr(kind, "model_dump", None)) and hasattr(kind, "model_fields"):
        return value.model_dump(round_trip=True)
    package = kind.__module__.partition(".")[0]
    if package == "numpy" and getattr(value, "shape", None) == () and not kind.__name__.startswith(_NUMPY_TIMES):
        item = value.item()
        if isinstance(item, (bool, int, float)):
            return item
    if package in ("pydantic", "pydantic_core") and kind.__name__.endswith(("Url", "Dsn")):
        return str(value)
    raise NotImplementedError


def _decode_extension(code: int, data: memoryview) -> Any:
    if code != BRANCH_ERROR:
        return msgspec.msgpack.Ext(code, bytes(data))
    if len(data) > BRANCH_ERROR_LIMIT:
        raise errors.EncodingError(f"a BranchError of {len(data)} bytes; at most {BRANCH_ERROR_LIMIT} are read")
    fields = _fields_decoder.decode(data)
    return errors.BranchError(
        _key(_key_decoder.decode(fields.branch)),
        kind=fields.kind,
        type=fields.type,
        message=fields.message,
        node=fields.node,
        traceback=fields.traceback,
        attempt=fields.attempt,
    )


def _key(value: Any, depth: int = _KEY_DEPTH) -> Any:
    """The name of a branch: a key of a mapping, which may be a tuple of keys."""
    if isinstance(value, list) and depth:
        return tuple([_key(part, depth - 1) for part in value])
    if type(value) not in _FLAT:
        raise errors.EncodingError(f"a BranchError whose branch is a {type(value).__name__}, and no name")
    return value


_encoder = msgspec.msgpack.Encoder(enc_hook=replacement)
_decoder = msgspec.msgpack.Decoder(ext_hook=_decode_extension)
_fields_decoder = msgspec.msgpack.Decoder(_BranchErrorFields)
# Without the hook: no BranchError stands in the name of another.
_key_decoder = msgspec.msgpack.Decoder()
_splitter = msgspec.msgpack.Decoder(list[msgspec.Raw] | dict[Any, msgspec.Raw], ext_hook=_decode_extension)


def _check_size(raw: bytes, where: str, limit: int) -> None:
    if len(raw) > limit:
        raise errors.PayloadTooLarge(
            f"{where} takes {len(raw)} bytes encoded, the limit is {limit}. "
            f"Return a reference (a path, a key, a URL) instead, or raise {_LIMIT} on clients and workers."
        )
    if len(raw) > LARGE and where not in _warned_of and len(_warned_of) < _WARNED_OF_AT_MOST:
        _warned_of.add(where)
        log.warning(
            "%s takes %.1f MB encoded: a reference (a path, a key, a URL) to something so large is faster",
            where,
            len(raw) / 1e6,
            extra={"action": "large_payload"},
        )


def _storable(raw: bytes) -> bytes:
    if len(raw) > LARGEST:
        raise errors.PayloadTooLarge(
            f"the values of a block's branches take {len(raw)} bytes together, and a server stores at most {LARGEST} "
            "as one value. Let the branches return references (a path, a key, a URL) instead."
        )
    if len(raw) > CONTAINERS:
        _most_containers(raw, "the results of a block")
    return raw


def _most_containers(raw: bytes, where: str) -> int:
    """As many lists and mappings as ``raw`` can hold, or more. Raises `errors.EncodingError` if it holds too many."""
    if len(raw) <= DEPTH or raw[0] in _NO_CONTAINERS:
        return 0
    # Bytes of numbers and texts are counted with them.
    most = len(raw.translate(None, _NO_CONTAINERS))
    if most > CONTAINERS:
        limit = max(CONTAINERS, len(raw) // _BYTES_EACH)
        if most > limit and _has_more_containers(raw, most, limit):
            raise errors.EncodingError(
                f"{where} has more than {limit} lists and mappings in {len(raw)} bytes, and takes many times as much "
                "memory. Return columns (a mapping of lists) instead of records, or a reference (a path, a key, a URL)."
            )
    return most


def _has_more_containers(raw: bytes, most: int, limit: int) -> bool:
    """Whether more than ``limit`` lists, mappings and extensions begin before the end, or what is malformed.

    ``most`` counts the bytes that may begin one. What was passed is counted exactly, so that not all has to be read.
    """
    counted, at, began, matched, end = 0, 0, 0, 0, len(raw)
    while at < end:
        if matched > _WINDOW:
            most -= len(raw[began:at].translate(None, _NO_CONTAINERS))
            began, matched = at, 0
            if counted + most <= limit:
                return False
        passed, after = _RUN_OF_ITEMS.match(raw, at, at + _WINDOW).span(1)  # type: ignore[union-attr]  # or nothing
        counted += after - passed
        if counted > limit:
            return True
        matched += after - at + 1
        head = _HEADS.get(raw[after]) if after < end else None
        if head is None:
            if after == at:
                return False
            at = after
            continue
        width, fixed, counts = head
        at = after + fixed + (int.from_bytes(raw[after + 1 : after + 1 + width], "big") if width else 0)
        counted += counts
    return counted > limit


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether more than ``limit`` containers stand inside each other in ``value``."""
    level = [value]
    for _ in range(limit):
        level = [child for part in level for child in _inside(part) if type(child) not in _FLAT]
        if not level:
            return False
    return any(isinstance(part, _CONTAINERS) for part in level)


def _keeps_its_keys(value: Any) -> bool:
    """Whether every mapping inside ``value`` can be seen, and its keys are read as what they are."""
    level = [value]
    while level:
        for part in level:
            if not isinstance(part, _CONTAINERS) or (isinstance(part, dict) and not _FLAT.issuperset(map(type, part))):
                return False
        level = [child for part in level for child in _inside(part) if type(child) not in _LEAVES]
    return True


def _inside(part: Any) -> Iterable[Any]:
    if isinstance(part, dict):
        return part.values()
    return part if isinstance(part, _CONTAINERS) else ()


def _too_deep(where: str, limit: int = DEPTH) -> errors.EncodingError:
    return errors.EncodingError(
        f"{where} is nested too deeply, or contains itself: at most {limit} lists and mappings may stand inside each "
        "other. Flatten it, or refer to parts by id."
    )


def _malformed(cause: Exception) -> errors.EncodingError:
    return errors.EncodingError(
        f"stored data is not well-formed MessagePack: {cause}. It was damaged, or written by something else."
    )


def _explain(value: Any, where: str, cause: Exception) -> errors.EncodingError:
    """Names the innermost part of ``value`` that fails, its path and the cure."""
    path, part, cause = _culprit(value, cause)
    place = f" at {path}" if path else ""
    return errors.EncodingError(f"{where} cannot be encoded: {names.of_class(type(part))}{place}. {_cure(part, cause)}")


def _culprit(value: Any, cause: Exception) -> tuple[str, Any, Exception]:
    path = ""
    for _ in range(_DEEPEST):
        for step, child in _children(value):
            failure = _failure(child)
            if failure is not None:
                path, value, cause = path + step, child, failure
                break
        else:
            break
    return path, value, cause


def _failure(value: Any) -> Exception | None:
    try:
        _encoder.encode(value)
    except Exception as failure:
        return failure
    return None


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value, each with how to reach it."""
    kind = type(value)
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"[{names.shortened(key, _SHOWN)}]", child
        for key in value:
            yield f" (the key {names.shortened(key, _SHOWN)})", key
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", child) for index, child in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f" (the element {names.shortened(child, _SHOWN)})", child) for child in value)
    else:
        for name in _field_names(kind):
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _field_names(kind: type) -> list[str]:
    if issubclass(kind, msgspec.Struct):
        return list(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    if hasattr(kind, "__attrs_attrs__"):
        return [attribute.name for attribute in kind.__attrs_attrs__]
    return list(getattr(kind, "model_fields", ()))


_CURE_OF_RECORDS = '; of a frame\'s records, return json.loads(frame.to_json(orient="records", date_format="iso")).'


def _cure(value: Any, cause: Exception) -> str:
    """What to do about ``value``, which cannot be encoded."""
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, int):
        return "Integers must lie within 64 bits; send larger ones as text: str(value)."
    if isinstance(value, str):
        return "The text has lone surrogates; send it as bytes: value.encode('utf-8', 'surrogateescape')."
    if package == "numpy" and hasattr(value, "tolist"):
        return "Return array.tolist(), or array.tobytes() with shape and dtype."
    if package == "pandas":
        return _cure_of_pandas(type(value).__name__)
    if package == "polars":
        return "Return frame.to_dicts() or series.to_list(), or write the frame to a file and return its path."
    if isinstance(value, BaseException):
        return "Raise the exception, or return str(exception)."
    if names.of_class(type(value)) == _RUN:
        return "Send run.id; Run(id) is the same run elsewhere."
    if inspect.isawaitable(value):
        return "Await it before returning it."
    if isinstance(value, type) or callable(value):
        return "Code does not travel as data; return what it produces, or its name."
    if hasattr(type(value), "__fspath__"):
        return "Return str(path)."
    if callable(getattr(value, "read", None)):
        return "Read it and return the content, or return its path."
    if hasattr(type(value), "keys") and hasattr(type(value), "__getitem__"):
        return "Return dict(value)."
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return "It can be read only once, and only here: make a list of it first."
    if hasattr(type(value), "__iter__"):
        return "Return list(value)."
    if _field_names(type(value)):
        return f"{type(cause).__name__}: {cause}."
    return "Use plain data instead: a dict, a dataclass, a msgspec.Struct or a pydantic model."


def _cure_of_pandas(kind: str) -> str:
    # to_dict() keeps timestamps and missing values, which travel no better; to_json() makes text and null of them.
    match kind:
        case "Timestamp":
            return "Return value.to_pydatetime(), or value.isoformat()" + _CURE_OF_RECORDS
        case "Timedelta":
            return "Return value.to_pytimedelta(), or value.isoformat()" + _CURE_OF_RECORDS
        case "NaTType" | "NAType":
            return "Return None in its place" + _CURE_OF_RECORDS
        case "DataFrame":
            return (
                'Return json.loads(frame.to_json(orient="records", date_format="iso")), or write the frame to a file '
                "and return its path."
            )
        case "Series":
            return 'Return json.loads(series.to_json(orient="values", date_format="iso")).'
    return "Return str(value), or list(value) if it has several items."


def is_mapping(raw: bytes) -> bool:
    """Whether ``raw`` holds a mapping, told from its first byte."""
    return bool(raw) and (0x80 <= raw[0] <= 0x8F or raw[0] in (0xDE, 0xDF))

"""From plain data to what an annotation asks for, where plain data is not enough.

An annotation is *rich* if MessagePack does not give its type back by itself: a dataclass, a date, a set, a tuple, an
enum ... anywhere inside it. Values of other annotations pass untouched and unchecked, as in Python.
"""

from __future__ import annotations

import collections
import collections.abc
import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from egregore_dist import errors
from egregore_dist.wire.leaves import (
    Converter,
    Mismatch,
    all_of,
    at,
    hashable,
    hints_of,
    is_typed_dict,
    leaf,
    literal,
    names_of,
)

_LISTS = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_MAPPINGS = (
    dict,
    collections.OrderedDict,
    collections.defaultdict,
    collections.abc.Mapping,
    collections.abc.MutableMapping,
)
_SETS: dict[Any, Callable[[Iterable[Any]], Any]] = {
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}
_QUALIFIERS = frozenset({"ClassVar", "Final", "NotRequired", "ReadOnly", "Required"})
_CACHE_SIZE = 4096
_MANY = 16  # from so many items on, one call for all of them is tried first

# By identity: unions that are equal may differ in the order of their members, and not every annotation can be hashed.
# The annotation is held, so that its identity stays its own.
_cache: dict[int, tuple[Any, Converter | None]] = {}


def convert(value: Any, annotation: Any, where: str) -> Any:
    """``value`` as ``annotation`` asks for it.

    A `BranchError` is kept wherever it stands. Aware datetimes come back as the same instant, in UTC. Of a union the
    first member that fits wins; one that has a field for each key that came goes before one that would drop some.

    Args:
        value: what `decode` gave.
        annotation: any annotation; a rich one builds, another passes the value through.
        where: what is being filled, for messages, such as ``"parameter 'order' of node 'ship'"``.

    Raises:
        BindingError: the value does not fit.
    """
    converter = _converter_of(annotation)
    if converter is None:
        return value
    try:
        return converter(value)
    except Mismatch as miss:
        place = f" at {miss.path}" if miss.path else ""
        detail = f" ({miss.detail})" if miss.detail else ""
        raise errors.BindingError(
            f"{where}{place}: expected {_name(miss.annotation)}, got {_came(miss.value)}{detail}. "
            "Change the annotation, or what the step before returns."
        ) from miss.__cause__


def _converter_of(annotation: Any) -> Converter | None:
    known = _cache.get(id(annotation))
    if known is not None:
        return known[1]
    converter = _compile(annotation, ())
    if len(_cache) >= _CACHE_SIZE:
        _cache.clear()
    _cache[id(annotation)] = (annotation, converter)
    return converter


def _late(annotation: Any) -> Converter:
    """The converter of an annotation that refers to itself, looked up when it is used."""

    def build(value: Any) -> Any:
        converter = _converter_of(annotation)
        return value if converter is None else converter(value)

    return build


def _compile(hint: Any, within: tuple[Any, ...]) -> Converter | None:
    """How to build a value of ``hint``, or None if it passes as it is; ``within`` are the annotations around it."""
    inner = _bare(hint)
    if not _is_rich(inner, ()):
        return None
    if any(hint is outer for outer in within):
        return _late(hint)
    within = (*within, hint)
    if inner is not hint:
        return _compile(inner, within)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return literal([choice for choice in args if isinstance(choice, enum.Enum)])
    if origin in (typing.Union, types.UnionType):
        return _union(hint, [(member, _compile(member, within)) for member in args])
    kind: Any = origin or hint
    if kind is tuple:
        return _tuple(hint, args, [_compile(arg, within) for arg in args if arg is not Ellipsis])
    if kind in _SETS:
        return _set(hint, kind, _compile(args[0], within) if args else None)
    if kind in _LISTS:
        return _list(hint, kind, args[0], _compile(args[0], within))
    if kind in _MAPPINGS:
        return _mapping(hint, _compile(args[0], within), _compile(args[1], within))
    if is_typed_dict(kind):
        return _typed_dict(kind, {name: _compile(field, within) for name, field in hints_of(kind).items()})
    return leaf(hint, kind, _converter_of)


def _bare(hint: Any) -> Any:
    """``hint`` without ``Annotated``, ``NewType``, type aliases, and qualifiers such as ``Required``."""
    if typing.get_origin(hint) is typing.Annotated or getattr(typing.get_origin(hint), "_name", None) in _QUALIFIERS:
        return typing.get_args(hint)[0]
    if isinstance(hint, typing.NewType):
        return hint.__supertype__
    if type(hint).__name__ == "TypeAliasType":  # the type statement of Python 3.12
        return hint.__value__
    return hint


def _is_rich(hint: Any, within: tuple[Any, ...]) -> bool:
    if any(hint is outer for outer in within):
        return False
    within = (*within, hint)
    inner = _bare(hint)
    if inner is not hint:
        return _is_rich(inner, within)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(isinstance(choice, enum.Enum) for choice in args)
    kind = origin or hint
    if kind is tuple or kind in (typing.Union, types.UnionType):
        return kind is tuple or any(_is_rich(arg, within) for arg in args)
    if not isinstance(kind, type):
        return False
    if kind in _SETS:
        return True
    if kind in _LISTS or kind in _MAPPINGS:
        return any(_is_rich(arg, within) for arg in args)
    if is_typed_dict(kind):
        return any(_is_rich(field, within) for field in hints_of(kind).values())
    return leaf(hint, kind, _converter_of) is not None


def _list(hint: Any, kind: Any, item_hint: Any, item: Converter | None) -> Converter:
    def build(value: Any) -> Any:
        if isinstance(value, errors.BranchError):
            return value
        if isinstance(value, list) and len(value) >= _MANY and (built := all_of(value, item_hint)) is not None:
            return built
        if isinstance(value, (list, tuple)):
            return _items(item, value)
        if isinstance(value, kind) and not isinstance(value, (str, bytes, Mapping)):
            return value
        raise Mismatch(hint, value)

    return build


def _mapping(hint: Any, key: Converter | None, item: Converter | None) -> Converter:
    def build(value: Any) -> Any:
        if isinstance(value, errors.BranchError):
            return value
        if not isinstance(value, Mapping):
            raise Mismatch(hint, value)
        built: dict[Any, Any] = {}
        for name, child in value.items():
            try:
                built[name if key is None else key(name)] = child if item is None else item(child)
            except Mismatch as miss:
                raise miss.at(f"[{name!r:.60}]") from miss.__cause__
        return built

    return build


def _set(hint: Any, kind: Any, item: Converter | None) -> Converter:
    make = _SETS[kind]

    def build(value: Any) -> Any:
        if isinstance(value, errors.BranchError) or (item is None and isinstance(value, kind)):
            return value
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise Mismatch(hint, value)
        try:
            return make(hashable(child) for child in _items(item, value))
        except TypeError as cause:
            raise Mismatch(hint, value, str(cause)) from cause

    return build


def _tuple(hint: Any, args: tuple[Any, ...], items: list[Converter | None]) -> Converter:
    # tuple[()] has no arguments either, but an origin
    open_ended = args[1:] == (Ellipsis,) or hint is tuple or hint is typing.Tuple  # noqa: UP006  # compared, not used

    def build(value: Any) -> Any:
        if isinstance(value, errors.BranchError) or (isinstance(value, tuple) and not any(items)):
            return value
        if not isinstance(value, (list, tuple)):
            raise Mismatch(hint, value)
        if open_ended:
            return tuple(_items(items[0] if items else None, value))
        if len(value) != len(items):
            raise Mismatch(hint, value)
        return tuple(
            at(f"[{index}]", item, child) for index, (item, child) in enumerate(zip(items, value, strict=True))
        )

    return build


def _typed_dict(kind: Any, fields: Mapping[str, Converter | None]) -> Converter:
    def build(value: Any) -> Any:
        if isinstance(value, errors.BranchError):
            return value
        if not isinstance(value, Mapping):
            raise Mismatch(kind, value)
        return {name: at(f"[{name!r:.60}]", fields.get(name), child) for name, child in value.items()}

    return build


def _union(hint: Any, members: list[tuple[Any, Converter | None]]) -> Converter:
    keys = [names_of(_bare(member)) for member, _ in members]

    def build(value: Any) -> Any:
        if isinstance(value, errors.BranchError):
            return value
        misses = []
        for member, converter in _ordered(value):
            if converter is None:
                if _satisfies(value, member):
                    return value
                continue
            try:
                return converter(value)
            except Mismatch as miss:
                misses.append(miss)
        if len(misses) == 1:
            raise misses[0].at("") from misses[0].__cause__
        raise Mismatch(hint, value)

    def _ordered(value: Any) -> list[tuple[Any, Converter | None]]:
        if not isinstance(value, Mapping):
            return members
        given = value.keys()
        drops = [known is not None and not given <= known for known in keys]
        return [member for _, member in sorted(zip(drops, members, strict=True), key=lambda pair: pair[0])]

    return build


def _satisfies(value: Any, member: Any) -> bool:
    """Whether a member of a union that needs no building takes ``value``; one that cannot be asked does."""
    while (inner := _bare(member)) is not member:
        member = inner
    origin = typing.get_origin(member)
    if origin is typing.Literal:
        return value in typing.get_args(member)
    kind = type(None) if member is None else origin or member
    if kind is Any or not isinstance(kind, type):
        return True
    if is_typed_dict(kind):
        return isinstance(value, Mapping)
    try:
        return isinstance(value, (int, float) if kind is float else kind)
    except TypeError:
        return True


def _items(item: Converter | None, values: Iterable[Any]) -> list[Any]:
    if item is None:
        return list(values)
    built: list[Any] = []
    try:
        for child in values:
            built.append(item(child))  # noqa: PERF401  # its length tells where a mismatch is
    except Mismatch as miss:
        raise miss.at(f"[{len(built)}]") from miss.__cause__
    return built


def _name(annotation: Any) -> str:
    is_class = isinstance(annotation, type) and not typing.get_args(annotation)
    return annotation.__qualname__ if is_class else str(annotation)


def _came(value: Any) -> str:
    """What came, without its content: its type, and the keys of a mapping."""
    if isinstance(value, Mapping):
        keys = ", ".join(f"{key!r:.40}" for key in list(value)[:10])
        return f"a mapping with the keys {keys}{', ...' if len(value) > 10 else ''}" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)} items"
    return type(value).__name__

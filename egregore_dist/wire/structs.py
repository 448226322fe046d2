"""Struct classes that travel by value.

cloudpickle makes a class first and fills it afterwards; a struct class needs its fields when it is made.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import msgspec

StructMeta: Any = type(msgspec.Struct)

_OPTIONS = (
    "array_like",
    "cache_hash",
    "dict",
    "eq",
    "forbid_unknown_fields",
    "frozen",
    "gc",
    "omit_defaults",
    "order",
    "repr_omit_defaults",
    "tag",
    "tag_field",
    "weakref",
)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes a struct class where cloudpickle would call its metaclass.

    Attributes:
        fields: the arguments of `msgspec.field` for each field, by name.
        options: the options of the class.
    """

    fields: dict[str, dict[str, Any]]
    options: dict[str, Any]

    def __call__(self, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        """The class; the types of its fields stay open, they follow with its methods."""
        fields = {field: msgspec.field(**arguments) for field, arguments in self.fields.items()}
        namespace = {**namespace, **fields, "__annotations__": dict.fromkeys(self.fields, Any)}
        return StructMeta(name, bases, namespace, **self.options)


def reduction(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """What cloudpickle makes of the struct class ``kind``, with a `Maker` in the place of the metaclass."""
    make, (_, *arguments), *rest = reduced
    fields = _own_fields(kind)
    options = {name: getattr(kind.__struct_config__, name) for name in _OPTIONS}
    # kw_only holds for all fields that a class declares itself, and is not among its options
    options["kw_only"] = not fields.keys() <= set(kind.__match_args__)
    return make, (Maker(fields, options), *arguments), *rest


def _own_fields(kind: Any) -> dict[str, dict[str, Any]]:
    """The fields that ``kind`` declares itself, each with the arguments of `msgspec.field`."""
    names, defaults = kind.__struct_fields__, kind.__struct_defaults__
    # defaults are those of the last fields
    defaults = (msgspec.NODEFAULT,) * (len(names) - len(defaults)) + defaults
    own = inspect.get_annotations(kind)
    return {
        name: {"name": encode_name, **_default(default)}
        for name, encode_name, default in zip(names, kind.__struct_encode_fields__, defaults, strict=True)
        if name in own
    }


def _default(default: Any) -> dict[str, Any]:
    if default is msgspec.NODEFAULT:
        return {}
    if type(default).__name__ == "Factory" and type(default).__module__ == "msgspec._core":
        return {"default_factory": default.factory}
    return {"default": default}

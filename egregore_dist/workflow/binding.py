"""Binding: which value goes to which parameter of a node's function."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from egregore_dist import errors
from egregore_dist.workflow import hints as typed
from egregore_dist.workflow import names
from egregore_dist.workflow.context import Context

_SHOWN = 20
_EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

# An annotation that could not be resolved: "Context", "egregore_dist.Context", "Context | None", "Optional[Context]".
_CONTEXT_TEXT = re.compile(
    r"(?:None\s*\|\s*)?(?:\w+\.)*Context(?:\s*\|\s*None)?|(?:\w+\.)*Optional\[(?:\w+\.)*Context\]"
)


class Convert(Protocol):
    """Makes what an annotation asks for of a value that came over the wire."""

    def __call__(self, value: Any, annotation: Any, where: str, /) -> Any:
        """Convert ``value``; ``where`` names node and parameter, for errors."""


class _Parameter(msgspec.Struct, frozen=True):
    name: str
    kind: Any
    annotation: Any
    default: Any
    is_context: bool

    @property
    def required(self) -> bool:
        return self.default is _EMPTY


class _Chosen(msgspec.Struct):
    """What was chosen for each parameter; the last two are what ``*args`` and ``**kwargs`` take."""

    values: dict[str, Any]
    positions: list[Any] | tuple[Any, ...] = ()
    keys: dict[str, Any] = {}


class Place(msgspec.Struct, frozen=True):
    """Where an argument's value is in an input.

    Attributes:
        at: its position in a list or tuple, or None.
        whole: whether it is the whole input, unless that is a mapping with its name.
        keyed: whether it is never a whole mapping.
        default: its value where the input has none; None where there is no default.
    """

    at: int | None = None
    whole: bool = False
    keyed: bool = False
    default: Any = None


class Parameters:
    """The parameters of one function, and how data is bound to them.

    A parameter annotated `Context` is injected and takes no data. With one parameter left, it gets the whole value,
    unless that is a mapping which has the parameter's name as a key and the annotation is a type that no mapping
    satisfies. Where that is one of those that are known to be no mapping, a mapping is bound by name alone. With two
    or more, a mapping is bound by name and a list or tuple by position; any other value goes to the only parameter
    without a default. Defaults count, and give way to a key that is present.
    """

    def __init__(self, parameters: list[_Parameter]) -> None:
        data = [parameter for parameter in parameters if not parameter.is_context]
        self._named = [p for p in parameters if p.kind not in (p.kind.VAR_POSITIONAL, p.kind.VAR_KEYWORD)]
        self._data = [p for p in self._named if not p.is_context]
        self._by_position = [p for p in self._data if p.kind in _POSITIONAL]
        self._required = [p for p in self._data if p.required]
        self._rest = next((p for p in data if p.kind is p.kind.VAR_POSITIONAL), None)
        self._extra = next((p for p in data if p.kind is p.kind.VAR_KEYWORD), None)
        only = self._data[0] if len(self._data) == 1 else None
        self._only = only
        self._only_by_key = only is not None and not typed.accepts_mapping(_meaning(only))
        self._only_keyed = only is not None and typed.refuses_mapping(_meaning(only))
        self._only_has_default_for_none = (
            only is not None and not only.required and not typed.accepts_none(_meaning(only))
        )
        # Most nodes have one plain parameter, so that way is short.
        self._takes_all = not (self._only_by_key or self._only_has_default_for_none)
        self._plain = only if only is not None and len(parameters) == 1 and only.kind in _POSITIONAL else None

    @classmethod
    def of(cls, fn: Callable[..., Any], hints: Mapping[str, Any] | None = None) -> Parameters:
        """Read the parameters of ``fn``.

        Args:
            fn: any callable.
            hints: its annotations, where they are resolved already.
        """
        try:
            signature = inspect.signature(fn)
        except (TypeError, ValueError):
            # Some builtins tell nothing; they get the whole value.
            alone = inspect.Parameter("value", inspect.Parameter.POSITIONAL_ONLY)
            signature = inspect.Signature([alone])
        resolved = typed.hints_of(fn) if hints is None else hints
        return cls([_read(parameter, resolved) for parameter in signature.parameters.values()])

    def bind(
        self, node_name: str, value: Any, *, context: Context | None, convert: Convert
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments to call the function with.

        Args:
            node_name: the name of the node, for errors.
            value: the run's input, or the value of the step before.
            context: what a `Context` parameter gets.
            convert: called for each bound value whose parameter has an annotation.

        Raises:
            BindingError: the value does not fit the parameters.
        """
        plain = self._plain
        if plain is not None and (self._takes_all or not (value is None or isinstance(value, Mapping))):
            return (_converted(plain, value, node_name, convert),), {}
        return self._arranged(node_name, self._chosen(node_name, value), context, convert)

    @property
    def names(self) -> list[str]:
        """The names of those that take data."""
        return [p.name for p in self._data]

    def place(self, name: str) -> Place | None:
        """Where the value of a name is in an input; None where it can be nowhere.

        It is an argument, or a key of the mapping that the only one takes whole, or that ``**kwargs`` take.
        """
        found = next((p for p in self._data if p.name == name), None)
        if found is None:
            takes_mapping = self._extra is not None or (self._only is not None and not self._only_by_key)
            return Place() if takes_mapping else None
        at = self._by_position.index(found) if found in self._by_position else None
        default = None if found.required else found.default
        is_only = self._only is found
        return Place(None if self._only else at, is_only, is_only and self._only_keyed, default)

    def check(self, node_name: str, value: Any) -> None:
        """Check that ``value`` fits the parameters, without converting anything.

        Raises:
            BindingError: it does not.
        """
        if self._plain is None or self._only_keyed:
            self._chosen(node_name, value)

    def _chosen(self, node_name: str, value: Any) -> _Chosen:
        is_mapping = isinstance(value, Mapping)
        if self._only is not None and not (self._rest is not None and isinstance(value, list | tuple)):
            return self._for_one(node_name, self._only, value, is_mapping)
        if not self._data:
            return self._for_none(node_name, value, is_mapping)
        if is_mapping:
            return self._by_name(node_name, value)
        if isinstance(value, list | tuple):
            return self._by_place(node_name, value)
        return self._for_the_required(node_name, value)

    def _for_one(self, node_name: str, only: _Parameter, value: Any, is_mapping: bool) -> _Chosen:
        if value is None and self._only_has_default_for_none:
            return _Chosen({})
        if is_mapping and self._only_keyed:
            return self._by_name(node_name, value)
        if is_mapping and only.name in value and (self._only_by_key or self._extra is not None):
            return _Chosen({only.name: value[only.name]}, keys=self._left_over(value))
        return _Chosen({only.name: value})

    def _for_none(self, node_name: str, value: Any, is_mapping: bool) -> _Chosen:
        if value is None or (self._rest is None and self._extra is None):
            return _Chosen({})
        if is_mapping and self._extra is not None:
            return _Chosen({}, keys=self._left_over(value))
        if self._rest is not None:
            return _Chosen({}, positions=value if isinstance(value, list | tuple) else (value,))
        raise errors.BindingError(
            f"node {node_name!r} takes keyword arguments only, but was given a value of type {type(value).__name__}: "
            "give a mapping"
        )

    def _by_name(self, node_name: str, value: Mapping[Any, Any]) -> _Chosen:
        missing = [p.name for p in self._required if p.name not in value]
        if missing:
            raise errors.BindingError(
                f"node {node_name!r} needs {_listed(missing)}, missing from its input; "
                f"the keys that were there: {_listed(list(value)) if value else 'none'}"
            )
        return _Chosen({p.name: value[p.name] for p in self._data if p.name in value}, keys=self._left_over(value))

    def _by_place(self, node_name: str, value: list[Any] | tuple[Any, ...]) -> _Chosen:
        taken = len(self._by_position)
        if taken == 1 and self._rest is None and all(p in self._by_position for p in self._required):
            # The others are keyword-only and have defaults, so nothing but the whole can be meant.
            return _Chosen({self._by_position[0].name: value})
        if len(value) > taken and self._rest is None:
            taking = _listed([p.name for p in self._by_position]) if taken else "none"
            raise errors.BindingError(
                f"node {node_name!r} takes {taken} values by position ({taking}), "
                f"but its input, a {type(value).__name__}, has {len(value)}"
            )
        values = {p.name: item for p, item in zip(self._by_position, value, strict=False)}
        missing = [p.name for p in self._required if p.name not in values]
        if missing:
            raise errors.BindingError(
                f"node {node_name!r} needs {_listed(missing)}, missing from its input: "
                f"a {type(value).__name__} of {len(value)}, which is bound by position"
            )
        return _Chosen(values, positions=value[taken:])

    def _for_the_required(self, node_name: str, value: Any) -> _Chosen:
        if len(self._required) == 1:
            return _Chosen({self._required[0].name: value})
        if value is None and not self._required:
            return _Chosen({})
        given = "None" if value is None else f"a single {type(value).__name__}"
        raise errors.BindingError(
            f"node {node_name!r} takes {_listed([p.name for p in self._data])}, but was given {given}: "
            "give a mapping with these keys, or a list in this order"
        )

    def _left_over(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        if self._extra is None:
            return {}
        # A positional-only parameter of the same name is bound all the same; a key is never given twice.
        taken = {p.name for p in self._named}
        return {key: item for key, item in value.items() if isinstance(key, str) and key not in taken}

    def _arranged(
        self, node_name: str, chosen: _Chosen, context: Context | None, convert: Convert
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for p in self._named:
            if p.is_context:
                argument = p.default if context is None and not p.required else context
            elif p.name in chosen.values:
                argument = _converted(p, chosen.values[p.name], node_name, convert)
            else:
                argument = p.default
            if p.kind is p.kind.POSITIONAL_ONLY or (chosen.positions and p.kind in _POSITIONAL) or p is self._plain:
                args.append(argument)
            elif p.is_context or p.name in chosen.values:
                kwargs[p.name] = argument
        if self._rest is not None:
            args += [_converted(self._rest, item, node_name, convert, "*") for item in chosen.positions]
        if self._extra is not None:
            extra = self._extra
            kwargs |= {key: _converted(extra, item, node_name, convert, "**") for key, item in chosen.keys.items()}
        return tuple(args), kwargs


def _read(parameter: inspect.Parameter, resolved: Mapping[str, Any]) -> _Parameter:
    annotation = resolved.get(parameter.name, parameter.annotation)
    is_context = _is_context(annotation)
    if isinstance(annotation, str | typing.ForwardRef) or typing.get_origin(annotation) is typing.Unpack:
        # Nothing can be converted to a name that does not resolve.
        annotation = _EMPTY
    return _Parameter(parameter.name, parameter.kind, annotation, parameter.default, is_context)


def _is_context(annotation: Any) -> bool:
    if isinstance(annotation, str):
        # Quotes stay where the module postpones its annotations as well.
        return _CONTEXT_TEXT.fullmatch(annotation.strip("'\" ")) is not None
    return annotation is not _EMPTY and Context in typed.members(annotation)


def _meaning(parameter: _Parameter) -> Any:
    return Any if parameter.annotation is _EMPTY else parameter.annotation


def _converted(parameter: _Parameter, value: Any, node_name: str, convert: Convert, stars: str = "") -> Any:
    if parameter.annotation is _EMPTY:
        return value
    return convert(value, parameter.annotation, f"node {node_name!r}, parameter '{stars}{parameter.name}'")


def _listed(keys: list[Any]) -> str:
    shown = [names.shortened(key, 40) for key in keys[:_SHOWN]]
    if len(keys) > _SHOWN:
        shown.append(f"… {len(keys) - _SHOWN} more")
    return ", ".join(shown)

"""Binding: which value goes to which parameter of a node's function. `docs/binding.md` has the rule with its cases."""

from __future__ import annotations

import enum
import functools
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


class Row(enum.Enum):
    """How a function is bound, decided by its data parameters alone."""

    WHOLE = enum.auto()  # One is required: it receives the whole value.
    KEYED = enum.auto()  # The same, but its type can be made of no mapping: a mapping is bound by name.
    SEVERAL = enum.auto()  # Several are required: a mapping is bound by name, a list by position.
    OPTIONAL = enum.auto()  # None is required: a mapping is bound by name, the first receives any other value.
    NOTHING = enum.auto()  # There are none.


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a function. Fixed: by a keyword of `functools.partial`, and never taken from the data."""

    name: str
    kind: Any
    annotation: Any
    default: Any
    is_context: bool
    is_fixed: bool

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is _EMPTY


class Chosen(msgspec.Struct):
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
        fixed: whether it is ``default``, whatever the input.
        default: its value where the input has none; None where there is no default.
    """

    at: int | None = None
    whole: bool = False
    keyed: bool = False
    fixed: bool = False
    default: Any = None


class Parameters:
    """The parameters of one function, and how data is bound to them.

    Attributes:
        row: how they are bound.
        main: receives a whole value: the only required parameter, else the first one that has a default; or None.
        data: the named parameters that take data.
        rest: ``*args``, or None.
        extra: ``**kwargs``, or None.
        taken: the keys that ``**kwargs`` never get.
        parameters: all of them, as they are declared.
    """

    def __init__(self, parameters: list[Parameter]) -> None:
        self.parameters = parameters
        named = [p for p in parameters if p.kind not in (p.kind.VAR_POSITIONAL, p.kind.VAR_KEYWORD)]
        self._named = [p for p in named if not p.is_fixed]
        self.taken = {p.name for p in named}
        self.data = [p for p in self._named if not p.is_context]
        self._required = [p for p in self.data if p.required]
        self._by_position = [p for p in self.data if p.kind in _POSITIONAL]
        self.rest = next((p for p in parameters if p.kind is p.kind.VAR_POSITIONAL and not p.is_context), None)
        self.extra = next((p for p in parameters if p.kind is p.kind.VAR_KEYWORD and not p.is_context), None)
        self.row, self.main = self._row()
        # Most nodes have one plain parameter, so that way is short.
        is_first = self._named[:1] == [self.main] and self.main in self._by_position
        self._plain = self.main if is_first and len(self._named) == len(self.data) else None
        self._special: tuple[type, ...] = () if self.row is Row.WHOLE else (Mapping,)
        self._special += (type(None),) if self.row is Row.OPTIONAL else ()

    def _row(self) -> tuple[Row, Parameter | None]:
        if not self.data:
            return Row.NOTHING, None
        if len(self._required) > 1:
            return Row.SEVERAL, None
        if not self._required:
            return Row.OPTIONAL, self.data[0]
        main = self._required[0]
        is_keyed = main.annotation is not _EMPTY and typed.refuses_mapping(main.annotation)
        return (Row.KEYED if is_keyed else Row.WHOLE), main

    @classmethod
    def of(cls, fn: Callable[..., Any], hints: Mapping[str, Any] | None = None) -> Parameters:
        """Read the parameters of ``fn``.

        Args:
            fn: any callable.
            hints: its annotations, where they are resolved already.
        """
        try:
            # A partial() that took over name and docstring of its function has the signature of that, too.
            bare = functools.partial(fn.func, *fn.args, **fn.keywords) if isinstance(fn, functools.partial) else fn
            signature, fixed = inspect.signature(bare), _fixed(fn)
        except (TypeError, ValueError):
            # Some builtins have no signature; they get the whole value.
            alone = inspect.Parameter("value", inspect.Parameter.POSITIONAL_ONLY)
            signature, fixed = inspect.Signature([alone]), frozenset()
        resolved = typed.hints_of(fn) if hints is None else hints
        parameters = [_read(parameter, resolved, fixed) for parameter in signature.parameters.values()]
        made = cls(parameters)
        # What partial() fixes of a function with **kwargs is no parameter of it, and a key of the data neither.
        made.taken |= fixed
        return made

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
        if plain is not None and not isinstance(value, self._special):
            return (_converted(plain, value, node_name, convert),), {}
        return self._arranged(node_name, self._chosen(node_name, value), context, convert)

    @property
    def names(self) -> list[str]:
        """The names of those that take data."""
        return [p.name for p in self.data]

    @property
    def filled(self) -> set[str]:
        """The names of those that some input fills, ``*args`` and ``**kwargs`` included."""
        if self.main is not None and self.row is Row.WHOLE:
            return {self.main.name}
        return {p.name for p in (*self.data, self.rest, self.extra) if p is not None}

    def place(self, name: str) -> Place | None:
        """Where the value of a name is in an input; None where it can be nowhere.

        It is an argument, or a key of the mapping that the only one takes whole, or that ``**kwargs`` take.
        """
        found = next((p for p in self.parameters if p.name == name and (p.is_fixed or p in self.data)), None)
        if found is None:
            return Place() if self.extra is not None or self.row is Row.WHOLE else None
        default = None if found.required else found.default
        if found is self.main:
            return Place(whole=True, keyed=self.row is not Row.WHOLE, default=default)
        if found.is_fixed or self.row is Row.WHOLE:
            return Place(fixed=True, default=default)
        is_placed = self.row is Row.SEVERAL and found in self._by_position
        return Place(self._by_position.index(found) if is_placed else None, default=default)

    def check(self, node_name: str, value: Any) -> None:
        """Check that ``value`` fits the parameters, without converting anything.

        Raises:
            BindingError: it does not fit.
        """
        if self._plain is None or isinstance(value, self._special):
            self._chosen(node_name, value)

    def _chosen(self, node_name: str, value: Any) -> Chosen:
        if self.row is Row.NOTHING:
            return self._left(node_name, value)
        if self.row is not Row.WHOLE and isinstance(value, Mapping):
            return self._by_name(node_name, value)
        if self.row is Row.OPTIONAL and value is None:
            return Chosen({})
        if self.main is not None:
            return Chosen({self.main.name: value})
        if isinstance(value, list | tuple):
            return self._by_place(node_name, value)
        given = "None" if value is None else f"a single {type(value).__name__}"
        listed = ", or a list in this order" if all(p in self._by_position for p in self._required) else ""
        raise errors.BindingError(
            f"node {node_name!r} takes {_listed(self.data)}, but was given {given}. {self._why}: give a mapping with "
            f"these keys{listed}, or leave one parameter without a default, which then takes the whole value"
        )

    @property
    def _why(self) -> str:
        """Which row applies, for errors."""
        if self.row is Row.SEVERAL:
            return "Several of its parameters are required, so a mapping is bound by name and a list by position"
        return f"The type of {_listed([self.main])} can be made of no mapping, so a mapping is bound by name"

    def _left(self, node_name: str, value: Any) -> Chosen:
        """For a function without named data parameters: its ``*args`` and ``**kwargs``, if it has any."""
        if value is None or (self.rest is None and self.extra is None):
            return Chosen({})
        if isinstance(value, Mapping) and self.extra is not None:
            return Chosen({}, keys=self._left_over(value))
        if self.rest is not None:
            return Chosen({}, positions=value if isinstance(value, list | tuple) else (value,))
        raise errors.BindingError(
            f"node {node_name!r} takes keyword arguments only, but was given a value of type {type(value).__name__}: "
            "give a mapping, or write a parameter for the value"
        )

    def _by_name(self, node_name: str, value: Mapping[Any, Any]) -> Chosen:
        missing = [p for p in self._required if p.name not in value]
        if missing:
            whole = "" if self.main is None else f", or annotate `{self.main.name}: dict` to take the whole mapping"
            raise errors.BindingError(
                f"node {node_name!r} needs {_listed(missing)}, missing from its input; the keys that were there: "
                f"{_listed(list(value)) if value else 'none'}. {self._why}: give each of these, or a default{whole}"
            )
        return Chosen({p.name: value[p.name] for p in self.data if p.name in value}, keys=self._left_over(value))

    def _by_place(self, node_name: str, value: list[Any] | tuple[Any, ...]) -> Chosen:
        most, least = len(self._by_position), sum(p.required for p in self._by_position)
        named = [p for p in self._required if p not in self._by_position]
        if not named and least <= len(value) and (len(value) <= most or self.rest is not None):
            values = {p.name: item for p, item in zip(self._by_position, value, strict=False)}
            return Chosen(values, positions=value[most:])
        takes = f"{least} or more" if self.rest is not None else str(most) if least == most else f"{least} to {most}"
        cure = "give as many, or leave one parameter without a default, which then takes the whole list"
        if named:
            cure = f"give a mapping, since a list has no value for {_listed(named)}"
        raise errors.BindingError(
            f"node {node_name!r} takes {takes} values by position ({_listed(self._by_position) or 'none'}), but its "
            f"input, a {type(value).__name__}, has {len(value)}. {self._why}: {cure}"
        )

    def _left_over(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        if self.extra is None:
            return {}
        # A positional-only parameter of the same name is bound all the same; a key is never given twice.
        return {key: item for key, item in value.items() if isinstance(key, str) and key not in self.taken}

    def _arranged(
        self, node_name: str, chosen: Chosen, context: Context | None, convert: Convert
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
            # A wrapper may call its parameters by other names, so the plain way is by position.
            if p.kind is p.kind.POSITIONAL_ONLY or p is self._plain or (chosen.positions and p.kind in _POSITIONAL):
                args.append(argument)
            elif p.is_context or p.name in chosen.values:
                kwargs[p.name] = argument
        if self.rest is not None:
            args += [_converted(self.rest, item, node_name, convert, "*") for item in chosen.positions]
        if self.extra is not None:
            extra = self.extra
            kwargs |= {key: _converted(extra, item, node_name, convert, "**") for key, item in chosen.keys.items()}
        return tuple(args), kwargs


def _fixed(fn: Callable[..., Any]) -> frozenset[str]:
    """The names that `functools.partial` has bound by keyword."""
    found: set[str] = set()
    inner: Any = fn
    while inner is not None:
        if isinstance(inner, functools.partial):
            found |= inner.keywords.keys()
            inner = inner.func
        else:
            inner = getattr(inner, "__wrapped__", None)
    return frozenset(found)


def _read(parameter: inspect.Parameter, resolved: Mapping[str, Any], fixed: frozenset[str]) -> Parameter:
    annotation = resolved.get(parameter.name, parameter.annotation)
    is_context = is_a_context(annotation)
    if isinstance(annotation, str | typing.ForwardRef) or typing.get_origin(annotation) is typing.Unpack:
        # Nothing can be converted to a name that does not resolve.
        annotation = _EMPTY
    is_fixed = parameter.name in fixed and parameter.default is not _EMPTY
    return Parameter(parameter.name, parameter.kind, annotation, parameter.default, is_context, is_fixed)


def is_a_context(annotation: Any) -> bool:
    """Whether an annotation asks for the `Context`; text counts where it could not be resolved."""
    if isinstance(annotation, str):
        # Quotes stay where the module postpones its annotations as well.
        return _CONTEXT_TEXT.fullmatch(annotation.strip("'\" ")) is not None
    return annotation is not _EMPTY and Context in typed.members(annotation)


def _converted(parameter: Parameter, value: Any, node_name: str, convert: Convert, stars: str = "") -> Any:
    if parameter.annotation is _EMPTY:
        return value
    return convert(value, parameter.annotation, f"node {node_name!r}, parameter '{stars}{parameter.name}'")


def _listed(keys: list[Any]) -> str:
    shown = [names.shortened(key.name if isinstance(key, Parameter) else key, 40) for key in keys[:_SHOWN]]
    if len(keys) > _SHOWN:
        shown.append(f"… {len(keys) - _SHOWN} more")
    return ", ".join(shown)

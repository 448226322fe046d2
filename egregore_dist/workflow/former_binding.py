"""What the former rule of binding gave, to warn where the present one gives something else.

Nothing but the warning depends on this file, so a later version can delete it with its calls in `binding`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from egregore_dist.workflow import hints as typed

if TYPE_CHECKING:
    from egregore_dist.workflow.binding import Chosen, Parameter, Parameters

#: Other values are bound as before.
KINDS = (Mapping, list, tuple, type(None))

_MOST_NODES = 1000
_shown_for: set[str] = set()
_lock = threading.Lock()

_Values = dict[str, Any]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def of(now: Parameters) -> Former | None:
    """The former rule for a function; None where it gives the same for every value."""
    former = Former(now)
    return former if former.can_differ else None


class Former:
    """How the former rule bound the data parameters of one function. What `functools.partial` fixed was data too."""

    def __init__(self, now: Parameters) -> None:
        self._now = now
        named = [p for p in now.parameters if p.kind not in (p.kind.VAR_POSITIONAL, p.kind.VAR_KEYWORD)]
        self._named = {p.name for p in named}
        self._data = [p for p in named if not p.is_context]
        self._required = [p for p in self._data if p.required]
        self._by_position = [p for p in self._data if p.kind in _POSITIONAL]
        self._rest, self._extra = now.rest is not None, now.extra is not None

    @property
    def can_differ(self) -> bool:
        """Whether there are values that the two rules bind in different ways."""
        if self._now.taken != self._named or any(p.is_fixed for p in self._data):
            return True
        if len(self._data) != 1:
            return len(self._required) < 2 and bool(self._data)
        only = self._data[0]
        annotation = _annotation(only)
        is_made = not typed.accepts_mapping(annotation) and not typed.refuses_mapping(annotation)
        return self._rest or self._extra or is_made or only.meaning is not annotation

    def change(self, node_name: str, value: Any, chosen: Chosen) -> str | None:
        """What changed for a node, if ``value`` is its first in this process that the former rule bound differently."""
        if node_name in _shown_for or not isinstance(value, KINDS):
            return None
        before = self._bound(value)
        if before is None:
            return None
        after = chosen.values | {"*": tuple(chosen.positions), "**": chosen.keys}
        before = {"*": (), "**": {}} | before
        defaults = {p.name: p.default for p in self._data}
        differing = [
            name
            for name in (*defaults, "*", "**")
            if not _is_same(before.get(name, defaults.get(name)), after.get(name, defaults.get(name)))
        ]
        if not differing or not _is_first(node_name):
            return None
        return (
            f"node {node_name!r}: {_named(differing[0])} receives {_shown(differing[0], after, 'its default')} of this "
            f"{type(value).__name__}; formerly it received {_shown(differing[0], before, 'its default')}. "
            f"{self._cure(value, before, after)} (docs/binding.md has the rule; this is shown once for a node)"
        )

    def _bound(self, value: Any) -> _Values | None:
        """What each parameter received; None where it was an error."""
        is_mapping, is_list = isinstance(value, Mapping), isinstance(value, list | tuple)
        if len(self._data) == 1 and not (self._rest and is_list):
            return self._for_one(self._data[0], value, is_mapping)
        if not self._data:
            return None
        if is_mapping:
            return self._by_name(value)
        if is_list:
            return self._by_place(value)
        if len(self._required) == 1:
            return {self._required[0].name: value}
        return {} if not self._required else None

    def _for_one(self, only: Parameter, value: Any, is_mapping: bool) -> _Values | None:
        annotation = _annotation(only)
        if value is None and not only.required and not typed.accepts_none(annotation):
            return {}
        if is_mapping and typed.refuses_mapping(annotation):
            return self._by_name(value)
        if is_mapping and only.name in value and (self._extra or not typed.accepts_mapping(annotation)):
            return {only.name: value[only.name], "**": self._left_over(value)}
        return {only.name: value}

    def _by_name(self, value: Mapping[Any, Any]) -> _Values | None:
        if any(p.name not in value for p in self._required):
            return None
        return {p.name: value[p.name] for p in self._data if p.name in value} | {"**": self._left_over(value)}

    def _by_place(self, value: list[Any] | tuple[Any, ...]) -> _Values | None:
        taken = len(self._by_position)
        if taken == 1 and not self._rest and all(p in self._by_position for p in self._required):
            return {self._by_position[0].name: value}
        values = {p.name: item for p, item in zip(self._by_position, value, strict=False)}
        if (len(value) > taken and not self._rest) or any(p.name not in values for p in self._required):
            return None
        return values | {"*": tuple(value[taken:])}

    def _left_over(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        if not self._extra:
            return {}
        return {key: item for key, item in value.items() if isinstance(key, str) and key not in self._named}

    def _cure(self, value: Any, before: _Values, after: _Values) -> str:
        main = self._now.main
        if any(p.is_fixed and p.name in before for p in self._data):
            return "What functools.partial() binds by keyword stays as it is: leave it out there to take it of the data"
        if main is None or isinstance(value, list | tuple):
            return "For a list by position, write two or more parameters without defaults, or unpack it in the function"
        if value is None and main.name in after:
            return f"For its default as before, {self._annotate(main, type(main.default).__name__)}"
        if value is None:
            return f"For None as before, {self._annotate(main, f'{type(main.default).__name__} | None')}"
        if after.get(main.name) is not value:
            return f"For the whole mapping as before, {self._annotate(main, 'dict')}"
        kind = type(before.get(main.name))
        if kind is not type(None) and typed.refuses_mapping(kind) and main.meaning is Any:
            return f"For a mapping by name as before, {self._annotate(main, kind.__name__)}"
        return f"For the former value, read {main.name}[{main.name!r}] in the function"

    def _annotate(self, parameter: Parameter, annotation: str) -> str:
        use = "" if self._now.can_annotate else "use a def instead of the lambda, and "
        return f"{use}annotate `{parameter.name}: {annotation}`"


def _annotation(parameter: Parameter) -> Any:
    return Any if parameter.annotation is inspect.Parameter.empty else parameter.annotation


def _is_first(node_name: str) -> bool:
    with _lock:
        if node_name in _shown_for or len(_shown_for) >= _MOST_NODES:
            return False
        _shown_for.add(node_name)
        return True


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    # What is left for *args and **kwargs is made anew each time.
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(item is other[key] for key, item in one.items())
    return False


def _named(parameter: str) -> str:
    return f"parameter {parameter!r}" if parameter.strip("*") else {"*": "*args", "**": "**kwargs"}[parameter]


def _shown(parameter: str, values: _Values, otherwise: str) -> str:
    if parameter not in values:
        return otherwise
    if not parameter.strip("*"):
        return f"{len(values[parameter])} values"
    return f"a value of type {type(values[parameter]).__name__}"

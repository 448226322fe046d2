"""Limits of nodes by name, over all runs and workers of a cluster."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from egregore_dist import errors
from egregore_dist.workflow import checks, names
from egregore_dist.workflow.binding import Parameters

_PER = re.compile(r"\s*(\d{1,9})\s*/\s*(s|sec|second|min|minute|h|hour)\s*", re.ASCII)
_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
# Of a rate so many may start at once as come in this time, in seconds.
_BURST = 0.1
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """How many executions of a node there may be, over all runs and workers of a cluster.

    Attributes:
        concurrent: how many at a time; None for any number.
        per: how many may start in a time, such as ``"20/s"``, ``"100/min"`` or ``"1000/h"``; None for any number.
            They are spread evenly: at once may start what comes in a tenth of a second, and one at least.
        key: an argument of the node whose values are limited each by itself; of a node that takes its whole input as
            one mapping also a key of that. None for one limit over all.
        name: nodes with limits of one name share it; absent, the name of the node.
    """

    concurrent: int | None = None
    per: str | None = None
    key: str | None = None
    name: str | None = None


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a limit lets run. ``starts`` in ``seconds``, of which ``burst`` may be at once; 0 is no such limit."""

    concurrent: int = 0
    starts: int = 0
    seconds: int = 0

    @property
    def burst(self) -> int:
        """How many may start at once, after a time without any."""
        return max(1, int(self.starts / self.seconds * _BURST)) if self.starts else 0

    @property
    def per(self) -> str | None:
        """The rate as it is given, or None."""
        unit = {1: "s", 60: "min", 3600: "h"}.get(self.seconds, f"{self.seconds}s")
        return f"{self.starts}/{unit}" if self.starts else None


def rule(concurrent: object, per: object, where: str) -> Rule:
    """Check what the user gave.

    Raises:
        WorkflowError: one of them is not valid, or neither is given; the message begins with ``where``.
    """
    if concurrent is None and per is None:
        raise errors.WorkflowError(f"{where} limits nothing: give concurrent=5, or per='20/s', or both")
    places = 0 if concurrent is None else checks.whole_number(concurrent, f"{where}: concurrent", least=1)
    if places > _MOST:
        raise errors.WorkflowError(f"{where}: concurrent must be at most {_MOST}, not {places}")
    if per is None:
        return Rule(concurrent=places)
    match = _PER.fullmatch(per) if isinstance(per, str) else None
    starts = 0 if match is None else int(match[1])
    if match is None or not 0 < starts <= _MOST:
        raise errors.WorkflowError(
            f"{where}: per takes a number and a time, such as '20/s', '100/min' or '1000/h', not {names.shortened(per)}"
        )
    return Rule(concurrent=places, starts=starts, seconds=_SECONDS[match[2]])


class Named(msgspec.Struct, frozen=True, omit_defaults=True):
    """A limit as a node has it.

    Attributes:
        name: its name.
        rule: what it lets run.
        key: the argument, or key of the input, that splits it, or None.
        at: the argument's place where arguments are given by position, or None.
        whole: whether the argument gets the whole input, unless that is a mapping with its name.
        keyed: whether the argument never gets a whole mapping.
        fixed: whether the argument is its default, whatever the input.
        default: the argument's value where the input has none.
    """

    name: str
    rule: Rule
    key: str | None = None
    at: int | None = None
    whole: bool = False
    default: str | int | float | bool | None = None
    keyed: bool = False
    fixed: bool = False

    def value(self, data: Any) -> Any:
        """What splits the limit, of an input; None where there is nothing of that name: the node says so itself."""
        if self.fixed:
            return self.default
        if isinstance(data, dict) and self.key in data:
            return data[self.key]
        if self.whole and data is not None and not (self.keyed and isinstance(data, dict)):
            return data
        if self.at is not None and isinstance(data, list | tuple) and self.at < len(data):
            return data[self.at]
        return self.default


def named(limit: object, function: Callable[..., Any], node: str) -> Named:
    """The limit of a node.

    Raises:
        WorkflowError: it is not valid; the message names the node.
    """
    where = f"node {node!r}: limit"
    if not isinstance(limit, Limit):
        given = names.shortened(limit)
        raise errors.WorkflowError(f"{where} must be a Limit, such as Limit(concurrent=5, per='20/s'), not {given}")
    name = node if limit.name is None else names.checked(limit.name, f"limit (node {node!r})")
    checked = rule(limit.concurrent, limit.per, where)
    if limit.key is None:
        return Named(name, checked)
    key = _argument(limit.key, f"{where}: key")
    parameters = Parameters.of(function)
    place = parameters.place(key)
    if place is None:
        takes = ", ".join(parameters.names) or "none"
        raise errors.WorkflowError(f"{where}: key={key!r} is no argument of the function: it takes {takes}")
    default = place.default if isinstance(place.default, str | int | float | bool) else None
    return Named(name, checked, key, place.at, place.whole, default, place.keyed, place.fixed)


def _argument(key: object, where: str) -> str:
    if not isinstance(key, str) or not key.isidentifier():
        raise errors.WorkflowError(f"{where} must be the name of an argument, not {names.shortened(key)}")
    return key

"""What the transitions have counted since the ledger's data began, see ``lua/_counts.lua``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.ledger import Ledger

#: Seconds: durations are counted by the first of these that they do not exceed.
BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 600, 1800, 3600, 14400, 86400)

#: The series of all workflows that have none of their own.
OTHER = "other"

# As the fields' names say them.
_BOUNDS = (*(f"{bound * 1000:.0f}" for bound in BOUNDS), "more")


@dataclass(frozen=True, slots=True)
class Durations:
    """How many durations there were up to each of `BOUNDS`, and in all, and their sum in seconds."""

    up_to: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many there were."""
        return self.up_to[-1]


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted of the runs of one series, or of the cluster: numbers and durations, by what they are of."""

    numbers: Mapping[str, int] = field(default_factory=dict)
    durations: Mapping[str, Durations] = field(default_factory=dict)

    def labelled(self, what: str) -> dict[str, Durations]:
        """The durations of ``<what>:<label>``, by label."""
        pairs = [(name.partition(":"), found) for name, found in self.durations.items()]
        return {label: found for (name, _, label), found in pairs if name == what}

    def numbered(self, what: str) -> dict[str, int]:
        """The numbers of ``<what>:<label>``, by label."""
        pairs = [(name.partition(":"), number) for name, number in self.numbers.items()]
        return {label: number for (name, _, label), number in pairs if name == what and label}


def named(raw: bytes | None) -> str:
    """The series of a run, from its record."""
    return OTHER if raw is None else raw.decode()


def read(ledger: Ledger) -> tuple[dict[str, Counts], Counts]:
    """What was counted by series, and of the cluster. Raises `errors.BrokerUnavailable`."""
    with reachable():
        names = [name.decode() for name in cast(list[bytes], ledger.redis.zrange(ledger.keys.counts, 0, -1))]
        series = sorted({*names, OTHER})
        pipe = ledger.redis.pipeline(transaction=False)
        for name in series:
            pipe.hgetall(ledger.keys.counts_of(name))
        pipe.hgetall(ledger.keys.counts_of_cluster)
        *found, cluster = pipe.execute()
    return {name: _counts(fields) for name, fields in zip(series, found, strict=True)}, _counts(cluster)


def _counts(fields: dict[Any, Any]) -> Counts:
    numbers: dict[str, int] = {}
    by_bound: dict[str, dict[str, int]] = {}
    for raw, value in fields.items():
        what, separator, bound = raw.decode().partition(" ")
        if separator:
            by_bound.setdefault(what, {})[bound] = int(value)
        else:
            numbers[what] = int(value)
    return Counts(numbers, {what: _durations(found) for what, found in by_bound.items()})


def _durations(found: Mapping[str, int]) -> Durations:
    up_to = itertools.accumulate(found.get(bound, 0) for bound in _BOUNDS)
    return Durations(tuple(up_to), found.get("sum", 0) / 1e6)

"""Measure several things in turn, so that what else the machine does meets them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

_LEAST_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured of one thing, at least once."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a sample needs at least one value")

    @classmethod
    def of(cls, values: Iterable[float]) -> Sample:
        """A sample of these values."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def most(self) -> float:
        """The largest value."""
        return max(self.values)


def ratio(ours: Sample, theirs: Sample) -> float:
    """The median of one sample over that of another."""
    return ours.median / theirs.median


def turns(names: Iterable[str], rounds: int) -> Iterator[list[str]]:
    """The order in which things are measured, round by round: each once, and each round begins with the next one."""
    listed = list(names)
    for number in range(rounds):
        first = number % len(listed)
        yield listed[first:] + listed[:first]


def alternate(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: int = 1,
    within: float = float("inf"),
    settle: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Sample]:
    """Time several things in turn.

    Args:
        cases: what to call, by name.
        rounds: how often each is timed.
        warm: how often each is called before that, untimed.
        within: seconds after which no further round begins, once there were two: for a machine that is slow or busy.
        settle: called before each timing, untimed: what one case leaves to be done is not the next one's.
        clock: seconds.
    """
    for case in cases.values():
        for _ in range(warm):
            case()
    taken: dict[str, list[float]] = {name: [] for name in cases}
    begun = clock()
    for number, names in enumerate(turns(cases, rounds)):
        if number >= _LEAST_ROUNDS and clock() - begun > within:
            break
        for name in names:
            settle()
            started = clock()
            cases[name]()
            taken[name].append(clock() - started)
    return {name: Sample.of(values) for name, values in taken.items()}

"""What is learned of a node's function from its executions: how long they take, of what, and how much memory they need.

Pure values: each quantity is a histogram, so profiles of many processes can be added up. What is old counts less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from egregore_dist.resources import chains
from egregore_dist.resources.chains import Chain, Choice

#: Seconds after which what was learned counts half beside what is new.
HALF_LIFE = 3600.0
#: Bytes that are reserved for a function at most, however often its process was killed for want of memory.
MOST_RESERVED = 2**44
#: Of each quantity so many executions count at most, so that a node that has changed is learned anew soon.
MOST = 1000.0

# Buckets for every doubling: their middles are within 2.2 % of what is in them. The lowest one holds what is nothing.
_PER_DOUBLING = 16
_LOWEST, _HIGHEST = -50 * _PER_DOUBLING, 50 * _PER_DOUBLING
_NEGLIGIBLE = 1e-4

# However long ago it was, what was executed counts where nothing else was.
_LEAST_OFTEN = 1e-9


class Histogram(msgspec.Struct, array_like=True, omit_defaults=True):
    """One quantity: the sum of what was seen, and in which bucket each was. Buckets have weights, aged with time.

    It is encoded as an array, so that it is not taken for the former one, with other buckets.
    """

    total: float = 0.0
    buckets: dict[int, float] = msgspec.field(default_factory=dict)

    @property
    def weight(self) -> float:
        """How much was seen."""
        return sum(self.buckets.values())

    @property
    def mean(self) -> float:
        """The mean, 0 where nothing was seen."""
        weight = self.weight
        return self.total / weight if weight else 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Count a value ``weight`` times."""
        self.total += value * weight
        bucket = bucket_of(value)
        self.buckets[bucket] = self.buckets.get(bucket, 0.0) + weight

    def quantile(self, share: float) -> float:
        """The least value that at least ``share`` of what was seen did not exceed, as the middle of its bucket."""
        wanted = share * self.weight
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 1e-9:
                return 0.0 if bucket == _LOWEST else _middle_of(bucket)
        return 0.0

    def scaled(self, factor: float) -> Histogram:
        """The same, counting ``factor`` times as much."""
        return Histogram(self.total * factor, {bucket: weight * factor for bucket, weight in self.buckets.items()})

    def plus(self, other: Histogram) -> Histogram:
        """Both together, at most `MOST` in all; buckets of next to nothing are dropped."""
        buckets = dict(self.buckets)
        for bucket, weight in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0.0) + weight
        least = _NEGLIGIBLE * sum(buckets.values())
        found = Histogram(
            self.total + other.total, {bucket: weight for bucket, weight in buckets.items() if weight > least}
        )
        return found.scaled(MOST / found.weight) if found.weight > MOST else found


class Profile(msgspec.Struct, omit_defaults=True):
    """What is known of one function. Times in seconds, memory and sizes in bytes.

    Attributes:
        at: when it was last added to, in milliseconds of the server's clock.
        count: executions, aged: all of them, so that it says how often it is executed beside others.
        wall: how long one takes.
        cpu: CPU time of its process, all threads, and of processes that it started and waited for.
        waits: how long it waited for others, while nothing that could be seen kept it from its work.
        memory: by how much its process's memory grew at most while it ran (peak RSS).
        size: of the encoded result.
        reserved: memory that is reserved for one since its process was killed for want of it; halved in a half-life.
        raised: when that was raised last, in milliseconds of the server's clock; 0 for never.
    """

    at: int = 0
    count: float = 0.0
    wall: Histogram = msgspec.field(default_factory=Histogram)
    cpu: Histogram = msgspec.field(default_factory=Histogram)
    waits: Histogram = msgspec.field(default_factory=Histogram)
    memory: Histogram = msgspec.field(default_factory=Histogram)
    size: Histogram = msgspec.field(default_factory=Histogram)
    reserved: int = 0
    raised: int = 0

    @property
    def seconds(self) -> float:
        """How long all its executions take, aged."""
        return self.count * self.wall.mean

    def reserved_at(self, now: int) -> int:
        """What is left of the reservation at a later time, in milliseconds of the server's clock."""
        return int(self.reserved * _aged(self.at, now))

    def scaled(self, factor: float) -> Profile:
        """The same, counting ``factor`` times as much."""
        return Profile(
            at=self.at,
            count=self.count * factor,
            wall=self.wall.scaled(factor),
            cpu=self.cpu.scaled(factor),
            waits=self.waits.scaled(factor),
            memory=self.memory.scaled(factor),
            size=self.size.scaled(factor),
            reserved=self.reserved,
            raised=self.raised,
        )


def merge(known: Profile, new: Profile) -> Profile:
    """What is known and what is new together: the older one aged to the time of the other."""
    at = max(known.at, new.at)
    one, other = (each.scaled(_aged(each.at, at)) for each in (known, new))
    return Profile(
        at=at,
        count=one.count + other.count,
        wall=one.wall.plus(other.wall),
        cpu=one.cpu.plus(other.cpu),
        waits=one.waits.plus(other.waits),
        memory=one.memory.plus(other.memory),
        size=one.size.plus(other.size),
        reserved=min(MOST_RESERVED, max(known.reserved_at(at), new.reserved_at(at))),
        raised=max(one.raised, other.raised),
    )


def _aged(at: int, now: int) -> float:
    return float(0.5 ** (max(0, now - at) / 1000 / HALF_LIFE))


def encode(profile: Profile) -> bytes:
    """A profile as it is kept in the ledger."""
    return msgspec.msgpack.encode(profile)


def decode(raw: bytes) -> Profile:
    """The profile that was encoded; an empty one where this release cannot read it."""
    try:
        return msgspec.msgpack.decode(raw, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Profile()


def bucket_of(value: float) -> int:
    """The bucket that counts a value."""
    if value <= 0:
        return _LOWEST
    return max(_LOWEST + 1, min(_HIGHEST, math.floor(math.log2(value) * _PER_DOUBLING)))


def _middle_of(bucket: int) -> float:
    return float(2 ** ((bucket + 0.5) / _PER_DOUBLING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What is known of the branches of a track. Times in seconds, memory in bytes.

    Attributes:
        executions: of the function that is known least, aged; those of the steps of a decision together.
        wall: how long a branch takes, on average.
        cpu: CPU time of a branch, on average; None where that is not known.
        waits: how long a branch waits for others, on average; 0 where that is not known.
        memory: p95 of the memory that the neediest function needs; None where that is not known.
        reserved: for the function that needs most of those whose processes were killed for want of memory; 0 for none.
    """

    executions: float
    wall: float
    cpu: float | None
    memory: int | None
    reserved: int = 0
    waits: float = 0.0


def of_branches(branches: Mapping[Chain[str], int], known: Mapping[str, Profile]) -> Learned | None:
    """What is known of branches, or None where one of their functions is not known.

    Of a choice each chain counts as often as it was executed, and one that never was while others were does not. Where
    memory is reserved for a function that is known, though others are not, this is of no executions.

    Args:
        branches: how many branches execute each chain of functions.
        known: profiles, by function.
    """
    functions = {function for chain in branches for function in chains.functions(chain)}
    found = [profile for function in functions if (profile := known.get(function)) is not None and profile.count > 0]
    reserved = max((known[function].reserved for function in functions if function in known), default=0)
    now = max((profile.at for profile in found), default=0)
    costs = [(_cost(chain, known, now), count) for chain, count in branches.items()]
    cost = _mean([(each, count) for each, count in costs if each is not None])
    if not found or cost is None or None in [each for each, _ in costs]:
        return Learned(executions=0.0, wall=0.0, cpu=None, memory=None, reserved=reserved) if reserved else None
    memories = [profile.memory.quantile(0.95) for profile in found if profile.memory.buckets]
    return Learned(
        executions=min(each.executions for each, _ in costs if each is not None),
        wall=cost.wall,
        cpu=cost.cpu,
        waits=cost.waits,
        memory=math.ceil(max(memories)) if memories else None,
        reserved=reserved,
    )


@dataclass(frozen=True, slots=True)
class _Cost:
    """What one execution of a chain takes, in seconds; how many are known, and how many that is now, aged."""

    executions: float = math.inf
    often: float = math.inf
    wall: float = 0.0
    cpu: float | None = 0.0
    waits: float = 0.0

    def then(self, other: _Cost) -> _Cost:
        """Both, one after the other."""
        return _Cost(
            executions=min(self.executions, other.executions),
            often=min(self.often, other.often),
            wall=self.wall + other.wall,
            cpu=None if self.cpu is None or other.cpu is None else self.cpu + other.cpu,
            waits=self.waits + other.waits,
        )


def _cost(chain: Chain[str], known: Mapping[str, Profile], now: int) -> _Cost | None:
    # None where something in it is not known.
    found = _Cost()
    for link in chain:
        part = (
            _cost_of_choice(link, known, now, found.often) if isinstance(link, Choice) else _cost_of(link, known, now)
        )
        if part is None:
            return None
        found = found.then(part)
    return found


def _cost_of(function: str, known: Mapping[str, Profile], now: int) -> _Cost | None:
    profile = known.get(function)
    if profile is None or profile.count <= 0:
        return None
    return _Cost(
        executions=profile.count,
        often=max(_LEAST_OFTEN, profile.count * _aged(profile.at, now)),
        wall=profile.wall.mean,
        cpu=profile.cpu.mean if profile.cpu.buckets else None,
        waits=profile.waits.mean,
    )


def _cost_of_choice(choice: Choice[str], known: Mapping[str, Profile], now: int, asked: float) -> _Cost | None:
    costs = [cost for chain in choice.chains if chain and (cost := _cost(chain, known, now)) is not None]
    # What nobody sees here is executed elsewhere, whenever it is none of the others.
    elsewhere = not all(choice.chains)
    away = max(0.0, asked - sum(cost.often for cost in costs)) if elsewhere and math.isfinite(asked) else 0.0
    found = _mean([*((cost, cost.often) for cost in costs), (_Cost(), away)])
    if found is None:
        return _Cost() if elsewhere else None
    executions = away + sum(cost.executions for cost in costs)
    often = away + sum(cost.often for cost in costs)
    return replace(found, executions=executions, often=often)


def _mean(costs: Sequence[tuple[_Cost, float]]) -> _Cost | None:
    total = sum(weight for _, weight in costs)
    if not total:
        return None
    cpus = [(cost.cpu, weight) for cost, weight in costs]
    return _Cost(
        wall=sum(cost.wall * weight for cost, weight in costs) / total,
        cpu=None if None in [cpu for cpu, _ in cpus] else sum((cpu or 0.0) * weight for cpu, weight in cpus) / total,
        waits=sum(cost.waits * weight for cost, weight in costs) / total,
    )

"""What is learned of a node's function from its executions: how long they take, of what, and how much memory they need.

Pure values: each quantity is a histogram, so profiles of many processes can be added up. What is old counts less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

#: Seconds after which what was learned counts half beside what is new.
HALF_LIFE = 3600.0
#: Bytes that are reserved for a function at most, however often its process was killed for want of memory.
MOST_RESERVED = 2**44
#: What is kept of it counts as so many executions at most, so that a node that has changed is learned anew soon.
MOST = 1000.0

# Four buckets for every doubling: a quantile is at most 19 % too high. The lowest one holds what is nothing.
_PER_DOUBLING = 4
_LOWEST, _HIGHEST = -200, 200
_NEGLIGIBLE = 1e-4


class Histogram(msgspec.Struct, omit_defaults=True):
    """One quantity: the sum of what was seen, and in which bucket each was. Buckets have weights, aged with time."""

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
        """The least value that at least ``share`` of what was seen did not exceed, rounded up to its bucket's end."""
        wanted = share * self.weight
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 1e-9:
                return 0.0 if bucket == _LOWEST else _end_of(bucket)
        return 0.0

    def scaled(self, factor: float) -> Histogram:
        """The same, counting ``factor`` times as much."""
        return Histogram(self.total * factor, {bucket: weight * factor for bucket, weight in self.buckets.items()})

    def plus(self, other: Histogram) -> Histogram:
        """Both together; buckets of next to nothing are dropped."""
        buckets = dict(self.buckets)
        for bucket, weight in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0.0) + weight
        least = _NEGLIGIBLE * sum(buckets.values())
        return Histogram(
            self.total + other.total, {bucket: weight for bucket, weight in buckets.items() if weight > least}
        )


class Profile(msgspec.Struct, omit_defaults=True):
    """What is known of one function. Times in seconds, memory and sizes in bytes.

    Attributes:
        at: when it was last added to, in milliseconds of the server's clock.
        count: executions, aged.
        wall: how long one takes.
        cpu: CPU time of its process, all threads, and of processes that it started and waited for.
        queued: how long it waited for a core, which others had.
        memory: by how much its process's memory grew at most while it ran (peak RSS).
        size: of the encoded result.
        reserved: memory that is reserved for one since its process was killed for want of it; halved in a half-life.
        raised: when that was raised last, in milliseconds of the server's clock; 0 for never.
    """

    at: int = 0
    count: float = 0.0
    wall: Histogram = msgspec.field(default_factory=Histogram)
    cpu: Histogram = msgspec.field(default_factory=Histogram)
    queued: Histogram = msgspec.field(default_factory=Histogram)
    memory: Histogram = msgspec.field(default_factory=Histogram)
    size: Histogram = msgspec.field(default_factory=Histogram)
    reserved: int = 0
    raised: int = 0

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
            queued=self.queued.scaled(factor),
            memory=self.memory.scaled(factor),
            size=self.size.scaled(factor),
            reserved=self.reserved,
            raised=self.raised,
        )


def merge(known: Profile, new: Profile) -> Profile:
    """What is known and what is new together: the older one aged to the time of the other, at most `MOST` in all."""
    at = max(known.at, new.at)
    one, other = (each.scaled(_aged(each.at, at)) for each in (known, new))
    found = Profile(
        at=at,
        count=one.count + other.count,
        wall=one.wall.plus(other.wall),
        cpu=one.cpu.plus(other.cpu),
        queued=one.queued.plus(other.queued),
        memory=one.memory.plus(other.memory),
        size=one.size.plus(other.size),
        reserved=min(MOST_RESERVED, max(known.reserved_at(at), new.reserved_at(at))),
        raised=max(one.raised, other.raised),
    )
    return found.scaled(MOST / found.count) if found.count > MOST else found


def _aged(at: int, now: int) -> float:
    return float(0.5 ** (max(0, now - at) / 1000 / HALF_LIFE))


def encode(profile: Profile) -> bytes:
    """A profile as it is kept in the ledger."""
    return msgspec.msgpack.encode(profile)


def decode(raw: bytes) -> Profile:
    """The profile that was encoded; an empty one where this release cannot read it."""
    try:
        return msgspec.msgpack.decode(raw, type=Profile)
    except msgspec.MsgspecError:
        return Profile()


def bucket_of(value: float) -> int:
    """The bucket that counts a value."""
    if value <= 0:
        return _LOWEST
    return max(_LOWEST + 1, min(_HIGHEST, math.floor(math.log2(value) * _PER_DOUBLING)))


def _end_of(bucket: int) -> float:
    return float(2 ** ((bucket + 1) / _PER_DOUBLING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What is known of the branches of a track. Times in seconds, memory in bytes.

    Attributes:
        executions: of the function that is known least, aged.
        wall: how long a branch takes, on average.
        cpu: CPU time of a branch, on average; None where that is not known.
        queued: how long a branch waits for a core, on average; 0 where that is not known.
        memory: p95 of the memory that the neediest function needs; None where that is not known.
        reserved: for the function that needs most of those whose processes were killed for want of memory; 0 for none.
    """

    executions: float
    wall: float
    cpu: float | None
    memory: int | None
    reserved: int = 0
    queued: float = 0.0

    @property
    def uncontended(self) -> float:
        """How long a branch takes where it finds a core whenever it wants one."""
        return max(0.0, self.wall - self.queued)


def of_branches(branches: Mapping[tuple[str, ...], int], known: Mapping[str, Profile]) -> Learned | None:
    """What is known of branches, or None where one of their functions is not known.

    Where memory is reserved for one that is, though others are not, this is of no executions.

    Args:
        branches: how many branches execute these functions one after the other.
        known: profiles, by function.
    """
    functions = {function for chain in branches for function in chain}
    found = [profile for function in functions if (profile := known.get(function)) is not None and profile.count > 0]
    reserved = max((known[function].reserved for function in functions if function in known), default=0)
    if not found or len(found) < len(functions):
        return Learned(executions=0.0, wall=0.0, cpu=None, memory=None, reserved=reserved) if reserved else None
    number = sum(branches.values())
    walls = {function: known[function].wall.mean for function in functions}
    cpus = {function: known[function].cpu.mean for function in functions}
    has_cpu = all(profile.cpu.buckets for profile in found)
    memories = [profile.memory.quantile(0.95) for profile in found if profile.memory.buckets]
    return Learned(
        executions=min(profile.count for profile in found),
        wall=_mean(branches, walls, number),
        cpu=_mean(branches, cpus, number) if has_cpu else None,
        queued=_mean(branches, {function: known[function].queued.mean for function in functions}, number),
        memory=math.ceil(max(memories)) if memories else None,
        reserved=reserved,
    )


def _mean(branches: Mapping[tuple[str, ...], int], values: Mapping[str, float], number: int) -> float:
    total: float = sum(count * _total(chain, values) for chain, count in branches.items())
    return total / number


def _total(chain: Iterable[str], values: Mapping[str, float]) -> float:
    return sum(values[function] for function in chain)

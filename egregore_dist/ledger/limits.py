"""Limits by name as the ledger has them: their rules, who holds places, and what waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from urllib.parse import unquote

from egregore_dist.ledger import replies
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.workflow.limits import Rule

#: Buckets of one limit that are told of: those that were used last.
SHOWN = 100
#: What the bucket of values that are too many is called.
OTHERS = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The places of a limit, or of one value of its key.

    Attributes:
        limit: the limit's name.
        value: of the key; None without one.
        rule: what it lets run now.
        held: branches that have a place.
        waiting: tracks of blocks that wait for one.
        starts_in: seconds until its rate has a start left.
        ahead: of a track: how many others have a turn before it.
    """

    limit: str
    value: str | None
    rule: Rule
    held: int
    waiting: int
    starts_in: float = 0.0
    ahead: int = 0

    @property
    def is_full(self) -> bool:
        """Whether a track has to wait: no place is free, or no start is left, or those are for others."""
        return self.ahead > 0 or self.starts_in > 0 or 0 < self.rule.concurrent <= self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A limit.

    Attributes:
        name: its name.
        rule: what it lets run now.
        declared: what the code that used it last declares; None where none has yet.
        is_set: whether the rule was set by hand.
        key: the argument whose values are limited each by itself, or None.
        buckets: where places are held or waited for.
        more: buckets that are not among them.
    """

    name: str
    rule: Rule
    declared: Rule | None
    is_set: bool
    key: str | None
    buckets: tuple[Bucket, ...] = ()
    more: int = 0

    @property
    def held(self) -> int:
        """Branches that have a place."""
        return sum(bucket.held for bucket in self.buckets)

    @property
    def waiting(self) -> int:
        """Tracks of blocks that wait for one."""
        return sum(bucket.waiting for bucket in self.buckets)

    @property
    def is_full(self) -> bool:
        """Whether as many are held as may be at a time; of a limit with a key each value has its own."""
        return not self.key and 0 < self.rule.concurrent <= self.held


def text_of(rule: Rule, key: str | None) -> str:
    """A rule as the ledger's scripts read it."""
    return f"{rule.concurrent} {rule.starts} {rule.seconds * 1_000_000} {rule.burst} {key or '-'}"


def every(ledger: Ledger, most: int | None = None) -> list[Known]:
    """Every limit, by name, or so many of them."""
    keys = ledger.keys
    with reachable():
        pipe = ledger.redis.pipeline(transaction=False)
        pipe.hgetall(keys.limits)
        pipe.hgetall(keys.limits_set)
        declared, given = pipe.execute()
    names = sorted({*declared, *given})[:most]
    return _known(ledger, [(name.decode(), declared.get(name), given.get(name)) for name in names])


def one(ledger: Ledger, name: str) -> Known | None:
    """One limit, or None where nobody has declared or set one of this name."""
    pipe = ledger.redis.pipeline(transaction=False)
    pipe.hget(ledger.keys.limits, name)
    pipe.hget(ledger.keys.limits_set, name)
    with reachable():
        declared, given = pipe.execute()
    return None if declared is None and given is None else _known(ledger, [(name, declared, given)])[0]


def awaited(ledger: Ledger, tracks: Sequence[tuple[str, str]]) -> list[Bucket]:
    """What tracks wait for.

    Args:
        tracks: the limit of each, as its block's record has it, and "<run> <block> <track>".
    """
    keys = ledger.keys
    buckets = [named.partition(" ")[0] for named, _ in tracks]
    pipe = ledger.redis.pipeline(transaction=False)
    for bucket, (_, member) in zip(buckets, tracks, strict=True):
        name = bucket.partition("/")[0]
        pipe.hget(keys.limits_set, name)
        pipe.hget(keys.limits, name)
        pipe.zrank(keys.limit("w", bucket), member)
    with reachable():
        found = pipe.execute()
    rules = [_rule(given or declared or b"")[0] for given, declared in zip(found[::3], found[1::3], strict=True)]
    stand = _buckets(ledger, list(zip(buckets, rules, strict=True)))
    return [
        replace(bucket, ahead=bucket.waiting if rank is None else rank)
        for bucket, rank in zip(stand, found[2::3], strict=True)
    ]


# A limit's name, what code declares of it, and what was set by hand.
_Raw = tuple[str, bytes | None, bytes | None]


def _known(ledger: Ledger, limits: Sequence[_Raw]) -> list[Known]:
    # In two round trips, however many they are.
    pipe = ledger.redis.pipeline(transaction=False)
    for name, _, _ in limits:
        registry = ledger.keys.limit("k", name)
        pipe.zrevrange(registry, 0, SHOWN - 1)
        pipe.zcard(registry)
    with reachable():
        answers = pipe.execute()
    asked: list[tuple[str, Rule]] = []
    for (name, declared, given), values in zip(limits, answers[::2], strict=True):
        rule, _ = _rule(given or declared or b"")
        asked += [(bucket, rule) for bucket in (name, *(value.decode() for value in values))]
    stand = iter(_buckets(ledger, asked))
    return [
        _limit(limit, tuple(islice(stand, 1 + len(values))), count)
        for limit, values, count in zip(limits, answers[::2], answers[1::2], strict=True)
    ]


def _limit(limit: _Raw, buckets: Sequence[Bucket], count: int) -> Known:
    name, declared, given = limit
    rule, key = _rule(given or declared or b"")
    from_code = None if declared is None else _rule(declared)
    return Known(
        name=name,
        rule=rule,
        declared=None if from_code is None else from_code[0],
        is_set=given is not None,
        key=key or (from_code[1] if from_code is not None else None),
        buckets=tuple(bucket for bucket in buckets if bucket.held or bucket.waiting or bucket.starts_in),
        more=max(0, count - SHOWN),
    )


def _buckets(ledger: Ledger, wanted: Iterable[tuple[str, Rule]]) -> list[Bucket]:
    asked = list(wanted)
    pipe = ledger.redis.pipeline(transaction=False)
    for bucket, _ in asked:
        pipe.zcard(ledger.keys.limit("h", bucket))
        pipe.zcard(ledger.keys.limit("w", bucket))
        pipe.get(ledger.keys.limit("r", bucket))
    pipe.time()
    with reachable():
        *found, now = pipe.execute()
    return [
        _bucket(name, rule, found[3 * i : 3 * i + 3], replies.milliseconds(now)) for i, (name, rule) in enumerate(asked)
    ]


def _bucket(bucket: str, rule: Rule, found: Sequence[Any], now: int) -> Bucket:
    held, waiting, until = found
    name, slash, value = bucket.partition("/")
    left = 0.0
    if rule.starts:
        interval = rule.seconds / rule.starts
        last = float(until.split()[0]) / 1e6 if until else 0.0
        left = max(0.0, min(max(0.0, last - now / 1e3), rule.burst * interval) - (rule.burst - 1) * interval)
    return Bucket(
        limit=name,
        value=unquote(value) if slash else None,
        rule=rule,
        held=int(held),
        waiting=int(waiting),
        starts_in=left,
    )


def _rule(raw: bytes) -> tuple[Rule, str | None]:
    concurrent, starts, period, _, key = [*raw.decode().split(" "), *["0"] * 5][:5]
    rule = Rule(concurrent=int(concurrent or 0), starts=int(starts), seconds=int(period) // 1_000_000)
    return rule, None if key in ("-", "0") else key

"""What was learned of functions, as the ledger keeps it for all workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from redis.backoff import NoBackoff

from egregore_dist.ledger import replies
from egregore_dist.ledger.calls import Calls
from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.ledger import Ledger
from egregore_dist.resources import profile
from egregore_dist.resources.profile import Profile

#: Functions that are kept; those that nobody learned of for longest are forgotten.
KEPT = 1000

# Functions of one transition, so that the server is not held up. Tries, where others learn of the same at that time.
_AT_ONCE, _TRIES = 50, 5


class Profiles:
    """The profiles that a ledger keeps, by function. Methods raise `errors.BrokerUnavailable` as the ledger's do."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # A server that is full is not waited for.
        self._calls = Calls(ledger.redis, NoBackoff(), retries=0)

    def read(self, functions: Collection[str]) -> dict[str, Profile]:
        """The profiles of these functions, of those that are known; what is reserved is what is left of it by now."""
        return self.read_at(functions)[0]

    def read_at(self, functions: Collection[str]) -> tuple[dict[str, Profile], int]:
        """The same, and the server's time, in milliseconds."""
        raws, now = self._read(list(functions))
        found = {name: profile.decode(raw) for name, raw in raws.items()}
        for each in found.values():
            each.reserved = each.reserved_at(now)
        return found, now

    def everything(self) -> dict[str, Profile]:
        """All the profiles that are kept."""
        with reachable():
            found = cast(dict[bytes, bytes], self._ledger.redis.hgetall(self._ledger.keys.profiles))
        return {name.decode(): profile.decode(raw) for name, raw in found.items()}

    def learn(self, news: Mapping[str, Profile]) -> None:
        """Merge what is new into what is known."""
        names = list(news)
        for start in range(0, len(names), _AT_ONCE):
            self._learn({name: news[name] for name in names[start : start + _AT_ONCE]})

    def _learn(self, news: Mapping[str, Profile]) -> None:
        for _ in range(_TRIES):
            known, now = self._read(list(news))
            args: list[str | bytes | int] = [KEPT]
            for name, new in news.items():
                new.at = now
                before = known.get(name, b"")
                args += [name, before, profile.encode(profile.merge(profile.decode(before), new) if before else new)]
            keys = self._ledger.keys.profiles
            changed = self._calls.one("learn", (keys, f"{keys}:used"), args)
            news = {name.decode(): news[name.decode()] for name in changed}
            if not news:
                return

    def _read(self, functions: list[str]) -> tuple[dict[str, bytes], int]:
        if not functions:
            return {}, 0
        pipe = self._ledger.redis.pipeline(transaction=False)
        pipe.hmget(self._ledger.keys.profiles, functions)
        pipe.time()
        with reachable():
            found, now = pipe.execute()
        pairs = zip(functions, found, strict=True)
        return {name: raw for name, raw in pairs if raw is not None}, replies.milliseconds(now)

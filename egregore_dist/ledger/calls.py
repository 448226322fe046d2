"""How transitions are called: each one a script that the server runs, several of them in one round trip where asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import AbstractBackoff, ExponentialWithJitterBackoff

from egregore_dist import errors
from egregore_dist.ledger import scripts
from egregore_dist.ledger.connection import Demoted, Refusals, reachable

_T = TypeVar("_T")


class Pauses(ExponentialWithJitterBackoff):
    """The pauses before a call that was in vain is made again.

    Args:
        waits: called before each.
    """

    def __init__(self, waits: Callable[[], None] | None) -> None:
        super().__init__(cap=1.0, base=0.02)
        self._waits = waits

    def __deepcopy__(self, _memo: object) -> Pauses:
        # Each of redis-py's connections makes a copy of its own.
        return self

    def compute(self, failures: int) -> float:
        """The next one, in seconds."""
        if self._waits is not None:
            self._waits()
        return super().compute(failures)


class Calls:
    """The calls of one ledger. Safe to share between threads.

    Args:
        backoff: the pauses before a call that the server refused is made again.
        retries: how often it is.

    Attributes:
        refusals: is told of each that the server refused.

    Methods raise `errors.BrokerUnavailable` and `errors.BrokerFull`, see `reachable`.
    """

    def __init__(self, server: redis.Redis, backoff: AbstractBackoff, retries: int) -> None:
        self._server = server
        self._backoff = backoff
        self._retries = retries
        self._known_scripts: set[str] = set()
        self.refusals = Refusals()

    def one(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Make a transition, and return its reply."""

        def ask() -> Any:
            script = self._script(name)
            with reachable():
                try:
                    return self._server.evalsha(script.sha, len(keys), *keys, *args)
                except redis.exceptions.NoScriptError:
                    return self._server.eval(script.text, len(keys), *keys, *args)

        return self._patiently(ask)

    def together(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]], transitions: Sequence[tuple[str, Sequence[Any]]]
    ) -> tuple[list[Any], list[Any]]:
        """Make transitions in their order, and then read, in one round trip.

        Args:
            reads: commands with their arguments.
            transitions: names with their arguments; the keys are the same for all.

        Returns:
            The replies to the reads, and those of the transitions.
        """
        return self._patiently(lambda: self._ask_together(keys, reads, transitions))

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        # A script that is refused has changed nothing: its first write is what the server refuses.
        for failures in range(1, self._retries + 1):
            try:
                return ask()
            except errors.BrokerFull as error:
                self.refusals.tell(error)
                if isinstance(error.__cause__, Demoted):
                    # Redis-py has asked so often, each time on a new connection.
                    raise
                time.sleep(self._backoff.compute(failures))
        return ask()

    def _ask_together(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]], transitions: Sequence[tuple[str, Sequence[Any]]]
    ) -> tuple[list[Any], list[Any]]:
        pipe = self._server.pipeline(transaction=False)
        for name, args in transitions:
            pipe.evalsha(self._script(name).sha, len(keys), *keys, *args)
        for command in reads:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        with reachable():
            found = pipe.execute(raise_on_error=False)
        if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in found):
            # The server was started anew. Each that was done may be asked again.
            self._known_scripts.clear()
            return self._ask_together(keys, reads, transitions)
        with reachable():
            for reply in found:
                if isinstance(reply, Exception):
                    raise reply
        return found[len(transitions) :], found[: len(transitions)]

    def _script(self, name: str) -> scripts.Script:
        # Loaded first: a script that is unknown when it is called has to be sent with all its arguments again.
        script = scripts.load(name)
        if name not in self._known_scripts:
            with reachable():
                self._server.script_load(script.text)
            self._known_scripts.add(name)
        return script

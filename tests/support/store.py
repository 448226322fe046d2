"""A ledger's store that fails, as seen by one process: its calls time out, done or not, or are refused."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import redis
import redis.asyncio

from egregore_dist.ledger import Ledger
from egregore_dist.ledger.watch import Watch

TIMEOUT, EXECUTE_AND_TIMEOUT, EXHAUSTED = "timeout", "execute_and_timeout", "exhausted"
KINDS = (TIMEOUT, EXECUTE_AND_TIMEOUT, EXHAUSTED)
#: Where each fault is noted, as ``kind command``; ``pipeline`` where several commands went together.
FILE = "EGDTEST_FAULTS"
#: What a process's randomness comes from, beside which of them it is.
SEED = "EGDTEST_SEED"

# What a server whose memory is full refuses, of what a ledger asks for: commands that may need more of it.
_WRITES = frozenset({"BLMOVE", "EVAL", "EVALSHA", "HINCRBY", "HSET", "LPUSH", "RPUSH", "SADD", "SET", "XADD", "ZADD"})


class _Faults:
    """Which faults there are in this process, and how often."""

    rate: ClassVar[float] = 0.0
    kinds: ClassVar[tuple[str, ...]] = KINDS
    _rngs: ClassVar[dict[int, random.Random]] = {}
    # Which process this is, the same each time that a test runs: its worker's name, and how many were forked before it.
    _who: ClassVar[str] = ""
    _forks: ClassVar[int] = 0

    @classmethod
    def choose(cls, commands: Sequence[str]) -> str | None:
        """What happens to commands that are sent together."""
        rng = cls._rngs.get(os.getpid())
        if rng is None:
            rng = cls._rngs[os.getpid()] = random.Random(f"{os.environ.get(SEED)}/{cls._who}")
        kinds = [kind for kind in cls.kinds if kind != EXHAUSTED or not _WRITES.isdisjoint(commands)]
        if not kinds or rng.random() >= cls.rate:
            return None
        kind = rng.choice(kinds)
        with Path(os.environ[FILE]).open("a") as file:
            file.write(f"{kind} {commands[0] if len(commands) == 1 else 'pipeline'}\n")
        return kind

    @classmethod
    def forks(cls) -> None:
        """Another process is about to begin as a copy of this one."""
        cls._forks += 1

    @classmethod
    def is_forked(cls) -> None:
        """This process is such a copy."""
        cls._who, cls._forks = f"{cls._who}/{cls._forks}", 0

    @classmethod
    def is_called(cls, who: str) -> None:
        """Which process this one is."""
        cls._who = who
        os.register_at_fork(before=cls.forks, after_in_child=cls.is_forked)


# Of the class of connection that it is put before, by TCP or by a socket.
_Stock: Any = object


class Faulty(_Stock):  # type: ignore[misc]
    """A connection that fails, each way as often as the others.

    ``timeout``: what is sent together is not sent, and times out. ``execute_and_timeout``: it is carried out, and times
    out. ``exhausted``: the server refuses what writes, as one whose memory is full does, and does what reads; of a
    transaction it does nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._armed = False
        self._commands: list[tuple[Any, ...]] = []
        self._answers: deque[Any] = deque()
        super().__init__(*args, **kwargs)

    def connect_check_health(self, *args: Any, **kwargs: Any) -> Any:
        self._armed = False
        self._answers.clear()
        try:
            return super().connect_check_health(*args, **kwargs)
        finally:
            self._armed = True

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self._commands = [args]
        super().send_command(*args, **kwargs)

    def pack_commands(self, commands: Any) -> Any:
        self._commands = list(commands)
        return super().pack_commands(self._commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        commands, self._commands = self._commands, []
        fault = _Faults.choose([it[0] for it in commands]) if self._armed and commands else None
        if fault == TIMEOUT:
            self.disconnect()
            raise redis.exceptions.TimeoutError("Timeout writing to socket (a fault of the test's)")
        answers: list[Any] = []
        if fault == EXECUTE_AND_TIMEOUT:
            # The last one, so that all of them are done.
            answers = [None] * (len(commands) - 1) + [_timeout()]
        elif fault == EXHAUSTED:
            answers = _refusals([it[0] for it in commands])
            command = super().pack_commands(
                [it for it, answer in zip(commands, answers, strict=True) if answer is None]
            )
        # A connection that is made for it forgets what is about to be answered.
        super().send_packed_command(command, check_health)
        self._answers.extend(answers)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        answer = self._answers.popleft() if self._answers else None
        if isinstance(answer, redis.exceptions.ResponseError):
            raise answer
        if isinstance(answer, bytes):
            return answer
        response = super().read_response(*args, **kwargs)
        if answer is not None:
            self.disconnect()
            raise answer
        return response


class FaultyAsync(_Stock):  # type: ignore[misc]
    """The same for an event loop, where commands are sent one by one."""

    _answer: Exception | None = None

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        # Those that make a connection are sent while there is none to use.
        fault = _Faults.choose([args[0]]) if self._is_waiting(args[0]) else None
        if fault == TIMEOUT:
            await self.disconnect()
            raise redis.exceptions.TimeoutError("Timeout writing to socket (a fault of the test's)")
        if fault == EXHAUSTED:
            self._answer = _full()
            return
        await super().send_command(*args, **kwargs)
        self._answer = _timeout() if fault == EXECUTE_AND_TIMEOUT else None

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        answer, self._answer = self._answer, None
        if isinstance(answer, redis.exceptions.ResponseError):
            raise answer
        response = await super().read_response(*args, **kwargs)
        if answer is not None:
            await self.disconnect()
            raise answer
        return response

    @staticmethod
    def _is_waiting(command: str) -> bool:
        return command in ("BLMOVE", "XREAD")


def arm(rate: float, kinds: Sequence[str] = KINDS, *, who: str) -> None:
    """Every ledger that this process makes from now on fails.

    Args:
        who: which process it is, the same each time that a test runs.
    """
    _Faults.rate, _Faults.kinds = rate, tuple(kinds)
    _Faults.is_called(who)
    made = Ledger.__init__

    def make(self: Ledger, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        _arm_pool(self.redis.connection_pool, Faulty)

    Ledger.__init__ = make  # type: ignore[method-assign]
    _arm_watches()


@contextmanager
def faulty(ledger: Ledger, rate: float, kinds: Sequence[str] = KINDS) -> Iterator[None]:
    """The calls of one ledger of this process fail."""
    pool, init = ledger.redis.connection_pool, Watch.__init__
    before = pool.connection_class, _Faults.rate, _Faults.kinds
    pool.disconnect()
    pool.reset()
    _arm_pool(pool, Faulty)
    _Faults.rate, _Faults.kinds = rate, tuple(kinds)
    _arm_watches()
    try:
        yield
    finally:
        Watch.__init__ = init  # type: ignore[method-assign]
        pool.connection_class, _Faults.rate, _Faults.kinds = before
        pool.disconnect()
        pool.reset()


def _arm_pool(pool: Any, faults: type) -> None:
    stock = pool.connection_class
    pool.connection_class = stock if issubclass(stock, faults) else type(stock.__name__, (faults, stock), {})


def _arm_watches() -> None:
    made = Watch.__init__

    def make(self: Watch, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        _arm_pool(self._redis.connection_pool, FaultyAsync)

    Watch.__init__ = make  # type: ignore[method-assign]


def _refusals(commands: Sequence[str]) -> list[Any]:
    """What a full server answers: None for what it does."""
    if commands[0] != "MULTI":
        return [_full() if command in _WRITES else None for command in commands]
    queued = [_full() if command in _WRITES else b"QUEUED" for command in commands[1:-1]]
    return [b"OK", *queued, redis.exceptions.ExecAbortError("Transaction discarded because of previous errors.")]


def _full() -> Exception:
    return redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


def _timeout() -> Exception:
    return redis.exceptions.TimeoutError("Timeout reading from socket (a fault of the test's)")

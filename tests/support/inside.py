"""Runs the command line with faults built in: ``python -m tests.support.inside HOOK=ARGUMENT ... -- worker ...``.

What is patched before the command starts is patched in the processes of a worker's pool too, since they are forked.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kombu
import psutil
import redis
from redis.connection import AbstractConnection, Connection

from egregore_dist import cli
from egregore_dist.ledger import Ledger

TIMEOUT, EXECUTE_AND_TIMEOUT, EXHAUSTED = "timeout", "execute_and_timeout", "exhausted"
# What a server whose memory is full refuses.
_WRITES = frozenset({"EVALSHA", "EVAL", "SET", "HSET", "ZADD"})


class FaultyConnection(Connection):
    """A connection that fails, each way as often as the others.

    ``timeout``: a command is not sent, and times out. ``execute_and_timeout``: it is carried out, and times out.
    ``exhausted``: the server refuses it, as one whose memory is full does. Each is written to ``EGDTEST_FAULTS``.
    """

    rate = 0.0
    kinds: tuple[str, ...] = (TIMEOUT, EXECUTE_AND_TIMEOUT, EXHAUSTED)
    _armed = False
    _answer: str | None = None
    _rngs: dict[int, random.Random] = {}  # noqa: RUF012 - one for all connections of a process

    def connect_check_health(self, *args: Any, **kwargs: Any) -> Any:
        self._armed, self._answer = False, None
        try:
            return super().connect_check_health(*args, **kwargs)
        finally:
            self._armed = True

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        fault = self._choose() if self._armed else None
        if fault == EXHAUSTED and args[0] not in _WRITES:
            fault = None
        if fault != EXHAUSTED:
            return self._send(fault, lambda: super(FaultyConnection, self).send_command(*args, **kwargs))
        self._answer = fault
        return None

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        # Pipelines come here, and single commands by way of `send_command`, which has chosen for them.
        fault = None if not self._armed else self._choose(TIMEOUT, EXECUTE_AND_TIMEOUT)
        self._send(fault, lambda: super(FaultyConnection, self).send_packed_command(command, check_health))

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        answer, self._answer = self._answer, None
        if answer == EXHAUSTED:
            raise redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        response = super().read_response(*args, **kwargs)
        if answer == EXECUTE_AND_TIMEOUT:
            self.disconnect()
            raise redis.exceptions.TimeoutError("Timeout reading from socket (a fault of the test's)")
        return response

    def _send(self, fault: str | None, send: Callable[[], None]) -> None:
        if fault == TIMEOUT:
            self.disconnect()
            raise redis.exceptions.TimeoutError("Timeout writing to socket (a fault of the test's)")
        armed, self._armed = self._armed, False
        try:
            send()
        finally:
            self._armed = armed
        self._answer = fault

    def _choose(self, *among: str) -> str | None:
        rng = self._rngs.get(os.getpid())
        if rng is None:
            rng = self._rngs[os.getpid()] = random.Random(f"{os.environ.get('EGDTEST_SEED')}/{os.getpid()}")
        kinds = [kind for kind in self.kinds if not among or kind in among]
        if not kinds or rng.random() >= self.rate:
            return None
        kind = rng.choice(kinds)
        with Path(os.environ["EGDTEST_FAULTS"]).open("a") as file:
            file.write(f"{kind}\n")
        return kind


def store_faults(argument: str) -> None:
    """Every ledger of the process fails: ``rate`` or ``rate,kind,kind``."""
    rate, *kinds = argument.split(",")
    FaultyConnection.rate = float(rate)
    FaultyConnection.kinds = tuple(kinds) or FaultyConnection.kinds
    made = Ledger.__init__

    def make(self: Ledger, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.redis.connection_pool.connection_class = FaultyConnection

    Ledger.__init__ = make  # type: ignore[method-assign]


@contextmanager
def faulty(ledger: Ledger, rate: float) -> Iterator[None]:
    """The calls of a ledger in this process time out, carried out or not."""
    pool = ledger.redis.connection_pool
    before = pool.connection_class, FaultyConnection.rate, FaultyConnection.kinds
    pool.disconnect()
    pool.reset()
    pool.connection_class = FaultyConnection
    FaultyConnection.rate, FaultyConnection.kinds = rate, (TIMEOUT, EXECUTE_AND_TIMEOUT)
    try:
        yield
    finally:
        pool.connection_class, FaultyConnection.rate, FaultyConnection.kinds = before
        pool.disconnect()
        pool.reset()


def die_at_send(argument: str) -> None:
    """The process kills itself just before it sends so many packets to any server; it writes how many it sent.

    The argument is ``index,file``.
    """
    index, file = argument.split(",")
    sent = 0
    send = AbstractConnection.send_packed_command

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal sent
        if sent == int(index):
            os.kill(os.getpid(), signal.SIGKILL)
        sent += 1
        Path(file).write_text(str(sent))
        return send(self, *args, **kwargs)

    AbstractConnection.send_packed_command = count  # type: ignore[method-assign]


def die_at_publish(argument: str) -> None:
    """The first process that publishes so many messages of one block kills itself; the argument is ``index,file``."""
    index, file = argument.split(",")
    published = 0
    publish = kombu.Producer.publish

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal published
        if published == int(index) and not Path(file).exists():
            Path(file).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        published += 1
        return publish(self, *args, **kwargs)

    kombu.Producer.publish = count  # type: ignore[method-assign]


def lies(argument: str) -> None:
    """What psutil says of the machine's memory is wrong: it ``raises``, or is ``zero`` or ``negative``."""

    def lie() -> Any:
        if argument == "raises":
            raise OSError("psutil has nothing to say (a fault of the test's)")
        said = {"zero": 0, "negative": -(2**40)}[argument]
        return SimpleNamespace(total=said, available=said, used=said, percent=float(said))

    psutil.virtual_memory = lie


HOOKS: dict[str, Callable[[str], None]] = {
    "store_faults": store_faults,
    "die_at_send": die_at_send,
    "die_at_publish": die_at_publish,
    "lies": lies,
}


def main() -> None:
    """Install the hooks that the command line names, and go on with what follows them."""
    split = sys.argv.index("--")
    for hook in sys.argv[1:split]:
        name, _, argument = hook.partition("=")
        HOOKS[name](argument)
    sys.argv = ["egregore-dist", *sys.argv[split + 1 :]]
    if sys.argv[1] == "-c":
        exec(compile(sys.argv[2], "<client>", "exec"), {"__name__": "__main__"})
    else:
        sys.exit(cli.main())


if __name__ == "__main__":
    main()

"""Runs the command line with faults built in: ``python -m tests.support.inside HOOK=ARGUMENT ... -- worker ...``.

What is patched before the command starts is patched in the processes of a worker's pool too, since they are forked.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kombu
import psutil
from billiard.pool import READY
from celery import Celery
from celery.concurrency.asynpool import ResultHandler
from redis.connection import AbstractConnection

from egregore_dist import cli
from egregore_dist.engine import app as apps
from egregore_dist.engine import boards
from egregore_dist.engine.board import Board
from egregore_dist.ledger import Ledger
from egregore_dist.resources import cgroup, report
from egregore_dist.settings import Settings
from egregore_dist.wire.code import Loader
from egregore_dist.worker import heldup
from egregore_dist.worker.guard import Guard
from tests.support import store


def store_faults(argument: str) -> None:
    """Every ledger of the process fails: ``rate`` or ``rate,kind,kind``."""
    rate, *kinds = argument.split(",")
    store.arm(float(rate), kinds or store.KINDS, who=sys.argv[sys.argv.index("--name") + 1].partition("@")[0])


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


def held_up(argument: str) -> None:
    """Processes of the pool whose lanes come to their first block, or leave their last one, are held up there.

    The argument is ``come,file``, ``leave,file``, ``mine,file``: then it has not got to make its board, ``enter,file``:
    when it asks for branches, or ``load,file``: when it imports the code of a node. The first one is, and each after a
    ``+`` in the place of the comma. One that is held up is noticed after a second.
    """
    name, _, file = argument.replace("+", ",").partition(",")
    impatient("1")
    where: Any = {"mine": boards, "enter": Ledger, "load": Loader}.get(name, Board)
    move = getattr(where, name)

    def hold(*args: Any, **options: Any) -> Any:
        if name == "leave":
            move(*args)
        if "+" in argument or not Path(file).exists():
            with Path(file).open("a") as pids:
                pids.write(f"{os.getpid()}\n")
            # As a lock that nobody will release: nothing interrupts it.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            while True:
                time.sleep(600)
        return None if name == "leave" else move(*args, **options)

    setattr(where, name, hold)


def impatient(argument: str) -> None:
    """A process of the pool that does nothing for so many seconds is held up."""
    heldup._AWAY = heldup._AT_WORK = float(argument)


def lose_end(argument: str) -> None:
    """The worker's main process does not hear of the end of the first task after a file of this name is there.

    That the process has nothing to do is noticed after a second.
    """
    impatient("1")
    receive = ResultHandler._recv_message

    def lossy(self: Any, add_reader: Any, fd: int, callback: Callable[[Any], None], **options: Any) -> Any:
        def hear(message: Any) -> None:
            if message[0] == READY and Path(argument).exists():
                Path(argument).unlink()
            else:
                callback(message)

        return receive(self, add_reader, fd, hear, **options)

    ResultHandler._recv_message = lossy


def no_board(argument: str) -> None:
    """Processes of the pool cannot make their boards: the disk is full after so many bytes of each."""

    def full(path: Path | None = None) -> Board:
        if path is None:
            return Board()
        path.write_bytes(bytes(int(argument)))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    boards.Board = full  # type: ignore[assignment, misc]


def end_channel(argument: str) -> None:
    """RabbitMQ ends the worker's channel once, at the next message after a file of this name is there.

    It does so for an acknowledgement of what it has not delivered, with the code that it has for one that is late.
    """
    handle = Guard._serve

    def serve(self: Any, handler: Any, message: Any) -> None:
        handle(self, handler, message)
        if Path(argument).exists():
            Path(argument).unlink()
            message.channel.basic_ack(10**6)

    Guard._serve = serve  # type: ignore[method-assign]


def soft_shutdown(argument: str) -> None:
    """The worker's Celery app waits so many seconds, at a cold shutdown, for what runs."""
    make = apps.make_app

    def soft(settings: Settings) -> Celery:
        app = make(settings)
        app.conf.worker_soft_shutdown_timeout = float(argument)
        return app

    apps.make_app = soft


def lies(argument: str) -> None:
    """What psutil says of the machine's memory is wrong: it ``raises``, or is ``zero`` or ``negative``."""

    def lie() -> Any:
        if argument == "raises":
            raise OSError("psutil has nothing to say (a fault of the test's)")
        said = {"zero": 0, "negative": -(2**40)}[argument]
        return SimpleNamespace(total=said, available=said, used=said, percent=float(said))

    psutil.virtual_memory = lie


def memory(argument: str) -> None:
    """The machine has 8 GiB, of which so many MiB are left as the file says."""

    def say() -> Any:
        total, available = 8 * 2**30, int(Path(argument).read_text()) * 2**20
        return SimpleNamespace(total=total, available=available, used=total - available, percent=0.0)

    psutil.virtual_memory = say
    cgroup.memory = lambda: None


def machine(argument: str) -> None:
    """It is a machine of its own, with so many MiB and cores: ``name,MiB,cores``."""
    name, mebibytes, cores = argument.split(",")
    total = int(mebibytes) * 2**20
    psutil.virtual_memory = lambda: SimpleNamespace(total=total, available=total, used=0, percent=0.0)
    cgroup.memory = lambda: None
    report.host = lambda: name
    report._cores = lambda: (float(cores), "", (), float(cores))


HOOKS: dict[str, Callable[[str], None]] = {
    "store_faults": store_faults,
    "die_at_send": die_at_send,
    "die_at_publish": die_at_publish,
    "held_up": held_up,
    "impatient": impatient,
    "no_board": no_board,
    "lose_end": lose_end,
    "end_channel": end_channel,
    "soft_shutdown": soft_shutdown,
    "lies": lies,
    "memory": memory,
    "machine": machine,
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

"""The least that a run has to do: one word goes from process to process as a run does, and nothing is done with it.

Client, server, a worker's main process, a process of its pool, the server for a lease, that process again, the server
for the commit, and the client: whoever has a broker, a pool and a record hands over so often.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import redis

#: Who is woken, and how often, from the client's call until it has the result.
WAKES = {"client": 1, "worker, its main process": 1, "worker, its pool": 2, "server": 3}
#: How often the server is sent something on that way: by the client, for the lease, and with the commit.
SENT = 3
_QUEUE, _TODO, _DONE = "relay:queue", "relay:todo", "relay:done"
_STOP = b"stop"
_TIMEOUT = 30
_WARM = 20


def seconds(url: str, rounds: int) -> list[float]:
    """How long the way takes, so many times; on a Redis or Valkey server."""
    with redis.Redis.from_url(url) as server, _worker(url):
        for _ in range(_WARM):
            _once(server)
        taken = []
        for _ in range(rounds):
            started = time.perf_counter()
            _once(server)
            taken.append(time.perf_counter() - started)
        server.rpush(_QUEUE, _STOP)
        return taken


def _once(server: redis.Redis) -> None:
    # All in one message: the answer to the last command is the result.
    with server.pipeline(transaction=False) as pipe:
        pipe.rpush(_TODO, b"1")
        pipe.rpush(_QUEUE, b"go")
        pipe.blpop([_DONE], timeout=_TIMEOUT)
        if pipe.execute()[-1] is None:
            raise TimeoutError(f"nothing came back within {_TIMEOUT} s")


@contextmanager
def _worker(url: str) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_main, args=(url,))
    worker.start()
    try:
        yield
        worker.join(_TIMEOUT)
    finally:
        worker.terminate()
        worker.join()


def _main(url: str) -> None:
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_child, args=(url, there))
    child.start()
    # The child's end of it is the child's alone: it ends with this process.
    there.close()
    try:
        with redis.Redis.from_url(url) as server:
            while (found := server.blpop([_QUEUE], timeout=_TIMEOUT)) and found[1] != _STOP:
                here.send_bytes(b"go")
    finally:
        here.close()
        child.join()


def _child(url: str, pipe: Connection) -> None:
    with redis.Redis.from_url(url) as server:
        while True:
            try:
                pipe.recv_bytes()
            except EOFError:
                return
            server.lpop(_TODO)
            server.rpush(_DONE, b"1")

"""What a pool reads of its processes as it stops."""

from __future__ import annotations

import os
import pickle
import struct
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.connection import Pipe
from celery.concurrency.asynpool import ResultHandler
from kombu.asynchronous.hub import Hub

from egregore_dist.worker import results


class Pool:
    """A pool of one process, and the pipe that its results come through. ``read`` are those that were read."""

    def __init__(self, *, is_alive: bool) -> None:
        self.reader, self.writer = Pipe(duplex=False)
        os.set_blocking(self.reader.fileno(), False)
        self.read: list[Any] = []
        self.removed: list[int] = []
        handler = ResultHandler.__new__(ResultHandler)
        handler._hub = SimpleNamespace(readers={})
        handler.partial_read_timeout, handler.partial_read_deadline = 0.05, 0.5
        self.handler = handler
        self._process = SimpleNamespace(outq=SimpleNamespace(_reader=self.reader), _is_alive=lambda: is_alive)
        results.guard(SimpleNamespace(_pool=SimpleNamespace(_result_handler=handler)))

    def write(self, message: object, most: int | None = None) -> None:
        """Write a message, or so many bytes of it."""
        body = pickle.dumps(message)
        os.write(self.writer.fileno(), (struct.pack(">i", len(body)) + body)[:most])

    def flush(self) -> bool:
        """Read what there is; whether that ends."""
        descriptor = self.reader.fileno()
        processes = {descriptor: self._process}
        flushing = threading.Thread(
            target=self.handler._flush_outqueue,
            args=(descriptor, self.removed.append, processes, self.read.append),
            daemon=True,
        )
        flushing.start()
        flushing.join(10)
        return not flushing.is_alive()


@pytest.mark.parametrize("written", [2, 4, 20])
@pytest.mark.parametrize("is_alive", [True, False])
def test_what_a_killed_process_was_writing_is_dropped(written: int, is_alive: bool) -> None:
    """The pool's own process holds the pipe open too, so there is no end of it: nobody waits for that."""
    pool = Pool(is_alive=is_alive)
    pool.write("x" * 100, written)

    assert pool.flush()
    assert pool.removed == [pool.reader.fileno()]
    assert pool.read == []


def test_what_has_been_written_is_read() -> None:
    """One message at a time, as Celery does, and no other where there is none."""
    pool = Pool(is_alive=True)
    pool.write(["one"])
    pool.write(["two"])

    assert all(pool.flush() for _ in range(3))
    assert pool.read == [["one"], ["two"]]
    assert pool.removed == []


def test_what_was_read_in_part_is_read_to_its_end() -> None:
    """By the event loop, which does not go on."""
    pool = Pool(is_alive=True)
    pool.write(["one"], 6)
    descriptor = pool.reader.fileno()
    reading = pool.handler._recv_message(lambda *_: None, descriptor, pool.read.append)
    next(reading)
    pool.handler._hub.readers[descriptor] = reading, ()
    body = pickle.dumps(["one"])
    os.write(pool.writer.fileno(), body[2:])

    assert pool.flush()
    assert pool.read == [["one"]]


def test_a_real_loop_has_what_is_read_here() -> None:
    """What is noted is noted where Celery's event loop keeps it."""
    assert isinstance(Hub().readers, dict)

"""Call blocking functions on threads beside a lane's event loop, each of which can be stopped by itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

from egregore_dist.engine import databases
from egregore_dist.engine.raiser import Raiser

T = TypeVar("T")

#: How a call ended: with a value, or with an error.
Ended = tuple[T | None, BaseException | None]


async def call(
    body: Callable[[], T],
    raiser: Raiser,
    *,
    name: str,
    context: contextvars.Context,
    left: float | None,
    is_lost: Callable[[], bool],
) -> Ended[T]:
    """Call ``body`` on a thread of its own, and wait for it: what it returned, or what it raised.

    That is handed back and not raised, since Python lets no StopIteration through a coroutine as it is.

    Cancelled, it stops the thread first, and ends when that has ended: nothing of the body goes on after it. One that
    blocks in the system or in C ends when it returns from there; where that takes long, its worker kills the process.

    Args:
        name: the thread's.
        context: the variables that the body sees and sets.
        left: seconds after which the thread is stopped with `Interrupt`, or None.
        is_lost: asked on another thread, every half second: whether it is to be stopped.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Ended[T]] = loop.create_future()
    stops = False

    def run() -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            with raiser.guard(left, lambda: stops or is_lost()):
                value = context.run(body)
        except BaseException as raised:
            error = raised
        databases.thread_ends()
        loop.call_soon_threadsafe(ended.set_result, (value, error))

    # A daemon: a thread that does not end must not keep the process from ending.
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        stops = True
        raiser.hurry(thread.ident)
        while not ended.done():
            try:
                await asyncio.wait([ended])
            except asyncio.CancelledError:
                continue
        raise

"""Nodes that write down each of their executions, for the checker in `tests.support.history`.

They write to a file, since a worker may be cut off from every server, and tell the time by a clock that nobody skews.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from egregore_dist import Context, node

#: Where executions are written to, one line of JSON for a start and one for an end.
FILE = "EGDTEST_EXECUTIONS"
#: Seconds between this machine's monotonic clock and the epoch: a fake clock leaves the monotonic one alone.
EPOCH = "EGDTEST_EPOCH"


def now() -> float:
    """Milliseconds since the epoch, on the test's clock."""
    return (time.monotonic() + float(os.environ[EPOCH])) * 1000


def write(**line: object) -> None:
    """Append one line, whole, from whichever process."""
    raw = f"{json.dumps({**line, 't': now()})}\n".encode()
    file = os.open(os.environ[FILE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, raw)
    finally:
        os.close(file)


@contextmanager
def recorded(context: Context) -> Iterator[str]:
    """Write down an execution; gives a value that no other execution has, which counts where the body ends well."""
    id = uuid.uuid4().hex
    stamp = f"{context.node}#{context.branch}#{context.attempt}#{id[:8]}"
    write(
        what="start",
        id=id,
        run=context.run,
        block=context.block_id,
        branch=context.branch,
        node=context.node,
        path=context.path,
        attempt=context.attempt,
        pid=os.getpid(),
    )
    value = None
    try:
        yield stamp
        value = stamp
    finally:
        write(what="end", id=id, value=value)


@node
def quick(data: Any, context: Context) -> str:
    """Takes no time."""
    with recorded(context) as stamp:
        return stamp


@node
def part(data: bytes, context: Context) -> bytes:
    """Gives a fiftieth of what it got."""
    with recorded(context):
        return data[: len(data) // 50]


@node(queue="far")
def far_only(data: Any, context: Context) -> str:
    """Only runs on a worker that serves the queue ``far``."""
    with recorded(context) as stamp:
        return stamp


@node
def nap(seconds: float, context: Context) -> str:
    """Sleeps."""
    with recorded(context) as stamp:
        time.sleep(seconds)
        return stamp


@node
def nap_or_wait(item: float | str, context: Context) -> str:
    """Sleeps so many seconds, or waits for a file of this path."""
    with recorded(context) as stamp:
        if isinstance(item, str):
            while not os.path.exists(item):
                time.sleep(0.01)
        else:
            time.sleep(item)
        return stamp


@node(io=True)
def waits(seconds: float, context: Context) -> str:
    """Sleeps, on a thread where there are several."""
    with recorded(context) as stamp:
        time.sleep(seconds)
        return stamp


@node(io=True, timeout=0.5)
def overlong(seconds: float, context: Context) -> str:
    """Sleeps, and is over its timeout where that takes long: its process is killed, with what else it has."""
    with recorded(context) as stamp:
        time.sleep(seconds)
        return stamp


@node
async def anap(seconds: float, context: Context) -> str:
    """Sleeps on the event loop."""
    with recorded(context) as stamp:
        await asyncio.sleep(seconds)
        return stamp


@node
def long_first(seconds: float, context: Context) -> str:
    """Sleeps in its first attempt only."""
    with recorded(context) as stamp:
        if context.attempt == 1:
            time.sleep(seconds)
        return stamp


@node
def heedless_first(seconds: float, context: Context) -> str:
    """Ignores SIGTERM, and every exception that should stop it, in its first attempt only."""
    with recorded(context) as stamp:
        if context.attempt == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                with suppress(BaseException):
                    time.sleep(seconds)
        return stamp


@node
def spin(seconds: float, context: Context) -> str:
    """Computes."""
    with recorded(context) as stamp:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return stamp


@node
def join(results: Any, context: Context) -> Any:
    """Hands on what it got."""
    with recorded(context):
        return results


@node
def moment(data: Any) -> float:
    """A hundredth of a second, for the nap after it."""
    return 0.01


@node
def minute(data: Any) -> float:
    """Sixty seconds, for the nap after it."""
    return 60.0

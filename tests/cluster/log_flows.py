"""Workflows for the tests of what nodes say."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path

from egregore_dist import Context, Sequence, node, parallel
from tests.support.waiting import until

log = logging.getLogger("flows.logs")
EVIL = "<script>alert(1)</script> \x1b[31mred\x07"


@node
def talks(data: object) -> object:
    """Say something in each way."""
    print("printed", data)
    print("complained", file=sys.stderr)
    log.debug("not heard")
    log.info("noted %s", data)
    try:
        raise ValueError("of old")
    except ValueError:
        log.exception("broke")
    print("unfinished", end="")
    return data


@node
async def murmurs(n: int) -> int:
    """Say three lines, while others do."""
    for i in range(3):
        print(f"{n}.{i}")
        await asyncio.sleep(0.001)
    return n


@node(io=True)
def mutters(n: int) -> int:
    """The same on a thread."""
    for i in range(3):
        print(f"{n}.{i}")
        time.sleep(0.001)
    return n


@node
def holds(path: str) -> str:
    """Say something, and wait until there is a file."""
    print("before")
    until(Path(path).exists, seconds=60, what="the gate")
    print(EVIL)
    return "open"


@node(retries=1, retry_delay=0.001)
def stumbles(path: str, context: Context) -> int:
    """Fail the first time."""
    print(f"attempt {context.attempt}")
    if context.attempt == 1:
        raise OSError("once")
    return context.attempt


@node
def dies(path: str, context: Context) -> int:
    """Say something, wait until there is a file, and the first time die."""
    print(f"last words {context.attempt}")
    until(Path(path).exists, seconds=60, what="the gate")
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt


@node
def floods(n: int) -> int:
    """Say very much."""
    for i in range(n):
        print(f"line {i}")
    return n


@node
def goes_on(path: str) -> str:
    """Say very much once there is a file, make another when all is said, and wait for a third."""
    print("before")
    until(Path(path).exists, seconds=60, what="the gate")
    for i in range(20_000):
        print(f"line {i}")
    Path(f"{path}.said").touch()
    until(Path(f"{path}.end").exists, seconds=60, what="the end")
    return "said"


@node
def breaks(data: object) -> None:
    """Say something, and fail."""
    print("about to break")
    raise ValueError("broken")


@node
def silent(data: object) -> object:
    """Say nothing."""
    return data


before_a_block = Sequence(talks, silent.map(), name="before")
both = parallel(talks, silent, name="pair")
held = Sequence(silent, parallel(holds, silent, name="gates"), name="held")

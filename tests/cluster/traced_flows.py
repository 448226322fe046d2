"""Workflows for the tests of traces. Each node makes a span of its own, so that it is seen what that hangs on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from opentelemetry import trace

from egregore_dist import Context, Limit, Sequence, node, parallel

SHOWN = ("x-request", "7")


def _inside(name: str) -> None:
    with trace.get_tracer("the user's").start_as_current_span(f"in {name}"):
        pass


@node
def first(folder: str) -> str:
    """Begin."""
    _inside("first")
    return folder


@node
def last(data: object) -> str:
    """End."""
    _inside("last")
    return "done"


@node
def plain(data: object) -> int:
    """Say something on the branch's own span."""
    trace.get_current_span().set_attribute(*SHOWN)
    _inside("plain")
    return 1


@node
async def hop(data: object) -> int:
    """The same, among many."""
    _inside("hop")
    return 1


@node(io=True)
def waits(data: object) -> int:
    """The same, on a thread among many."""
    _inside("waits")
    return 1


@node(retries=2, retry_delay=0.01)
def flaky(folder: str, context: Context) -> int:
    """Fail the first time."""
    _inside(f"flaky {context.attempt}")
    if context.attempt == 1:
        raise ValueError("not yet")
    return context.attempt


@node(retries=1, retry_delay=0.01, limit=Limit(concurrent=1))
def limited(folder: object, context: Context) -> int:
    """The same, and without its place of the limit in between."""
    _inside(f"limited {context.attempt}")
    if context.attempt == 1:
        raise ValueError("not yet")
    return context.attempt


@node
def fails(data: object) -> None:
    """Fail."""
    raise ValueError("a message")


@node
def dies(folder: str, context: Context) -> int:
    """Kill its process the first time."""
    _inside(f"dies {context.attempt}")
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt


@node
def sleeps(data: object) -> None:
    """Take long."""
    time.sleep(60)


@node
def held(path: str) -> str:
    """Wait until there is a file."""
    Path(f"{path}.reached").touch()
    while not Path(path).exists():
        time.sleep(0.02)
    return "open"


inner = parallel(plain.alias("left"), plain.alias("right"), name="inner")
nests = first.alias("step") >> inner >> last.alias("after")
outer = parallel(plain, nests, flaky, fails, name="outer", on_error="collect")
traced = Sequence(first, outer, last, name="traced")
many = Sequence(parallel(hop, hop.alias("skip"), waits, waits.alias("rests"), name="many"), last, name="of_many")
killed = Sequence(parallel(dies, plain, name="hazard"), last, name="killed")
again = Sequence(parallel(limited, name="places"), limited.alias("alone"), name="again")
broken = Sequence(parallel(parallel(fails, name="inside") >> last, name="around"), last, name="broken")
late = Sequence(parallel(sleeps, name="slow", timeout=0.3), last, name="late")
gated = Sequence(parallel(held, name="gates"), last, name="gated")

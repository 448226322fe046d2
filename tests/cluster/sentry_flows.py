"""Workflows for the tests of Sentry, whose SDK is set up as its documentation says, but for the transport: a file."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from pathlib import Path

import sentry_sdk
from celery import Celery
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from egregore_dist import Context, Limit, Sequence, node, parallel
from egregore_dist.worker import install


class Written(Transport):
    """Writes events and transactions to a file, a line each, and never part of one."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def capture_envelope(self, envelope: Envelope) -> None:
        """Write what Sentry would be sent."""
        said = [item.payload.json for item in envelope.items if item.type in ("event", "transaction")]
        with open(self._path, "ab", buffering=0) as file:
            for each in said:
                file.write(json.dumps(each, default=str).encode() + b"\n")


if path := os.environ.get("SENTRY_WRITTEN"):
    rate = float(os.environ.get("SENTRY_RATE", "1.0"))
    sentry_sdk.init(dsn="https://key@example.invalid/1", traces_sample_rate=rate, transport=Written(path))

if broker := os.environ.get("SENTRY_APP"):
    app = Celery("orders", broker=broker, set_as_current=False)

    @app.task(name="theirs", shared=False)
    def theirs() -> None:
        """A task of the user's own."""

    install(app)


def _says(name: str) -> None:
    # All that Sentry keeps of a node: none of it may be another's.
    sentry_sdk.set_tag("own", name)
    sentry_sdk.add_breadcrumb(message=f"a crumb of {name}")
    with sentry_sdk.start_span(op="own", name=f"a span of {name}"):
        pass


@node
def plain(data: object) -> int:
    """Succeed."""
    _says("plain")
    return 1


@node
def fails(data: object) -> int:
    """Fail."""
    _says("fails")
    raise ValueError("of fails")


@node(retries=1, retry_delay=0.01)
def flaky(data: object, context: Context) -> int:
    """Fail the first time."""
    _says(f"flaky {context.attempt}")
    if context.attempt == 1:
        raise ValueError("of flaky")
    return 1


@node(retries=1, retry_delay=0.01)
def hopeless(data: object, context: Context) -> int:
    """Fail each time."""
    _says(f"hopeless {context.attempt}")
    raise ValueError(f"of hopeless {context.attempt}")


@node(retries=1, retry_delay=0.01, limit=Limit(concurrent=1))
def limited(data: object, context: Context) -> int:
    """The same, with a limit."""
    _says(f"limited {context.attempt}")
    raise ValueError(f"of limited {context.attempt}")


_MET = threading.Barrier(2)


async def _together(name: str) -> None:
    # Between those of the other node.
    _says(name)
    await asyncio.sleep(0.1)
    raise ValueError(f"of {name}")


@node
async def ada(data: object) -> int:
    """Fail, among many."""
    await _together("ada")
    return 1


@node
async def bob(data: object) -> int:
    """The same."""
    await _together("bob")
    return 1


@node(io=True)
def cat(data: object) -> int:
    """Fail on a thread, among many."""
    _MET.wait(20)
    _says("cat")
    time.sleep(0.1)
    raise ValueError("of cat")


@node(io=True)
def dog(data: object) -> int:
    """The same."""
    _MET.wait(20)
    _says("dog")
    time.sleep(0.1)
    raise ValueError("of dog")


@node
def wrong(data: object) -> object:
    """Return what cannot travel."""
    return threading.Lock()


@node(timeout=0.1)
def slow(data: object) -> None:
    """Take longer than it may."""
    time.sleep(20)


@node
def sleeps(path: str) -> None:
    """Take long."""
    Path(path).touch()
    time.sleep(60)


@node
def follows(path: str) -> None:
    """Fail when the other has begun."""
    while not Path(path).exists():
        time.sleep(0.01)
    raise ValueError("of follows")


collected = parallel(plain, fails, flaky, hopeless, limited, wrong, slow, name="collected", on_error="collect")
mixed = parallel(ada, bob, cat, dog, name="mixed", on_error="collect")
chained = Sequence(plain, flaky.alias("second"), name="chained")
cancelled = parallel(sleeps, follows, name="cancelled")
alone = fails.alias("alone")

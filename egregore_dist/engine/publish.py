"""Publish what transitions ask for. A message that cannot be published is only late: the agenda knows of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import kombu.exceptions
import redis.exceptions
from celery import Celery
from celery.canvas import Signature

from egregore_dist.engine import broker
from egregore_dist.engine import compile as compiler
from egregore_dist.ledger import Message, NewBlock

log = logging.getLogger(__name__)

# A chord also writes to its result backend.
_UNREACHABLE = (
    kombu.exceptions.OperationalError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    OSError,
)


def advance(app: Celery, run: str, queue: str, *, name: str, created: int) -> None:
    """Publish the message that starts an accepted run."""
    _publish(compiler.advance(app, run, queue, name=name, created=created), run)


def block(
    app: Celery, run: str, opened: NewBlock, *, parent_queue: str, here: bool, left: float | None, created: int
) -> None:
    """Publish a block's chord; see `compile.compile_block`."""
    signature = compiler.compile_block(
        app, run, opened, parent_queue=parent_queue, here=here, left=left, created=created
    )
    if signature is not None:
        _publish(signature, run)


def messages(app: Celery, run: str, wanted: Iterable[Message]) -> list[Message]:
    """Publish the messages of a transition, each as a plain lane or collect. Returns what the broker did not take."""
    left = []
    for message in wanted:
        of, block, queue, created = message.run or run, message.block, message.queue, message.created
        if message.kind == "lane":
            made = compiler.lane(app, of, block, message.track, queue, name=message.name, created=created)
        else:
            made = compiler.collect(app, of, block, queue, name=message.name, created=created)
        if not _publish(made, of):
            left.append(message)
    return left


def _publish(signature: Signature, run: str) -> bool:
    try:
        signature.apply_async()
        return True
    except Exception as error:
        # Kombu raises an AttributeError where its connection is lost as it is made. No branch shall end by that.
        extra = {"action": "publish_failed", "run_id": run}
        reason = broker.lasting(error)
        if reason is not None:
            log.error(
                "run %s: the broker takes no message: %s; a worker's janitor asks again", run, reason, extra=extra
            )
        elif isinstance(error, _UNREACHABLE):
            kind = type(error).__name__
            log.warning(
                "run %s: the broker took no message (%s); a worker's janitor asks again", run, kind, extra=extra
            )
        else:
            log.exception("run %s: a message could not be published; a worker's janitor asks again", run, extra=extra)
    return False

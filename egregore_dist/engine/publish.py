"""Publish what transitions ask for. A message that cannot be published is only late: the agenda knows of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import kombu.exceptions
from celery import Celery

from egregore_dist.engine import compile as compiler
from egregore_dist.ledger import Message, NewBlock

log = logging.getLogger(__name__)


def block(app: Celery, run: str, opened: NewBlock, *, parent_queue: str, here: bool) -> None:
    """Publish a block's chord."""
    signature = compiler.compile_block(app, run, opened, parent_queue=parent_queue, here=here)
    if signature is not None:
        try:
            signature.apply_async()
        except kombu.exceptions.OperationalError as error:
            _late(run, opened.id, error)


def messages(app: Celery, run: str, wanted: Iterable[Message]) -> None:
    """Publish the messages of a transition, each as a plain lane or collect."""
    for message in wanted:
        if message.kind == "lane":
            signature = compiler.lane(app, run, message.block, message.track, message.queue)
        else:
            signature = compiler.collect(app, run, message.block, message.queue)
        try:
            signature.apply_async()
        except kombu.exceptions.OperationalError as error:
            _late(run, message.block, error)


def _late(run: str, of: str, error: Exception) -> None:
    log.warning(
        "run %s, block %s: the broker took no message (%s); the janitor asks again",
        run,
        of,
        type(error).__name__,
        extra={"action": "publish_failed", "run_id": run},
    )

"""What Celery's event tools hear: a receiver as they have it, in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery


class Ear:
    """The events that were heard so far."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def tasks(self, word: str) -> list[dict[str, Any]]:
        """The events of the tasks whose id has this in it."""
        heard = [event for event in list(self.events) if event["type"].startswith("task-")]
        return [event for event in heard if word in event["uuid"]]

    def types(self, uuid: str) -> list[str]:
        """The types of what was heard of one task, in the order of their own times."""
        return [event["type"] for event in sorted(self.tasks(uuid), key=lambda event: float(event["timestamp"]))]


@contextmanager
def listening(app: Celery) -> Iterator[Ear]:
    """Listen until the end."""
    ear, bound, over = Ear(), threading.Event(), threading.Event()

    def listen() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": ear.events.append})
            receiver.wakeup = False
            with receiver.consumer_context() as (own, _, _):
                bound.set()
                while not over.is_set():
                    try:
                        own.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert bound.wait(20)
    try:
        yield ear
    finally:
        over.set()
        thread.join(20)

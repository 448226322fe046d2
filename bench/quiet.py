"""A result backend of plain Celery for a client that waits in the cheapest way there is: it polls one key."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend

from egregore_dist.engine import urls


class QuietBackend(RedisBackend):
    """A result backend that subscribes to nothing: the client polls one key.

    The ordinary client subscribes to the result of every header task, and its ``get`` reads them all: much dearer for a
    thousand tasks, and no part of what is compared.
    """

    def on_task_call(self, producer: object, task_id: str) -> None:
        """A task is sent."""

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        """Somebody may want this result."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Nobody wants it any more."""
        return result


def backend(url: str) -> str:
    """What Celery's ``result_backend`` has to say for it, with a server's address."""
    # What stands before the first plus is the class, as for a socket the transport would be.
    return f"{__name__}:{QuietBackend.__name__}+{urls.for_kombu(url).removeprefix('redis+')}"

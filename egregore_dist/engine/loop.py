"""An event loop for the async nodes of one lane."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]

from egregore_dist.engine.interrupt import Interrupt

T = TypeVar("T")


class Loop:
    """Made when first used; close it when the lane ends."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, on the same loop as the one before."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        loop = self._runner.get_loop()
        task = loop.create_task(coroutine)
        try:
            while True:
                try:
                    return loop.run_until_complete(task)
                except (SystemExit, KeyboardInterrupt):
                    # Raised in a task that a node has made, it is that task's outcome; asyncio stops the loop as well.
                    if task.done() or terminate_handler_fired():
                        raise
        except Interrupt:
            # It is still a task of the loop, and would go on beside the next one: it is cancelled, and awaited, here.
            self.close()
            raise

    def close(self) -> None:
        """Cancel what still runs, wait until it has ended, and close the loop."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

"""One call of a node in a lane of many: whenever it is its turn on the loop, it is seen, and can be stopped."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from typing import Any, Self, TypeVar, cast

from egregore_dist.engine.board import NEVER, Board
from egregore_dist.engine.interrupt import Interrupter
from egregore_dist.engine.raiser import Raiser

T = TypeVar("T")

# A turn this long blocks the loop. Seconds.
_BLOCKS = 0.25


class Turns:
    """A context manager around one call.

    Args:
        is_lost: asked off the thread, while a turn blocks the loop: whether the branch is to stop.
        timeout: of the node, in seconds.
        on_loop: its first turn begins with the call; else it is called on a thread.

    The other arguments are what the board says of it.
    """

    def __init__(
        self,
        board: Board,
        interrupter: Interrupter | Raiser,
        is_lost: Callable[[], bool],
        branch: int,
        attempt: int,
        node: str,
        calls: int,
        retries: int,
        timeout: float | None,
        on_loop: bool = True,
    ) -> None:
        self._board = board
        self._interrupter = interrupter
        self._is_lost = is_lost
        self._called = self._since = monotonic()
        self._stop_at = NEVER if timeout is None else self._called + timeout
        self._said = (branch, attempt, node.encode(), calls, retries, self._called, self._stop_at)
        self._attend = self._must_stop
        self._timer: asyncio.TimerHandle | None = None
        self._is_on = False
        self._on_loop = on_loop

    def __enter__(self) -> Self:
        if self._stop_at != NEVER:
            # Whoever goes on after that was asked to stop, and did not.
            self._timer = asyncio.get_running_loop().call_later(self._stop_at - self._called, self._watch)
        if self._on_loop:
            self._begin()
        else:
            # The loop says nothing of it. Where code on threads holds the GIL, it never comes to that; nor where its
            # process is killed.
            self._watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        if self._is_on:
            self._end()
        if self._timer is not None:
            self._timer.cancel()
        if self._timer is not None or not self._on_loop:
            self._board.end(self)

    @property
    def over(self) -> bool:
        """Whether the node's timeout has passed."""
        return monotonic() >= self._stop_at

    def whole(self, body: Callable[[], T]) -> T:
        """Call what runs on a thread, there: it is over with that, however late its loop hears of it."""
        try:
            return body()
        finally:
            self._board.end(self)

    @types.coroutine
    def take(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await a coroutine."""
        value: Any = None
        error: BaseException | None = None
        while True:
            # The first turn may have begun with the call.
            if not self._is_on:
                self._begin()
            try:
                yielded = coroutine.send(value) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                return cast(T, stop.value)
            finally:
                self._end()
            try:
                value, error = (yield yielded), None
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as thrown:
                error = thrown

    def _begin(self) -> None:
        self._is_on = True
        self._since = monotonic()
        self._board.turn(*self._said)
        self._interrupter.enter(self._attend)

    def _end(self) -> None:
        self._is_on = False
        self._interrupter.leave()
        self._board.rest()

    def _must_stop(self) -> bool:
        now = monotonic()
        return now - self._since > _BLOCKS and (now >= self._stop_at or self._is_lost())

    def _watch(self) -> None:
        self._board.watch(self, *self._said)

"""Blocking functions on threads beside an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from egregore_dist.engine import threads
from egregore_dist.engine.interrupt import Interrupt
from egregore_dist.engine.raiser import Raiser

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def call(body: Callable[[], Any], **given: Any) -> Any:
    """Call it, with nothing that would stop it unless that is given."""
    options: dict[str, Any] = {"context": contextvars.copy_context(), "left": None, "is_lost": lambda: False}
    value, error = await threads.call(body, Raiser(), name="body", **{**options, **given})
    if error is not None:
        raise error
    return value


def spin(until: Callable[[], bool] = lambda: False) -> None:
    """Compute until told to end, for a while at most."""
    limit = time.monotonic() + 20
    while not until():
        assert time.monotonic() < limit


def test_many_run_at_a_time() -> None:
    """All of them are on threads of their own at the same time, and the loop is free."""
    barrier = threading.Barrier(8)

    async def main() -> list[int]:
        return list(await asyncio.gather(*(call(lambda: barrier.wait(30)) for _ in range(8))))

    assert sorted(asyncio.run(main())) == list(range(8))


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), StopIteration("one"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_what_is_raised_there_is_handed_back(error: BaseException) -> None:
    """Whatever it is, only its caller sees it, as it is."""

    def body() -> None:
        raise error

    async def main() -> tuple[None, BaseException | None]:
        return await threads.call(
            body, Raiser(), name="body", context=contextvars.copy_context(), left=None, is_lost=lambda: False
        )

    assert asyncio.run(main()) == (None, error)


def test_variables_are_those_of_the_branch() -> None:
    """What one call sets the next one of the same context sees, and nobody else."""

    async def main() -> tuple[str, str, str]:
        colour.set("red")
        mine = contextvars.copy_context()
        await call(lambda: colour.set(colour.get() + "dish"), context=mine)
        return await call(colour.get, context=mine), await call(colour.get), colour.get()

    assert asyncio.run(main()) == ("reddish", "red", "red")


def test_a_deadline_stops_it() -> None:
    """After its seconds it is stopped, and its ``finally`` has run by then."""
    cleaned: list[bool] = []

    def body() -> None:
        try:
            spin()
        finally:
            cleaned.append(True)

    with pytest.raises(Interrupt):
        asyncio.run(call(body, left=0.05))

    assert cleaned == [True]


def test_it_is_stopped_when_it_is_lost() -> None:
    """Whoever is asked may say that it is to stop."""
    with pytest.raises(Interrupt):
        asyncio.run(call(spin, is_lost=lambda: True))


def test_who_cancels_it_waits_for_its_end() -> None:
    """Cancelled, and cancelled again, it ends only when nothing of it runs any more."""
    begun, stopped, may_end, ended = (threading.Event() for _ in range(4))

    def body() -> None:
        begun.set()
        try:
            spin()
        except Interrupt:
            stopped.set()
            raise
        finally:
            may_end.wait(30)
            ended.set()

    async def main() -> bool:
        task = asyncio.create_task(call(body))
        await asyncio.to_thread(begun.wait, 30)
        for _ in range(2):
            task.cancel()
            await asyncio.wait([task], timeout=0.2)
        goes_on = not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return goes_on and stopped.is_set() and ended.is_set()

    assert asyncio.run(main())

"""A handle on a run, where no server answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from egregore_dist import errors
from egregore_dist.client.run import Run
from egregore_dist.client.session import Session
from egregore_dist.settings import Settings
from tests.support.waiting import until


@pytest.fixture
def session() -> Iterator[Session]:
    """Of a cluster whose server is away."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    session = Session(Settings(broker_url=SecretStr(f"redis://127.0.0.1:{port}/0")))
    yield session
    session.close()


@pytest.mark.parametrize("epoch", [None, "known"], ids=["unknown", "submitted"])
def test_a_timeout_holds_while_the_server_is_away(session: Session, epoch: str | None) -> None:
    """Who waits for a run is patient with a server that is restarted, and not for longer than they said."""
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not seen to end within 0.5 s: .*cannot be reached") as caught:
        Run("r", of=session, epoch=epoch).result(timeout=0.5)

    assert isinstance(caught.value.__cause__, errors.BrokerUnavailable)
    assert 0.5 <= time.monotonic() - began < 20


def test_who_awaits_is_told_the_page_beside_the_event_loop(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A monitor that takes long to say its address does not hold the event loop up, and two who wait are told once."""
    asked, goes_on, held_up = threading.Event(), threading.Event(), []

    def page_of(run: str) -> str:
        asked.set()
        held_up.append(not goes_on.wait(10))
        return f"http://monitor/runs/{run}"

    async def awaited(run: Run) -> None:
        await run

    async def wait() -> None:
        run = Run("r", of=session, epoch="known")
        waiting = [asyncio.create_task(awaited(run)) for _ in range(2)]
        assert await asyncio.to_thread(asked.wait, 5)
        goes_on.set()
        await asyncio.to_thread(until, lambda: run._told_page, what="the link")
        for task in waiting:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    monkeypatch.setattr(session, "tells_pages", lambda: True)
    monkeypatch.setattr(session, "page_of", page_of)
    asyncio.run(wait())

    assert capsys.readouterr().err == "http://monitor/runs/r\n"
    assert held_up == [False]

"""A handle on a run, where no server answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from egregore_dist import errors
from egregore_dist.client.run import Run
from egregore_dist.client.session import Session
from egregore_dist.settings import Settings


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

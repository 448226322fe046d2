"""An id that is used again after its run was deleted, while a lane of the former run is still there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from egregore_dist import Run, node
from egregore_dist.client.server import Server
from egregore_dist.client.session import Session
from egregore_dist.engine.lane import Lane
from egregore_dist.engine.runtime import Runtime
from egregore_dist.ledger.calls import Calls
from egregore_dist.ledger.keys import ROOT
from egregore_dist.settings import load
from tests.support.clusters import submitting

ID = "used-again"


@node
def double(value: int) -> int:
    return value * 2


@node
def triple(value: int) -> int:
    return value * 3


@pytest.fixture
def empty() -> Iterator[Session]:
    """A cluster without workers."""
    with Server.start() as server, submitting(load(broker_url=server.url, modules="*")) as session:
        yield session


def lane(session: Session, id: str) -> Lane:
    """A lane of its own, as of a worker."""
    return Lane(Runtime(session.app, session.settings), ID, worker="here", id=id)


def test_a_last_commit_that_was_not_heard_of(empty: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane that makes it again does not take the run that has the id now for its own."""
    call, lost = Calls.one, list[Any]()

    def one(self: Calls, name: str, *asked: Any) -> Any:
        answer = call(self, name, *asked)
        if name == "serve" and not lost and empty.ledger.run(ID).state == "succeeded":
            lost.append(answer)
            assert empty.ledger.delete(ID)
            triple.submit(5, id=ID)
            return call(self, name, *asked)
        return answer

    monkeypatch.setattr(Calls, "one", one)
    double.submit(5, id=ID)
    lane(empty, "former").serve(ROOT, 0)
    assert lost
    lane(empty, "present").serve(ROOT, 0)

    assert Run(ID).result(timeout=5) == 15

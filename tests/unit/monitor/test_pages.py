"""What a page says where it cannot be made."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import msgspec
import pytest
from starlette.responses import Response

from egregore_dist import errors
from egregore_dist.client.session import Session
from egregore_dist.monitor.guard import Asked
from egregore_dist.monitor.pages import Pages
from egregore_dist.settings import Settings


def answer(error: Exception) -> Response:
    """The answer where making a page raises this."""

    def make(asked: Asked) -> Response:
        raise error

    cluster: Any = SimpleNamespace(ledger=MagicMock(), settings=Settings())
    pages = Pages(cast(Session, cluster), asks_for_name=False)
    return asyncio.run(pages._answering(make)(cast(Asked, SimpleNamespace(session=None, path="/"))))  # type: ignore[arg-type]


def test_a_workflow_of_another_release() -> None:
    """It is told to be one."""
    made = answer(errors.UnreadableWorkflow("run x: another release has submitted it"))

    assert made.status_code == 422
    assert b"run x: another release has submitted it" in made.body


@pytest.mark.parametrize("error", [msgspec.ValidationError("odd"), msgspec.DecodeError("odd"), ValueError("odd")])
def test_other_data_that_cannot_be_read(error: Exception) -> None:
    """A fault of another kind is not told to be that: it goes on to the guard, which logs it."""
    with pytest.raises(type(error), match="odd"):
        answer(error)

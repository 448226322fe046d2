"""Signed orders to workers."""

from __future__ import annotations

from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.wire import orders
from egregore_dist.wire.orders import LIFETIME, Orders
from egregore_dist.wire.signing import Signer
from tests.support.secret import secret_of

SIGNER = Signer.from_text(secret_of("cluster"))
NOW = 1_700_000_000_000


def given(signer: Signer = SIGNER, **changed: Any) -> str:
    what: dict[str, Any] = {"command": "drain", "arguments": {"number": 2}, "worker": "w@h", "life": "l", "at": NOW}
    return orders.give(signer, **{**what, **changed})


def taken(text: object, *, now: int = NOW, signer: Signer = SIGNER) -> list[dict[str, Any]]:
    """What is done for an order, if anything."""
    done: list[dict[str, Any]] = []
    Orders(signer, "w@h").take("drain", text, life="l", now=now, act=lambda **named: done.append(named) or {})
    return done


@pytest.mark.parametrize("apart", [-LIFETIME, 0, LIFETIME])
def test_an_order_is_done(apart: int) -> None:
    """With its arguments, within a minute on the ledger's clock."""
    assert taken(given(), now=NOW + apart) == [{"number": 2}]


@pytest.mark.parametrize(
    "text",
    [
        given(command="stop"),
        given(arguments={"number": 1.5}),
        given(arguments={"number": True}),
        given(arguments={"number": "two"}),
        given(worker="x@h"),
        given(life="before"),
        given(at=NOW - LIFETIME - 1),
        given(at=NOW + LIFETIME + 1),
        given(Signer.from_text(secret_of("another"))),
        given()[:-4],
        "",
        "é",
        None,
        b"",
        ["x"],
        {"command": "drain"},
    ],
    ids=lambda text: str(text)[:8],
)
def test_what_is_no_order_is_refused(text: object) -> None:
    """For something else, another worker, another life of it or another time, or not signed with this secret."""
    with pytest.raises(errors.CodeError):
        taken(text)


def test_a_byte_that_was_changed_is_seen() -> None:
    """Whichever of them it is."""
    text = given()
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(errors.CodeError):
            taken(changed)


def test_an_order_is_done_once() -> None:
    """One that comes again has the same answer and no effect, until it is too old anyway."""
    done: list[int] = []
    worker, text = Orders(SIGNER, "w@h"), given(arguments={})

    def act() -> dict[str, Any]:
        done.append(1)
        return {"ok": len(done)}

    answers = [worker.take("drain", text, life="l", now=NOW + late, act=act) for late in (0, 1, LIFETIME)]

    assert answers == [{"ok": 1}] * 3
    assert worker.take("drain", given(arguments={}), life="l", now=NOW, act=act) == {"ok": 2}
    with pytest.raises(errors.CodeError, match="within the last 60 s"):
        worker.take("drain", text, life="l", now=NOW + LIFETIME + 1, act=dict)


def test_without_a_secret_both_sides_say_so() -> None:
    """Who asks is told before anything is sent, and a worker answers with the cure."""
    with pytest.raises(errors.ConfigurationError, match="set EGREGORE_SECRET to the same value as on the worker"):
        given(Signer(()))
    with pytest.raises(errors.CodeError, match="set EGREGORE_SECRET to the same value there and here"):
        taken(given(), signer=Signer(()))

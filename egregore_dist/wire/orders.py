"""What a worker is asked to do by remote control: signed, for one life of one worker, and good for a minute."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from egregore_dist import errors
from egregore_dist.wire.signing import Signer

#: Milliseconds on the ledger's clock for which an order is good.
LIFETIME = 60_000

_PURPOSE = "control"


class Order(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An order.

    Attributes:
        command: what is asked for.
        arguments: of the command.
        worker: the worker's name.
        life: which of the worker's lives, as its report names it: one that was started anew does not take it.
        at: when it was given, in server milliseconds.
        nonce: tells orders apart that are alike.
    """

    command: str
    arguments: dict[str, int]
    worker: str
    life: str
    at: int
    nonce: str


def give(signer: Signer, command: str, arguments: dict[str, int], *, worker: str, life: str, at: int) -> str:
    """A signed order, as text.

    Raises:
        errors.ConfigurationError: there is no secret to sign it with.
    """
    if not signer.can_sign:
        raise errors.ConfigurationError(
            "a worker does what it is asked only with a signature, and there is no secret here to sign with: set "
            "EGREGORE_SECRET to the same value as on the worker"
        )
    order = Order(command, arguments, worker, life, at, secrets.token_hex(16))
    return base64.b64encode(signer.sign(_PURPOSE, msgspec.msgpack.encode(order))).decode()


class Orders:
    """The orders that one worker takes. What was done once is not done again: the same order gets the same answer.

    Args:
        worker: the worker's name.
    """

    def __init__(self, signer: Signer, worker: str) -> None:
        self._signer = signer
        self._worker = worker
        self._answers: dict[str, tuple[int, dict[str, Any]]] = {}

    def take(
        self, command: str, text: object, *, life: str, now: int, act: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """Do what an order asks for, once: the answer.

        Args:
            command: what the message asks for, which the order must too.
            text: the signed order.
            life: which life of the worker this is.
            now: server milliseconds.
            act: does it, with the order's arguments.

        Raises:
            errors.CodeError: it is not signed, or not with a secret that is known here, or not for this worker, or it
                is not of now.
        """
        order = self._opened(text)
        if (order.command, order.worker, order.life) != (command, self._worker, life):
            raise errors.CodeError("this order was given to another worker, or asks for something else")
        if abs(now - order.at) > LIFETIME:
            raise errors.CodeError(f"this order was not given within the last {LIFETIME // 1000} s: give it again")
        self._answers = {
            nonce: known for nonce, known in self._answers.items() if abs(now - known[0]) <= LIFETIME
        }  # what is forgotten would be refused as too old
        if order.nonce not in self._answers:
            self._answers[order.nonce] = (order.at, act(**order.arguments))
        return self._answers[order.nonce][1]

    def _opened(self, text: object) -> Order:
        if not self._signer.can_sign:
            raise errors.CodeError(
                "it has no secret to check who asks: set EGREGORE_SECRET to the same value there and here, or end its "
                "process with SIGTERM to stop it"
            )
        if not isinstance(text, str):
            raise errors.CodeError("it takes signed orders only: use `egregore-dist workers`, the monitor, or Python")
        try:
            return msgspec.msgpack.decode(
                self._signer.open(_PURPOSE, base64.b64decode(text, validate=True)), type=Order
            )
        except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
            raise errors.CodeError("this order is malformed") from error

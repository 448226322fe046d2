"""Signatures: only who knows the secret can write what is opened here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import msgspec

from egregore_dist import errors
from egregore_dist.wire import strength

_CURE = "Set EGREGORE_SECRET to the same value on clients and workers"


class _Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    key: str
    signature: bytes
    payload: bytes


class Signer:
    """Signs payloads with the first of its secrets, and opens what any of them signed (HMAC-SHA256).

    Args:
        secrets: the secrets, newest first; none: this signer can neither sign nor open.

    Raises:
        ConfigurationError: `strength.refuse_weak` refuses a secret.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Sequence[bytes]) -> None:
        for secret in secrets:
            strength.refuse_weak(secret.decode("utf-8", "replace"), "EGREGORE_SECRET")
        self._secrets = {_key_id(secret): secret for secret in secrets}

    @classmethod
    def from_text(cls, secret: str | None) -> Signer:
        """A signer of one secret, or, for None, one that can neither sign nor open.

        Raises:
            ConfigurationError: the secret is weak, or has a comma.
        """
        if secret is None:
            return cls(())
        if "," in secret:
            raise errors.ConfigurationError(
                f"EGREGORE_SECRET has a comma. Use one secret without commas. Make one with: {strength.MAKE_ONE}"
            )
        return cls((secret.strip().encode(),))

    def __repr__(self) -> str:
        return f"Signer(keys=[{', '.join(self._secrets)}])"

    @property
    def can_sign(self) -> bool:
        """Whether there is a secret."""
        return bool(self._secrets)

    def sign(self, purpose: str, payload: bytes) -> bytes:
        """An envelope of ``payload`` that opens for ``purpose`` alone.

        Raises:
            CodeError: there is no secret.
        """
        for key, secret in self._secrets.items():
            return msgspec.msgpack.encode(_Envelope(key, _signature(secret, key, purpose, payload), payload))
        raise errors.CodeError(f"there is no secret to sign {purpose} with. {_CURE}.")

    def open(self, purpose: str, envelope: bytes) -> bytes:
        """The payload of ``envelope``, if it was signed for ``purpose`` with a secret that is known here.

        Raises:
            CodeError: it was not; or there is no secret, or ``envelope`` is none.
        """
        parts = _parse(envelope)
        if parts is None:
            raise errors.CodeError(f"the signed {purpose} is malformed: it was damaged, or written by something else.")
        if not self._secrets:
            raise errors.CodeError(f"signed {purpose} came, but there is no secret here. {_CURE}.")
        secret = self._secrets.get(parts.key)
        if secret is None:
            raise errors.CodeError(
                f"the {purpose} was signed with another secret (key {parts.key!r:.20}; "
                f"known here: {', '.join(self._secrets)}). {_CURE}."
            )
        if not hmac.compare_digest(_signature(secret, parts.key, purpose, parts.payload), parts.signature):
            raise errors.CodeError(f"the signature of the {purpose} is wrong: it was changed on its way.")
        return parts.payload


def unverified(envelope: bytes) -> bytes | None:
    """The payload of ``envelope``, whoever wrote it, or None: to name in a message, for nothing else."""
    parts = _parse(envelope)
    return None if parts is None else parts.payload


def _parse(envelope: bytes) -> _Envelope | None:
    try:
        parts = msgspec.msgpack.decode(envelope, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    # one envelope has one form: no byte can be changed without notice
    return parts if msgspec.msgpack.encode(parts) == envelope else None


def _key_id(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()[:8]


def _signature(secret: bytes, key: str, purpose: str, payload: bytes) -> bytes:
    # lengths go first, so that no two purposes and payloads make one text
    head = msgspec.msgpack.encode((key, purpose, len(payload)))
    return hmac.digest(secret, head + payload, "sha256")

"""Signatures: right, wrong, absent, tampered with, rotated."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.wire import signing
from tests.support.secret import secret_of

OLD = secret_of("old").encode()
NEW = secret_of("new").encode()
signer = signing.Signer([NEW])
ENVELOPE = signer.sign("code", b"payload")


@given(st.text(), st.binary())
def test_what_was_signed_opens(purpose: str, payload: bytes) -> None:
    """Whoever knows the secret opens what was signed with it."""
    assert signing.Signer([NEW]).open(purpose, signer.sign(purpose, payload)) == payload


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    """Whichever byte is changed, and to whatever, the envelope does not open."""
    forged = bytearray(ENVELOPE)
    forged[position] ^= change

    with pytest.raises(errors.CodeError):
        signer.open("code", bytes(forged))


@given(st.binary(min_size=1, max_size=4))
def test_an_added_byte_is_noticed(more: bytes) -> None:
    """Nothing can be put before or behind an envelope."""
    for forged in (ENVELOPE + more, more + ENVELOPE):
        with pytest.raises(errors.CodeError):
            signer.open("code", forged)


def test_a_cut_envelope_is_malformed() -> None:
    """Every prefix of an envelope is refused as malformed."""
    for end in range(len(ENVELOPE)):
        with pytest.raises(errors.CodeError, match="malformed"):
            signer.open("code", ENVELOPE[:end])


def test_a_second_form_of_an_envelope_is_refused() -> None:
    """The same content in another encoding is not the same envelope."""
    key, signature, payload = msgspec.msgpack.decode(ENVELOPE)
    other = b"\x93" + b"\xd9\x08" + key.encode() + msgspec.msgpack.encode(signature) + msgspec.msgpack.encode(payload)

    assert msgspec.msgpack.decode(other) == [key, signature, payload]
    with pytest.raises(errors.CodeError, match="malformed"):
        signer.open("code", other)


def test_an_envelope_opens_for_its_purpose_alone() -> None:
    """What was signed for one purpose cannot be used for another."""
    with pytest.raises(errors.CodeError, match="signature of the command is wrong"):
        signer.open("command", ENVELOPE)


def test_another_secret_is_named_by_its_key() -> None:
    """The error of a wrong secret says which key was used, which are known, and the cure."""
    with pytest.raises(errors.CodeError, match="signed with another secret") as caught:
        signing.Signer([OLD]).open("code", ENVELOPE)

    assert msgspec.msgpack.decode(ENVELOPE)[0] in str(caught.value)
    assert "Set EGREGORE_SECRET to the same value on clients and workers" in str(caught.value)


def test_a_forged_key_id_does_not_help() -> None:
    """An envelope that names a known key, but was signed with another, is refused."""
    forged = signing.Signer([OLD]).sign("code", b"payload")
    known = signer.sign("code", b"payload")
    key, signature, payload = msgspec.msgpack.decode(known)
    stolen = msgspec.msgpack.encode((key, msgspec.msgpack.decode(forged)[1], payload))

    assert signature != msgspec.msgpack.decode(forged)[1]
    with pytest.raises(errors.CodeError, match="wrong"):
        signer.open("code", stolen)


def test_an_absent_secret_neither_signs_nor_opens() -> None:
    """Without a secret nothing is signed and nothing opened; both say what to set."""
    nobody = signing.Signer.from_text(None)

    assert not nobody.can_sign
    with pytest.raises(errors.CodeError, match=r"no secret to sign code with.*EGREGORE_SECRET"):
        nobody.sign("code", b"payload")
    with pytest.raises(errors.CodeError, match=r"no secret here.*EGREGORE_SECRET"):
        nobody.open("code", ENVELOPE)


def test_secrets_rotate() -> None:
    """While both secrets are known both open, and the first one signs; later the old one is refused."""
    both = signing.Signer([NEW, OLD])
    old = signing.Signer([OLD])

    assert both.open("code", old.sign("code", b"p")) == b"p"
    assert signer.open("code", both.sign("code", b"p")) == b"p"
    with pytest.raises(errors.CodeError, match="another secret"):
        signer.open("code", old.sign("code", b"p"))


@pytest.mark.parametrize("text", ["", "hunter2", "x" * 64, secret_of("any")[:31], "password" * 8])
def test_s4_a_weak_secret_is_refused(text: str) -> None:
    """A weak secret is a configuration error that names the command that makes one, and not the secret."""
    for made in (lambda: signing.Signer.from_text(text), lambda: signing.Signer([NEW, text.encode()])):
        with pytest.raises(
            errors.ConfigurationError, match=r"EGREGORE_SECRET is too weak.*egregore-dist secret"
        ) as caught:
            made()
        assert not text or text not in str(caught.value)


def test_white_space_around_a_secret_does_not_count() -> None:
    """A file that holds a secret may end with a line feed."""
    assert signing.Signer.from_text(f" {NEW.decode()}\n").open("code", ENVELOPE) == b"payload"
    with pytest.raises(errors.ConfigurationError):
        signing.Signer.from_text(secret_of("any")[:31] + " " * 40)


def test_a_comma_in_a_secret_is_refused() -> None:
    """A list of secrets given as one is a configuration error."""
    with pytest.raises(errors.ConfigurationError, match=r"comma.*egregore-dist secret"):
        signing.Signer.from_text("a" * 16 + "," + "b" * 16)


def test_no_secret_is_shown() -> None:
    """Neither repr, nor an error, nor an envelope shows a secret."""
    with pytest.raises(errors.CodeError) as caught:
        signing.Signer([OLD]).open("code", ENVELOPE)
    shown = repr(signer) + str(signer) + str(caught.value) + repr(ENVELOPE)

    assert not any(each.decode() in shown for each in (OLD, NEW))
    assert repr(signing.Signer([])) == "Signer(keys=[])"


@given(st.binary())
def test_any_bytes_are_refused(raw: bytes) -> None:
    """What is no envelope is a CodeError, whatever it is."""
    with pytest.raises(errors.CodeError, match="malformed"):
        signer.open("code", raw)

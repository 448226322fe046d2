"""How strong a secret is taken to be."""

from __future__ import annotations

import base64
import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egregore_dist import errors
from egregore_dist.wire import strength

WORDS = ["correct", "horse", "battery", "staple", "remote", "worker", "queue", "ledger", "branch", "result"]


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (lambda raw: raw.hex(), 16),  # openssl rand -hex 16
        (lambda raw: raw.hex().upper(), 16),
        (lambda raw: base64.b64encode(raw).decode(), 16),
        (lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode(), 16),  # 22 characters
        (lambda raw: base64.b32encode(raw).decode(), 16),
        (lambda raw: base64.b85encode(raw).decode(), 20),
        (lambda raw: str(uuid.UUID(bytes=raw)), 16),
        (lambda raw: str(int.from_bytes(b"\1" + raw, "big")), 16),
        (lambda raw: raw.hex(), 32),  # openssl rand -hex 32
        (lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode(), 32),  # secrets.token_urlsafe(32)
    ],
)
def test_s4_random_secrets_of_128_bits_are_strong(make: object, n: int) -> None:
    """Whatever writes random bytes as text: none of many is refused."""
    rng = random.Random(7)
    for _ in range(2000):
        strength.refuse_weak(make(rng.randbytes(n)), "it")  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a" * 100,
        "password" * 12,
        "passwordpasswordpasswordpassw",
        "0123456789" * 10,
        "ab" * 50,
        "a" * 50 + "b" * 50,
        "aabbbaabaabbbabaababbbaabbabababaabbabaabb",
        "0123456789abcdef",
        "9f3a1c7e5b2d8046",
        "9f3a1c7e5b2d80469f3a1c7e5b2d8046",
        "9f3a1c7e5b2d80461e5c3a7b9d0f264",  # 31 hexadecimal digits
        "Zq3vX9sLw2Kd7Rf5Tb1Yh",  # 21 of base64
        "correct horse battery staple",
        "the secret of clients and of one worker",
        "change-me change-me change-me change-me now",
        " ".join(WORDS[:9]),
    ],
)
def test_s4_what_can_be_guessed_is_weak(text: str) -> None:
    """Repetitions, runs, few different characters, sentences, and what is short."""
    with pytest.raises(errors.ConfigurationError, match="it is too weak") as caught:
        strength.refuse_weak(text, "it")
    assert len(text) < 2 or text not in str(caught.value)


def test_ten_words_are_a_strong_secret() -> None:
    """A passphrase counts by its words, of which each has almost 13 bits."""
    strength.refuse_weak("-".join(WORDS), "it")


@given(st.text(max_size=60), st.integers(2, 5))
def test_repeating_a_secret_adds_nothing(text: str, times: int) -> None:
    """What repeats counts once."""
    assert strength.bits(text * times) <= strength.bits(text)

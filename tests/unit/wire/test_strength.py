"""Secrets: new ones, those that are refused, and those that are accepted."""

from __future__ import annotations

import base64
import random
import uuid
from fractions import Fraction

import pytest

from egregore_dist import errors
from egregore_dist.wire import strength


def test_a_new_secret_is_256_random_bits() -> None:
    """A new secret is 64 hexadecimal digits, another one each time, and it is accepted."""
    made = {strength.new_secret() for _ in range(100)}

    assert len(made) == 100
    for secret in made:
        assert len(bytes.fromhex(secret)) * 8 == 256
        strength.refuse_weak(secret, "it")


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (lambda raw: raw.hex(), 16),
        (lambda raw: raw.hex().upper(), 16),
        (lambda raw: str(uuid.UUID(bytes=raw)), 16),
        (lambda raw: base64.b64encode(raw).decode(), 32),
        (lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode(), 32),
        (lambda raw: base64.b85encode(raw).decode(), 32),
    ],
)
def test_s4_random_secrets_are_accepted(make: object, n: int) -> None:
    """No secret of many that were drawn at random is refused, whichever way the bytes became text."""
    rng = random.Random(7)
    for _ in range(2000):
        strength.refuse_weak(make(rng.randbytes(n)), "it")  # type: ignore[operator]


def test_s4_hardly_any_random_secret_is_refused() -> None:
    """Of 25 million secrets of 32 random hexadecimal digits, one has too few different digits."""
    digits = 16
    # The probability of each number of different digits, after each digit that is drawn.
    chances = [Fraction(1)] + [Fraction(0)] * digits
    for _ in range(strength.SHORTEST):
        chances = [
            chances[n] * Fraction(n, digits) + (chances[n - 1] * Fraction(digits - n + 1, digits) if n else 0)
            for n in range(digits + 1)
        ]

    assert sum(chances) == 1
    assert sum(chances[: strength.DIFFERENT]) < Fraction(1, 25_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a" * 100,
        "password" * 12,
        "0123456789" * 10,
        "0123456789" * 3 + "01234",  # the last repetition is cut short
        "ab" * 50,
        "a" * 50 + "b" * 50,
        "aabbbaabaabbbabaababbbaabbabababaabbabaabb",
        "abcdefgabcdefggfedcbaabcabcdefgabc",  # 7 different characters
        "0123456789abcdef",
        "9f3a1c7e5b2d80469f3a1c7e5b2d8046",
        "9f3a1c7e5b2d80461e5c3a7b9d0f264",  # 31 hexadecimal digits
        "qwertyuiopasdfghjklzxcvbnm",
        "correct horse battery staple",
    ],
)
def test_s4_what_can_be_guessed_is_weak(text: str) -> None:
    """Short texts, few different characters, and repetitions are refused; the error names the command, not the text."""
    with pytest.raises(
        errors.ConfigurationError, match=r"it is too weak.* Make one with: egregore-dist secret$"
    ) as caught:
        strength.refuse_weak(text, "it")
    assert len(text) < 2 or text not in str(caught.value)

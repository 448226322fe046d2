"""How hard a secret is to guess, estimated from its text."""

from __future__ import annotations

import math
import re
import string

from egregore_dist import errors

BITS = 128
"""The fewest bits that a secret has."""

MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"

_DIGITS, _LOWER, _UPPER = string.digits, string.ascii_lowercase, string.ascii_uppercase
# Letters of one case count as base32, which may happen to have no digit.
_ALPHABETS = (
    (_DIGITS, 10),
    (_DIGITS + "abcdef", 16),
    (_DIGITS + "ABCDEF", 16),
    (_DIGITS + _LOWER, 32),
    (_DIGITS + _UPPER, 32),
    (_DIGITS + _LOWER + _UPPER + "+/-_", 64),
)
_PRINTABLE = 95
# A run this long is hardly ever in a random secret: once in 40,000 of 32 hexadecimal digits.
_RUN = re.compile(r"(.)\1{5,}", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z]?[a-z]+(?:[ ._-]+[A-Za-z]?[a-z]+)+")
_BITS_OF_A_WORD = math.log2(7776)  # the length of the list that passphrases are rolled from


def bits(secret: str) -> float:
    """The bits of a secret, if each of its characters was drawn from the smallest usual alphabet that has them all.

    A text that repeats counts once, and so does a run of six or more of one character. Where less than a quarter as
    many different characters occur as could, only those count. Words count as those of a rolled passphrase, each once.
    """
    text = _RUN.sub(r"\1", secret[: _period(secret)]).rstrip("=")
    if not text:
        return 0.0
    if _WORDS.fullmatch(text):
        return len(set(re.findall(r"[a-z]+", text.lower()))) * _BITS_OF_A_WORD
    used = set(text)
    size = next((size for alphabet, size in _ALPHABETS if used.issubset(alphabet)), _PRINTABLE)
    if len(used) < min(size, len(text)) / 4:
        size = len(used)
    return len(text) * math.log2(size)


def refuse_weak(secret: str, what: str) -> None:
    """Refuse a secret that can be guessed.

    Args:
        what: the secret's name, for the error.

    Raises:
        errors.ConfigurationError: it has fewer than `BITS` bits; shows how to make one, and never the secret.
    """
    if bits(secret) < BITS:
        raise errors.ConfigurationError(
            f"{what} is too weak: a secret has at least {BITS} bits, such as {BITS // 4} random hexadecimal digits. "
            f"Make one with: {MAKE_ONE}"
        )


def _period(text: str) -> int:
    """The length of the part of which ``text`` is two or more repetitions, the last maybe cut short; or the whole."""
    return next((n for n in range(1, len(text) // 2 + 1) if text[n:] == text[:-n]), len(text))

"""Secrets: a new one, and the refusal of weak ones."""

from __future__ import annotations

import secrets

from egregore_dist import errors

MAKE_ONE = "egregore-dist secret"
SHORTEST = 32
"""Characters of the shortest secret: so many random hexadecimal digits are 128 bits."""
# Of 32 random hexadecimal digits, fewer than 8 are different once in 28 million times.
DIFFERENT = 8


def new_secret() -> str:
    """A new secret: 256 random bits, as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def refuse_weak(secret: str, what: str) -> None:
    """Refuse a secret that is short, has few different characters, or repeats a shorter text.

    Args:
        secret: the secret. Whether a person made it up cannot be judged.
        what: the secret's name, for the error.

    Raises:
        errors.ConfigurationError: the secret is refused; names the command that makes one, and never the secret.
    """
    repeats = any(secret[n:] == secret[:-n] for n in range(1, len(secret) // 2 + 1))
    if len(secret) < SHORTEST or len(set(secret)) < DIFFERENT or repeats:
        raise errors.ConfigurationError(
            f"{what} is too weak: it needs at least {SHORTEST} characters, {DIFFERENT} of them different, "
            f"and must not repeat a shorter text. Make one with: {MAKE_ONE}"
        )

"""Secrets that are strong enough, one for each name."""

from __future__ import annotations

import hashlib


def secret_of(name: str) -> str:
    """The secret of this name: 64 hexadecimal digits, the same in every process."""
    return hashlib.sha256(name.encode()).hexdigest()

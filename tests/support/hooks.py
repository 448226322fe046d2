"""What users may want to do to their data before they are shown."""

from __future__ import annotations

from typing import Any

SECRET = "canary-4111-1111"


def mask(what: str, data: Any) -> Any:
    """Take the number out, wherever it is, and say what the data are."""
    if isinstance(data, str):
        return data.replace(SECRET, f"<{what}>")
    if isinstance(data, dict):
        return {key: mask(what, value) for key, value in data.items()}
    return [mask(what, value) for value in data] if isinstance(data, list) else data


def fails(what: str, data: Any) -> Any:
    """A hook with a mistake, whose error holds the data."""
    raise ValueError(f"no {data!r}")


def forgets(what: str, data: Any) -> Any:
    """A hook that returns what cannot be shown as text."""
    return None if isinstance(data, str) else object


class Unprintable:
    """What cannot be shown at all."""

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


def breaks(what: str, data: Any) -> Any:
    """A hook whose value fails later."""
    return [Unprintable()]


NO_FUNCTION = 7

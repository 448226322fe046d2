"""Amounts as people say them."""

from __future__ import annotations

from egregore_dist.resources.amounts import size as size


def duration(seconds: float | None) -> str:
    """Seconds; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def count(number: int, what: str) -> str:
    """So many things, by the word for one of them; "no" for 0."""
    plural = "" if number == 1 else "es" if what.endswith("ch") else "s"
    return f"{number or 'no'} {what}{plural}"

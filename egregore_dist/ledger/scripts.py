"""The transitions' Lua scripts, as the server runs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib import resources

TRANSITIONS = (
    "submit",
    "serve",
    "open",
    "cancel",
    "retry",
    "pause",
    "resume",
    "sweep",
    "tidy",
    "lost",
    "due",
    "delete",
    "learn",
    "place",
    "tend",
    "limit",
    "room",
    "log",
    "backoff",
    "trace",
    "forget",
)


@dataclass(frozen=True, slots=True)
class Script:
    """One transition: its text with the common parts before it, and the SHA-1 that the server knows it by."""

    text: str
    sha: str


@cache
def load(name: str) -> Script:
    """The script of one transition."""
    folder = resources.files("egregore_dist.ledger") / "lua"
    text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in ("_counts", "_common", "_limits", name))
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())

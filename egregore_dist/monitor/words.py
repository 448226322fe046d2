"""How values look on a page, and the templates that they are put into."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from egregore_dist.cli import hooks, redact, show

#: Letters of a name or a message on a page.
LETTERS = 300

_LOOKED_AT = 32_000

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def templates() -> jinja2.Environment:
    """The templates: whatever they are given is text, and never HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("egregore_dist.monitor"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        clean=clean, shown=shown, duration=show.duration, size=show.size, moment=moment, ago=ago, segment=segment
    )
    environment.globals["asset"] = asset
    return environment


def clean(text: object, letters: int = LETTERS) -> str:
    """A text from elsewhere: without secrets and control characters, and not too long."""
    # Cut after that: of a secret that is cut off, the rest would not be known for one.
    shown = redact.clean(str(text)[:_LOOKED_AT])
    return shown if len(shown) <= letters else f"{shown[: letters - 1]}…"


def shown(text: str, what: hooks.What) -> str:
    """A text that is the user's data, as their hook has it."""
    return hooks.text(what, text)


def segment(text: str) -> str:
    """A text as one part of a path in an address."""
    return quote(text, safe=",")


def moment(seconds: float | None) -> Markup:
    """An instant: in UTC, and in the viewer's own zone where scripts run."""
    if seconds is None:
        return Markup("-")
    iso = show.moment(seconds) or ""
    return Markup('<time datetime="{}">{} UTC</time>').format(iso, iso[:19].replace("T", " "))


def ago(seconds: float) -> str:
    """How long ago something was, in seconds."""
    return f"{max(0.0, seconds):.0f} s ago"


@cache
def static(name: str) -> tuple[bytes, str]:
    """A file that pages use, and its type."""
    raw = (resources.files("egregore_dist.monitor") / "static" / name).read_bytes()
    return raw, _TYPES[name.rpartition(".")[2]]


@cache
def asset(name: str) -> str:
    """The address of such a file: another one when it changes, so that browsers may keep it."""
    digest = hashlib.sha256(static(name)[0]).hexdigest()
    return f"/static/{name}?v={digest[:12]}"

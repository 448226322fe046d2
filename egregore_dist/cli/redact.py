"""What may be shown: no secret, and nothing that a terminal would obey."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

_WORD = re.compile(r"[^\s'\"]+")
_SECRETS = ("EGREGORE_BROKER_URL", "EGREGORE_LEDGER_URL", "EGREGORE_SECRET")

# Shorter than this it is no secret, and taking it out would make the text unreadable.
_SHORTEST = 4

_known: set[str] = set()


def remember(secret: str | None) -> None:
    """Take a URL's password, or a secret that is no URL, out of all that is shown from now on."""
    _known.update(part for part in _parts(secret or "") if len(part) >= _SHORTEST)


def url(address: str) -> str:
    """A URL without its password."""
    return _WORD.sub(_without_password, address)


def hide(text: str) -> str:
    """A text without the passwords and the secret that this command was given; the rest of it as it is."""
    for name in _SECRETS:
        remember(os.environ.get(name))
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def clean(text: str) -> str:
    """A text without passwords and secrets, and without control characters other than tab and newline."""
    shown = url(hide(text))
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in shown)


def _without_password(match: re.Match[str]) -> str:
    # Taken apart and not matched whole: a text of one long word must not cost its length squared.
    scheme, is_url, rest = match[0].partition("://")
    login, is_given, host = rest.rpartition("@")
    if not (is_url and is_given):
        return match[0]
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{host}"


def _parts(secret: str) -> set[str]:
    _, is_url, rest = secret.partition("://")
    if not is_url:
        return {secret}
    password = rest.rpartition("@")[0].partition(":")[2]
    # A password with a slash in it breaks the URL, and then its pieces are in the messages about that.
    pieces = {piece for piece in re.split(r"[/@?#]", password) if piece} if "@" in rest else set()
    return {password, unquote(password), *pieces}

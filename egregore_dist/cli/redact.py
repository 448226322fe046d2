"""What may be shown: no secret, and nothing that a terminal would obey."""

from __future__ import annotations

import base64
import html
import json as jsons
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

_WORD = re.compile(r"[^\s'\"]+")
_SECRETS = ("EGREGORE_BROKER_URL", "EGREGORE_LEDGER_URL", "EGREGORE_SECRET", "EGREGORE_MONITOR_TOKEN")
_FILES = ("EGREGORE_SECRET_FILE", "EGREGORE_MONITOR_TOKEN_FILE")
_IN_QUERY = re.compile(r"(?<=[?&])([^=&?]*password=)([^&]+)", re.IGNORECASE)
# Between the URLs of one setting that names several servers.
_BETWEEN = re.compile(r";(?=[\w+]+://)")

# The style of a page, or a text in it.
_TEXT_OF_PAGE = re.compile(r"(<style>.*?</style>)|(?<=>)[^<]+", re.DOTALL)

# Letters that may be no printable ones.
_UNUSUAL = re.compile(r"[^ -~\n]")

# Shorter than this it is no secret, and taking it out would make the text unreadable.
_SHORTEST = 4
# Shorter than these it may be a part of any word, which would show by its gap: it is taken out where it stands alone.
# What is not a password is refused if it is so short.
_SHORT_PASSWORD, _SHORT_SECRET = 8, 16

# Each with whether it is taken out only where it stands alone.
_known: set[tuple[str, bool]] = set()


def remember(secret: str | None) -> None:
    """Take a URL's password, or a secret that is no URL, out of all that is shown from now on."""
    if secret:
        _known.update(_forms(secret))


def remember_file(path: str | Path | None) -> None:
    """The same of a file that holds a secret, where it can be read."""
    remember(None if path is None else _read(Path(path)))


def url(address: str) -> str:
    """A URL without its password."""
    return _WORD.sub(_without_password, address)


def hide(text: str) -> str:
    """A text without the passwords and the secret that this command was given; the rest of it as it is."""
    return _without(text, _secrets())


def clean(text: str) -> str:
    """A text without passwords and secrets, and without control characters other than tab and newline."""
    shown = url(hide(text))
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in shown)


def page(html: str) -> str:
    """An HTML page that has no secrets in its texts; its elements and its style stay as they are."""
    secrets = _secrets()
    return _TEXT_OF_PAGE.sub(lambda found: found[0] if found[1] else _without(found[0], secrets), html)


def json(value: Any, *, indent: int = 0) -> str:
    """A value as JSON that has no secrets in its texts, and holds nothing that a terminal would obey.

    Numbers stay as they are, and keys too, but for passwords of URLs.
    """
    import msgspec

    # By way of JSON itself, after which there are no texts in it but those that are seen here.
    raw = msgspec.json.encode(_without_secrets(msgspec.json.decode(msgspec.json.encode(value)), _secrets()))
    text = (msgspec.json.format(raw, indent=indent) if indent else raw).decode()
    return _UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else jsons.dumps(found[0])[1:-1], text)


def _secrets() -> list[tuple[str, bool]]:
    """All that is taken out, the longest first."""
    for name in _SECRETS:
        remember(os.environ.get(name))
    for name in _FILES:
        remember_file(os.environ.get(name))
    return sorted(_known, key=lambda secret: len(secret[0]), reverse=True)


def _without(text: str, secrets: list[tuple[str, bool]]) -> str:
    for secret, is_alone in secrets:
        if secret in text:
            text = _alone(secret).sub("***", text) if is_alone else text.replace(secret, "***")
    return text


@lru_cache(256)
def _alone(secret: str) -> re.Pattern[str]:
    """Finds a text that is no part of a longer word."""
    return re.compile(rf"(?<!\w(?=\w)){re.escape(secret)}(?!(?<=\w)\w)")


def _without_secrets(value: Any, secrets: list[tuple[str, bool]]) -> Any:
    match value:
        case str():
            return _without(value, secrets)
        case dict():
            return {url(key): _without_secrets(entry, secrets) for key, entry in value.items()}
        case list():
            return [_without_secrets(entry, secrets) for entry in value]
        case _:
            return value


def _without_password(match: re.Match[str]) -> str:
    return ";".join(map(_hidden, _BETWEEN.split(match[0])))


def _hidden(word: str) -> str:
    # Taken apart and not matched whole: a text of one long word must not cost its length squared.
    scheme, is_url, rest = word.partition("://")
    if is_url:
        rest = _IN_QUERY.sub(r"\1***", rest)
    login, is_given, host = rest.rpartition("@")
    if not is_url:
        return word
    if not is_given:
        return f"{scheme}://{rest}"
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{host}"


@lru_cache(64)
def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError):
        return None  # whoever needs it says what is wrong


@lru_cache(64)
def _forms(secret: str) -> frozenset[tuple[str, bool]]:
    """A secret, and its parts, in whatever they may be written, each with whether it has to stand alone."""
    short = _SHORT_PASSWORD if "://" in secret else _SHORT_SECRET
    parts = [part for part in _parts(secret) if len(part) >= _SHORTEST]
    return frozenset((form, len(part) < short) for part in parts for form in _written(part))


def _written(part: str) -> set[str]:
    """A part of a secret in whatever it may be written."""
    found = {part, jsons.dumps(part)[1:-1], jsons.dumps(part, ensure_ascii=False)[1:-1]}
    found |= {repr(part)[1:-1], repr(part.encode())[2:-1], quote(part, safe=""), quote(part)}
    found |= {html.escape(part), html.escape(part).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}
    found.add(base64.b64encode(part.encode()).decode())
    return found


def _parts(secret: str) -> set[str]:
    _, is_url, rest = secret.partition("://")
    if not is_url:
        return {secret}
    each = _BETWEEN.split(secret)
    if len(each) > 1:
        return {part for url in each for part in _parts(url)}
    asked = {value for _, value in _IN_QUERY.findall(rest)}
    password = rest.rpartition("@")[0].partition(":")[2]
    # A password with a slash in it breaks the URL, and then its pieces are in the messages about that.
    pieces = {piece for piece in re.split(r"[/@?#]", password) if piece} if "@" in rest else set()
    return {password, unquote(password), *pieces, *asked, *map(unquote, asked)}

"""Refuse URLs of servers that two libraries would read differently, or not at all. No part of one is ever told."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from egregore_dist import errors

_REDIS, _SOCKETS = ("redis", "rediss"), ("unix", "redis+socket")
_AMQP = ("amqp", "amqps", "pyamqp")
# What a server's configuration takes as the number of its databases.
_DATABASES = 2**31 - 1


def refuse_unreadable(url: str, variable: str) -> None:
    """Refuse a Redis or AMQP URL that cannot be; others are for Celery to judge.

    Raises:
        errors.ConfigurationError: it names the variable and what is wrong; never the URL, which may hold a password.
    """
    wrong = _wrong_with(url)
    if wrong is not None:
        raise errors.ConfigurationError(f"{variable} cannot be read: {wrong}")


def _wrong_with(url: str) -> str | None:
    scheme = url.partition("://")[0]
    if scheme not in (*_REDIS, *_SOCKETS, *_AMQP):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        return (
            "the port is a number up to 65535, and special characters of a password are percent-encoded, as in "
            f"{'amqp://user:password@host:5672//' if scheme in _AMQP else 'redis://:password@host:6379/0'}"
        )
    if scheme in _REDIS and not parts.hostname:
        return "it names no host: write it as redis://host:6379/0"
    if scheme in _SOCKETS and not parts.path.strip("/"):
        return "it names no socket: write it as unix:///path/to/socket"
    asked = parse_qs(parts.query)
    databases = [*asked.get("db", ()), *asked.get("virtual_host", ())]
    if scheme in _REDIS:
        databases.append(parts.path.strip("/") or "0")
    if scheme not in _AMQP and not all(_is_database(each) for each in databases):
        return f"its database is a whole number from 0 to {_DATABASES}, as in redis://host:6379/0"
    return None


def _is_database(text: str) -> bool:
    # Python reads no number of thousands of digits.
    return text.isascii() and text.isdigit() and len(text) <= len(str(_DATABASES)) and int(text) <= _DATABASES

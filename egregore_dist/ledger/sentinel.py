"""Servers that Sentinel watches: ``sentinel://host:26379;sentinel://host2:26379/0?master_name=mymaster``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

SCHEME = "sentinel"
PORT = 26379
EXAMPLE = "sentinel://host1:26379;sentinel://host2:26379/0?master_name=mymaster"

_MASTER, _USER, _PASSWORD = "master_name", "sentinel_username", "sentinel_password"
_BETWEEN = re.compile(r";(?=\w+://)")


@dataclass(frozen=True, slots=True)
class Sentinels:
    """What such a URL says.

    Attributes:
        addresses: host and port of each sentinel.
        master: the name that the sentinels know the primary by.
        db: the primary's database.
        login: user and password of the primary, percent-encoded, with an ``@`` at the end; or "".
        kwargs: login of the sentinels themselves, as redis-py and Celery (``sentinel_kwargs``) take it.
    """

    addresses: tuple[tuple[str, int], ...]
    master: str
    db: int
    login: str
    kwargs: dict[str, str]

    @property
    def urls(self) -> str:
        """The URL without options, as kombu and Celery's result backend read it; each has the whole of the login."""
        hosts = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses]
        return ";".join(f"{SCHEME}://{self.login}{host}/{self.db}" for host in hosts)

    @property
    def url(self) -> str:
        """The whole URL."""
        names = {"username": _USER, "password": _PASSWORD}
        options = {_MASTER: self.master, **{names[name]: value for name, value in self.kwargs.items()}}
        return f"{self.urls}?{urlencode(options, quote_via=quote)}"

    @property
    def options(self) -> dict[str, Any]:
        """Transport options that name the primary, for kombu and for Celery's result backend."""
        return {"master_name": self.master, **({"sentinel_kwargs": self.kwargs} if self.kwargs else {})}


def is_sentinel(url: str) -> bool:
    """Whether this is the URL of a server that Sentinel watches."""
    return url.startswith(f"{SCHEME}://")


def pieces(url: str) -> list[str]:
    """The URLs that one setting names, separated by semicolons."""
    return _BETWEEN.split(url)


def read(url: str) -> Sentinels:
    """Read a URL.

    Raises:
        ValueError: it cannot be read; the text says why, and has no part of a login in it.
    """
    parts = []
    for piece in pieces(url):
        if not is_sentinel(piece):
            raise ValueError(f"each of its addresses is one of a sentinel: write it as {EXAMPLE}")
        part = urlsplit(piece)
        try:
            is_address = bool(part.hostname) and part.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise ValueError(
                "each address is a host and a port up to 65535, and special characters of a password are "
                f"percent-encoded: write it as {EXAMPLE}"
            )
        parts.append(part)
    asked = {name: value for part in parts for name, value in parse_qsl(part.query)}
    if unknown := asked.keys() - {_MASTER, _USER, _PASSWORD}:
        kind = "TLS is not supported by way of Sentinel" if any(it.startswith("ssl") for it in unknown) else "no others"
        raise ValueError(f"its options are {_MASTER}, {_USER} and {_PASSWORD}; {kind}")
    if not asked.get(_MASTER):
        raise ValueError(f"it does not name the primary that the sentinels watch: write it as {EXAMPLE}")
    databases = {part.path.strip("/") for part in parts} - {""} or {"0"}
    if len(databases) > 1 or not re.fullmatch(r"[0-9]{1,9}", next(iter(databases)), re.ASCII):
        raise ValueError(f"its database is one whole number: write it as {EXAMPLE}")
    logins = {part.netloc.rpartition("@")[0] for part in parts} - {""}
    if len(logins) > 1:
        raise ValueError("the login is the primary's, and the same in each of its addresses")
    return Sentinels(
        addresses=tuple((part.hostname or "", part.port or PORT) for part in parts),
        master=asked[_MASTER],
        db=int(next(iter(databases))),
        login="".join(f"{login}@" for login in logins),
        kwargs={
            name: asked[option] for name, option in (("username", _USER), ("password", _PASSWORD)) if asked.get(option)
        },
    )


def client(url: str, **options: Any) -> redis.Redis:
    """A client of the primary, whichever server that is."""
    said = read(url)
    manager = redis.sentinel.Sentinel(list(said.addresses), sentinel_kwargs=_limits(said, options))  # type: ignore[no-untyped-call]
    return manager.master_for(said.master, **_of_primary(said), **options)  # type: ignore[no-any-return, no-untyped-call]


def async_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """The same for an event loop."""
    said = read(url)
    manager = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
        list(said.addresses), sentinel_kwargs=_limits(said, options)
    )
    found: redis.asyncio.Redis = manager.master_for(said.master, **_of_primary(said), **options)
    return found


def _limits(said: Sentinels, options: dict[str, Any]) -> dict[str, Any]:
    # A sentinel that is away must not hold up the others for long.
    return {**said.kwargs, **{name: value for name, value in options.items() if name.startswith("socket_")}}


def _of_primary(said: Sentinels) -> dict[str, Any]:
    user, _, password = said.login.removesuffix("@").partition(":")
    login = {"username": unquote(user) or None, "password": unquote(password) or None}
    return {"db": said.db, **{name: value for name, value in login.items() if value}}

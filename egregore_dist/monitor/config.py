"""Where the monitor listens, and whom it lets in: checked before it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from egregore_dist import errors
from egregore_dist.engine.urls import is_loopback
from egregore_dist.monitor.users import Users
from egregore_dist.settings import web_address

PORT = 8750

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Where a proxy is, unless it is said.
LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))

_LONGEST = 64

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How the monitor is served.

    Attributes:
        users: who may use it.
        host: the address to listen on.
        port: 0 for any that is free.
        tls: files of the certificate and of its key.
        behind_proxy: a proxy in front of it does TLS.
        proxies: where that may be: what another one says of whom it asks for is not believed.
        url: what browsers call it, where that is not ``host`` and ``port``.
        has_links: whether a link may have the token in it.
        descriptor: a socket that listens already, which the program that started the monitor has made for it.
    """

    users: Users = field(default_factory=lambda: Users({}))
    host: str = "127.0.0.1"
    port: int = PORT
    tls: tuple[Path, Path] | None = None
    behind_proxy: bool = False
    proxies: tuple[Network, ...] = LOOPBACK
    url: str | None = None
    has_links: bool = False
    descriptor: int | None = None

    def check(self) -> None:
        """Refuse what would be open to more people than was said.

        Raises:
            errors.ConfigurationError: says what is missing.
        """
        if not self.users:
            raise errors.ConfigurationError("nobody could log in to the monitor: give --users or --token-file")
        if not is_loopback(self.host) and self.tls is None and not self.behind_proxy:
            raise errors.ConfigurationError(
                f"the monitor on {self.host} can be reached from other machines, so it needs --tls-cert and "
                "--tls-key, or --behind-proxy where a proxy does TLS"
            )
        if self.url is None and (self.behind_proxy or is_any(self.host)):
            raise errors.ConfigurationError(
                "the monitor has to know what browsers call it: give --url, such as https://monitor.example.org"
            )
        if self.url is not None:
            _check_url(self.url)
        if any(proxies.prefixlen == 0 for proxies in self.proxies):
            raise errors.ConfigurationError("--proxy names everybody: give the addresses of the proxies alone")
        if self.proxies != LOOPBACK and not self.behind_proxy:
            raise errors.ConfigurationError("--proxy belongs to --behind-proxy")

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it by HTTPS alone."""
        return self.tls is not None or urlsplit(self.url or "").scheme == "https"

    @property
    def called(self) -> str:
        """The host that browsers call it by."""
        return self.host if self.url is None else urlsplit(self.url).hostname or ""

    def origins(self, port: int) -> dict[str, str]:
        """What a request's Host may be, and the Origin that belongs to it.

        Args:
            port: where it listens.
        """
        scheme = "https" if self.tls else "http"
        found: dict[str, str] = {}
        names = [self.host]
        if is_loopback(self.host):
            names += ["127.0.0.1", "localhost", "::1"]
        elif is_any(self.host):
            # For health checks on the machine itself.
            names = ["127.0.0.1", "localhost", "::1"]
        for name in names:
            bracketed = f"[{name}]" if ":" in name else name
            _allow(found, scheme, bracketed.lower(), port)
        if self.url is not None:
            parts = urlsplit(self.url)
            host = (parts.hostname or "").lower()
            bracketed = f"[{host}]" if ":" in host else host
            _allow(found, parts.scheme, bracketed, parts.port or _DEFAULT_PORTS[parts.scheme])
        return found

    def address(self, port: int) -> str:
        """The link for people, without a slash at its end."""
        if self.url is not None:
            return self.url.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{port}"


def network(text: str) -> Network:
    """An address, or a network as ``10.0.0.0/8``. Raises `errors.ConfigurationError`."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise errors.ConfigurationError(
            f"--proxy {text!r} is neither an address nor a network, such as 192.0.2.7 or 10.0.0.0/8"
        ) from None


def one_of(host: str) -> str:
    """Whose an address is, for what is counted by address: of IPv6 a network of 64 bits, which is one household."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:_LONGEST]  # as a proxy told it
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def is_in(host: str, networks: Collection[Network]) -> bool:
    """Whether an address is of one of these networks; an IPv4 address may be written as an IPv6 one."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in network for network in networks)


def is_any(host: str) -> bool:
    """Whether an address stands for all of the machine's."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def _check_url(url: str) -> None:
    try:
        web_address(url)
    except ValueError as error:
        raise errors.ConfigurationError(f"--url {url}: {error}") from None
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise errors.ConfigurationError(f"--url {url}: what other machines reach has to be https")


def _allow(found: dict[str, str], scheme: str, host: str, port: int) -> None:
    if port == _DEFAULT_PORTS[scheme]:
        found[host] = f"{scheme}://{host}"
        found[f"{host}:{port}"] = f"{scheme}://{host}"
    else:
        found[f"{host}:{port}"] = f"{scheme}://{host}:{port}"

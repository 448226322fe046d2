"""URLs of servers as two libraries read them alike; others are refused. No part of a login is ever told."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from egregore_dist import errors
from egregore_dist.ledger import sentinel

_REDIS = ("redis", "rediss")
# A Unix socket, as redis-py and kombu write it; without its transport, where kombu and Celery have read that.
_UNIX, _KOMBU, _READ = _SOCKETS = ("unix", "redis+socket", "socket")
_AMQP = ("amqp", "amqps", "pyamqp")
# What a server's configuration takes as the number of its databases.
_DATABASES = 2**31 - 1
_NO_DATABASE = f"its database is a whole number from 0 to {_DATABASES}, as in redis://host:6379/0"

# The options of a socket's URL; the database has another name in each library.
_DATABASE = {_UNIX: "db", _KOMBU: "virtual_host", _READ: "virtual_host"}
_SOCKET_OPTIONS = ("db", "virtual_host", "username", "password")

# What a rediss:// URL may say of its connection: that both libraries read, and read as text.
_VERIFY, _HOST_NAME = "ssl_cert_reqs", "ssl_check_hostname"
_TLS = (
    _VERIFY,
    _HOST_NAME,
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_ciphers",
)
_VERIFICATIONS = ("required", "optional", "none")
_BOOLEANS = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}


def refuse_unreadable(url: str, variable: str) -> None:
    """Refuse a Redis or AMQP URL that cannot be; others are for Celery to judge.

    Raises:
        errors.ConfigurationError: it names the variable and what is wrong; never the URL, which may hold a password.
    """
    wrong = _wrong_with_sentinels(url) if sentinel.is_sentinel(url) else _wrong_with(url)
    if wrong is not None:
        raise errors.ConfigurationError(f"{variable} cannot be read: {wrong}")


def for_redis(url: str) -> str:
    """A readable URL in the form that redis-py reads: ``unix://`` for a socket, and TLS that verifies by default.

    Celery's side would verify no certificate where the URL does not ask for it, and the ledger's each.
    """
    scheme = url.partition("://")[0]
    if scheme in _SOCKETS:
        return _socket(url, _UNIX)
    if scheme != "rediss":
        return url
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    said = {**asked, _VERIFY: _verification(asked.get(_VERIFY, "required"))}
    if _HOST_NAME in asked:
        said[_HOST_NAME] = _BOOLEANS[asked[_HOST_NAME].lower()]
    if said == asked:
        return url
    return parts._replace(query=urlencode(said, quote_via=quote, safe="/")).geturl()


def for_kombu(url: str) -> str:
    """The same in the form that kombu and Celery's result backend read: ``redis+socket://`` for a socket."""
    return _socket(url, _KOMBU) if is_socket(url) else for_redis(url)


def is_socket(url: str) -> bool:
    """Whether this is the URL of a Unix socket, in the form of any library."""
    return url.partition("://")[0] in _SOCKETS


def is_local(url: str) -> bool:
    """Whether the server of a URL is reached by a Unix socket or a loopback address."""
    if is_socket(url):
        return True
    host = urlsplit(url).hostname
    # kombu and redis-py take a missing host for this machine; other transports are services elsewhere.
    return is_loopback(host) if host else url.partition("://")[0] in (*_REDIS, *_AMQP)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def socket_of(url: str) -> tuple[str, int]:
    """The path and the database that the readable URL of a Unix socket names."""
    parts = urlsplit(url)
    return unquote(parts.path), int(next(iter(_databases(parts)), "0"))


def _socket(url: str, scheme: str) -> str:
    parts = urlsplit(url)
    path, database = socket_of(url)
    asked = dict(parse_qsl(parts.query))
    user, password = (
        quote(unquote(said) if said else asked.get(name, ""), safe="")
        for name, said in (("username", parts.username), ("password", parts.password))
    )
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    return f"{scheme}://{login}{quote(path)}?{_DATABASE[scheme]}={database}"


def _databases(parts: SplitResult) -> list[str]:
    """The databases that a query names."""
    return [value.strip("/") for name, value in parse_qsl(parts.query) if name in ("db", "virtual_host")]


def _wrong_with_sentinels(url: str) -> str | None:
    try:
        sentinel.read(url)
    except ValueError as error:
        return str(error)
    return None


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
        example = "redis://:password@host:6379/0"
        if scheme in _AMQP:
            example = "amqp://user:password@host:5672//"
        elif scheme in _SOCKETS:
            example = f"{scheme}://:password@/path/to/socket"
        return (
            "the port is a number up to 65535, and special characters of a password are percent-encoded, as in "
            f"{example}"
        )
    if scheme in _REDIS and not parts.hostname:
        return "it names no host: write it as redis://host:6379/0"
    if scheme in _SOCKETS:
        return _wrong_with_socket(scheme, parts)
    if scheme in _AMQP:
        return None
    if not all(_is_database(each) for each in (*_databases(parts), parts.path.strip("/") or "0")):
        return _NO_DATABASE
    return _wrong_with_tls(scheme, parts.query)


def _wrong_with_socket(scheme: str, parts: SplitResult) -> str | None:
    if parts.hostname:
        return f"the path of a socket begins after three slashes, or after the @ of a login: {scheme}:///path/to/socket"
    if not parts.path.strip("/"):
        return f"it names no socket: write it as {scheme}:///path/to/socket"
    if any(name not in _SOCKET_OPTIONS for name, _ in parse_qsl(parts.query)):
        return f"the options of a socket are {', '.join(_SOCKET_OPTIONS)}; it has another"
    databases = _databases(parts)
    if not all(_is_database(each) for each in databases):
        return _NO_DATABASE
    return "it names two databases" if len(set(map(int, databases))) > 1 else None


def _wrong_with_tls(scheme: str, query: str) -> str | None:
    pairs = [(name, value) for name, value in parse_qsl(query) if name.startswith("ssl_")]
    asked = dict(pairs)
    if asked and scheme != "rediss":
        return "its options, ssl_..., are those of a connection with TLS: write it as rediss://host:6379/0"
    if len(asked) < len(pairs):
        return "it says an option of TLS twice"
    if asked.keys() - set(_TLS):
        return f"its options of TLS are {', '.join(_TLS)}; it has another"
    if _verification(asked.get(_VERIFY, "required")) not in _VERIFICATIONS:
        return f"{_VERIFY} is required, optional or none"
    if asked.get(_HOST_NAME, "true").lower() not in _BOOLEANS:
        return f"{_HOST_NAME} is true or false"
    return None


def _verification(text: str) -> str:
    # As Celery's documentation has it, CERT_REQUIRED, or as redis-py's.
    return text.lower().removeprefix("cert_")


def _is_database(text: str) -> bool:
    # Python reads no number of thousands of digits.
    return text.isascii() and text.isdigit() and len(text) <= len(str(_DATABASES)) and int(text) <= _DATABASES

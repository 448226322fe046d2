"""URLs of servers as two libraries read them alike; others are refused. No part of a login is ever told."""

from __future__ import annotations

from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from egregore_dist import errors

_REDIS, _SOCKETS = ("redis", "rediss"), ("unix", "redis+socket")
_AMQP = ("amqp", "amqps", "pyamqp")
# What a server's configuration takes as the number of its databases.
_DATABASES = 2**31 - 1

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
    wrong = _wrong_with(url)
    if wrong is not None:
        raise errors.ConfigurationError(f"{variable} cannot be read: {wrong}")


def verifying(url: str) -> str:
    """A readable URL; where it is one of TLS, with its options in the one spelling that both libraries read.

    Celery's side would verify no certificate where the URL does not ask for it, and the ledger's each.
    """
    if url.partition("://")[0] != "rediss":
        return url
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    said = {**asked, _VERIFY: _verification(asked.get(_VERIFY, "required"))}
    if _HOST_NAME in asked:
        said[_HOST_NAME] = _BOOLEANS[asked[_HOST_NAME].lower()]
    if said == asked:
        return url
    return parts._replace(query=urlencode(said, quote_via=quote, safe="/")).geturl()


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
    return _wrong_with_tls(scheme, parts.query) if scheme in _REDIS else None


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

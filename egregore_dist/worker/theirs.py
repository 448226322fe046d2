"""What a Celery app of the user's own says of its broker: where that is, and whether others find what it consumes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

from celery import Celery, bootsteps
from kombu import Connection

from egregore_dist import errors
from egregore_dist.engine import access, urls
from egregore_dist.engine import app as apps
from egregore_dist.ledger import Ledger, connection, sentinel
from egregore_dist.settings import Settings, load

log = logging.getLogger(__name__)

# Of its messages ours have the lowest number of a priority, since they say none.
_PRIORITY = 0

_VERIFY = "ssl_cert_reqs"


def settings(app: Celery) -> Settings:
    """The settings of ``EGREGORE_*``; where those name no broker, with the app's, and with what it says of TLS.

    Raises:
        errors.ConfigurationError: the app has none either.
    """
    found = load()
    if found.broker_url is not None:
        return found
    url: Any = app.conf.broker_url
    # One of several, where the app names them for failover; those of sentinels are one.
    names = [url] if isinstance(url, str) else list(url or ())
    if names and sentinel.is_sentinel(names[0]):
        return load(broker_url=_with_primary(";".join(names), app.conf.broker_transport_options))
    broker = next(iter(names), None)
    if not broker:
        # What Celery takes in its place, a RabbitMQ on this machine, is hardly ever meant.
        raise errors.ConfigurationError(
            f"Celery app {app.main!r} has no broker: set its broker_url before it is installed into, or "
            "EGREGORE_BROKER_URL, such as redis://host:6379/0"
        )
    return load(broker_url=_with_tls(broker, app.conf.broker_use_ssl))


def _with_primary(url: str, options: object) -> str:
    """A Sentinel URL with what the app's ``broker_transport_options`` say of the primary and of the sentinels."""
    known = options if isinstance(options, Mapping) else {}
    login = known.get("sentinel_kwargs") or {}
    said = {
        "master_name": known.get("master_name"),
        "sentinel_username": login.get("username"),
        "sentinel_password": login.get("password"),
    }
    given = urlencode({name: value for name, value in said.items() if value and f"{name}=" not in url})
    return f"{url}{'&' if '?' in url else '?'}{given}" if given else url


def _with_tls(url: str, options: object) -> str:
    """A Redis URL with what the app's ``broker_use_ssl`` says; as with Celery, options of the URL come before that."""
    scheme, _, rest = url.partition("://")
    query = rest.partition("?")[2]
    if scheme not in ("redis", "rediss") or not isinstance(options, Mapping) or not options or "ssl_" in query:
        return url
    said = {name: _plain(name, value) for name, value in options.items() if value is not None or name == _VERIFY}
    return f"rediss://{rest}{'&' if query else '' if rest.endswith('?') else '?'}{urlencode(said)}"


def _plain(name: str, value: object) -> str:
    if name == _VERIFY and value is None:
        # To redis-py, it is the same.
        value = ssl.CERT_NONE
    return value.name if isinstance(value, ssl.VerifyMode) else str(value)


def refuse_hidden(app: Celery) -> None:
    """Refuse an app whose workers consume other keys of a Redis server than those that clients publish to.

    Raises:
        errors.ConfigurationError: it has such transport options; it says what to do.
    """
    options: Any = app.conf.broker_transport_options
    for name in ("global_keyprefix", "priority_steps"):
        value = options.get(name) if isinstance(options, Mapping) else None
        if value and not (name == "priority_steps" and _PRIORITY in value):
            raise errors.ConfigurationError(
                f"broker_transport_options of Celery app {app.main!r} has {name}={value!r}: its workers would not find "
                "what clients, janitors and the command egregore-dist publish, which know nothing of it. Leave it out, "
                "or leave install() out and start `egregore-dist worker` beside the workers of this app, with "
                "EGREGORE_BROKER_URL"
            )


def warn_elsewhere(app: Celery, found: Settings) -> None:
    """Say so where the app's workers consume another broker than the one that is submitted to, as it is written.

    Args:
        found: the settings of what was installed.
    """
    with app.connection_for_read() as own, Connection(apps.broker_url(found)) as ours:
        if _where(own) != _where(ours):
            log.warning(
                "workers of Celery app %r consume %s, and what is submitted goes to %s, which EGREGORE_BROKER_URL or "
                "the settings name: unless that is the same server, they serve no run",
                app.main,
                own.as_uri(),
                ours.as_uri(),
                extra={"action": "other_broker"},
            )


def _where(connection: Connection) -> tuple[object, ...]:
    named = connection.hostname or ""
    if urls.is_socket(named):
        return urls.socket_of(named)
    host = "127.0.0.1" if connection.hostname in (None, "localhost") else connection.hostname
    database = str(connection.virtual_host or "").strip("/") or "0"
    return host, connection.port or connection.get_transport_cls().default_port, database


def refuse_unfit_server(settings: Settings) -> None:
    """Refuse a ledger's server that cannot hold one; a server that is away is waited for.

    Raises:
        errors.ConfigurationError: it evicts keys, is a Redis Cluster, or its user lacks rights of a worker; the message
            names the cure.
    """
    with closing(Ledger(apps.ledger_url(settings), prefix=settings.prefix, retries=0)) as ledger:
        try:
            ledger.refuse_unfit_server()
            access.refuse_missing(ledger.redis, settings, access.WORKER)
        except errors.BrokerUnavailable as error:
            if connection.is_lasting(error):
                raise errors.ConfigurationError(str(error)) from None


class Reach(bootsteps.Step):
    """Refuses to start the worker of an app that was configured so after `install`, or on a server that is unfit."""

    name = "egregore-reach"

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        refuse_hidden(parent.app)
        refuse_unfit_server(parent.app.egregore_settings)
        warn_elsewhere(parent.app, parent.app.egregore_settings)


def register(app: Celery, *, owns: bool) -> None:
    """Look at an app now, and again when its worker starts; ``owns``: whether it is one of this package's own."""
    if owns:
        return
    refuse_hidden(app)
    app.steps["worker"].add(Reach)

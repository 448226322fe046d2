"""The monitor as a server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing

import uvicorn

from egregore_dist import errors
from egregore_dist.cli import hooks, redact
from egregore_dist.client.session import Session
from egregore_dist.monitor.config import Config
from egregore_dist.monitor.connections import HEADERS, Listener, Server
from egregore_dist.monitor.guard import Guard
from egregore_dist.monitor.live import Live
from egregore_dist.monitor.pages import Pages
from egregore_dist.monitor.proxy import BehindProxy


def application(
    config: Config,
    cluster: Session,
    *,
    port: int,
    stopping: Callable[[], bool] = lambda: False,
    hook: hooks.Hook | None = None,
) -> Guard:
    """The monitor as an ASGI application.

    Args:
        config: who may use it.
        cluster: what it shows.
        port: where it listens.
        stopping: whether its server ends.
        hook: what the user's data pass before this process shows them, in place of ``EGREGORE_REDACT``.

    Raises:
        errors.ConfigurationError: ``EGREGORE_REDACT`` names no function.
    """
    settings = cluster.settings
    hooks.use(hook or settings.redact)
    for secret in (settings.broker_url, settings.ledger_url, settings.secret):
        # What a node says may hold one of them.
        redact.remember(None if secret is None else secret.get_secret_value())
    redact.remember_file(settings.secret_file)
    pages = Pages(
        cluster,
        asks_for_name=config.users.has_names,
        has_links=config.has_links,
    )
    live = Live(cluster.ledger, stopping)
    answers = {**pages.answers(), **live.answers()}
    return Guard(config, answers, pages.refuse, port=port)


def serve(config: Config, cluster: Session, ready: Callable[[str], None]) -> None:
    """Serve the monitor until it is told to stop.

    Args:
        config: where, and for whom.
        cluster: what it shows.
        ready: called with its address when it listens.

    Raises:
        errors.ConfigurationError: what was asked for would be open to more people than was said, or cannot be.
    """
    config.check()
    with closing(_listen(config)) as listener:
        port = listener.getsockname()[1]
        server: Server

        def stopping() -> bool:
            return server.should_exit

        guard = application(config, cluster, port=port, stopping=stopping)
        options = uvicorn.Config(
            BehindProxy(guard, config) if config.behind_proxy else guard,
            host=config.host,
            port=port,
            # The connections are told apart by the sockets that are accepted in Python.
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            # What strangers send shall not fill the log.
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=None if config.tls is None else config.tls[0],
            ssl_keyfile=None if config.tls is None else config.tls[1],
            h11_max_incomplete_event_size=HEADERS,
            timeout_graceful_shutdown=3,
        )
        try:
            options.load()
        except OSError as error:
            # ssl's errors among them.
            raise errors.ConfigurationError(f"the certificate or its key cannot be used: {error}") from error
        server = Server(options, listener)
        ready(config.address(port))
        server.run(sockets=[listener])


def _listen(config: Config) -> Listener:
    proxies = config.proxies if config.behind_proxy else ()
    if config.descriptor is not None:
        listener = Listener(fileno=config.descriptor, proxies=proxies)
        listener.setblocking(False)
        return listener
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = Listener(family, proxies=proxies)
    except OSError as error:
        raise errors.ConfigurationError(f"the monitor cannot listen on {config.host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise errors.ConfigurationError(
            f"the monitor cannot listen on port {config.port} of {config.host}: {error.strerror}; "
            "--port 0 takes one that is free"
        ) from error
    return listener

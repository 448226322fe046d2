"""The cluster that a command works on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from egregore_dist.cli import codes, hooks, redact
from egregore_dist.cli.failing import Quit

if TYPE_CHECKING:
    from egregore_dist.client.session import Session
    from egregore_dist.ledger import Ledger
    from egregore_dist.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

NOT_CONFIGURED = (
    "no cluster is configured: set EGREGORE_BROKER_URL or give --broker-url, such as redis://host:6379/0 "
    "(an embedded cluster lives only as long as the process that started it)"
)


@dataclass(slots=True)
class Given:
    """What the command line says of the cluster; the rest is in the environment."""

    broker_url: str | None = None
    ledger_url: str | None = None


def options(command: Command) -> Command:
    """Options that name the cluster: for the whole command line, or after a command."""
    urls = (("--ledger-url", "The ledger, where the broker is no Redis"), ("--broker-url", "Celery's broker"))
    for name, what in urls:
        env = f"EGREGORE_{name[2:].upper().replace('-', '_')}"
        text = f"{what}.  [env: {env}, which other users of the machine cannot see]"
        command = click.option(name, metavar="URL", help=text, expose_value=False, callback=_take)(command)
    return command


def import_from_here() -> None:
    """Find modules in the current folder too, as ``python -m`` and ``celery -A`` do."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def settings() -> Settings:
    """The settings, with what was given on the command line."""
    from egregore_dist.settings import load

    given = click.get_current_context().find_root().ensure_object(Given)
    wanted = {"broker_url": given.broker_url, "ledger_url": given.ledger_url}
    found = load(**wanted)
    for name in wanted:
        url = getattr(found, name)
        if url is not None and not url.get_secret_value():
            # An empty variable is one that somebody wanted to unset.
            found = found.model_copy(update={name: None})
        elif url is not None:
            readable(partial(_port, url.get_secret_value()))
    if found.redact is not None:
        import_from_here()
    hooks.use(found.redact)
    return found


def ledger() -> Ledger:
    """The ledger of the configured cluster.

    Raises:
        Quit: none is configured.
        errors.BrokerUnavailable: it does not answer.
    """
    return _opened(_configured()).ledger


def session() -> Session:
    """The configured cluster, seen to answer; raises what `ledger` raises."""
    return _opened(_configured())


@contextmanager
def submitting(workers: int | None = None) -> Iterator[Session]:
    """Submit to the configured cluster, or the one of the program's Celery app, or an embedded one for the body alone.

    Args:
        workers: worker processes of an embedded cluster; by default 2, or 1 on a single core.
    """
    from egregore_dist.client import session as sessions

    chosen = _of_program()
    # So that what the body has started is stopped.
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if chosen.broker_url is not None or chosen.ledger_url is not None:
            opened = _opened(chosen)
            current = sessions.use(opened)
            try:
                yield opened
            finally:
                sessions.use(current)
                opened.close()
        else:
            from egregore_dist.client.cluster import LocalCluster
            from egregore_dist.resources.report import measure

            cores = max(1, int(measure().cores))
            workers = workers or min(2, cores)
            with LocalCluster(workers=workers, concurrency=-(-cores // workers)):
                yield sessions.current()
    finally:
        signal.signal(signal.SIGTERM, before)


def is_embedded() -> bool:
    """Whether `submitting` starts a cluster of its own."""
    found = _of_program()
    return found.broker_url is None and found.ledger_url is None


def _of_program() -> Settings:
    """The settings, or those of the Celery app in the modules that were loaded, where no cluster is configured."""
    from egregore_dist.engine import installed

    found = settings()
    app = installed.settings()
    if app is None or found.broker_url is not None or found.ledger_url is not None:
        return found
    for url in (app.broker_url, app.ledger_url):
        redact.remember(None if url is None else url.get_secret_value())
    return app


def _configured() -> Settings:
    found = settings()
    if found.broker_url is None:
        raise Quit(codes.USAGE, NOT_CONFIGURED)
    return found


def _opened(chosen: Settings) -> Session:
    from egregore_dist.client.session import Session

    opened = readable(partial(Session, chosen))
    opened.ledger.ping()
    return opened


Made = TypeVar("Made")


def readable(make: Callable[[], Made]) -> Made:
    """What ``make`` returns. Raises `errors.ConfigurationError` where it cannot read a URL of the settings."""
    from egregore_dist import errors

    try:
        return make()
    except errors.EgregoreError:
        raise
    except (ValueError, KeyError):
        # Its text may hold a part of a password that was not escaped.
        raise errors.ConfigurationError(
            "the URL of the broker or of the ledger cannot be read: the port is a number, and special characters of a "
            "password are percent-encoded, as in redis://host:6379/0"
        ) from None


def _take(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        redact.remember(value)
        setattr(ctx.find_root().ensure_object(Given), parameter.name or "", value)


def _port(url: str) -> int | None:
    from egregore_dist.ledger import sentinel

    # There may be several, for failover.
    return max((urlsplit(each).port or 0 for each in sentinel.pieces(url)), default=None)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(codes.TERMINATED)

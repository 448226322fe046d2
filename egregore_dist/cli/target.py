"""The cluster that a command works on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from egregore_dist.cli import codes, redact
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


def settings() -> Settings:
    """The settings, with what was given on the command line."""
    from egregore_dist.settings import Settings

    given = click.get_current_context().find_root().ensure_object(Given)
    # An empty variable is one that somebody wanted to unset.
    wanted = {"broker_url": given.broker_url, "ledger_url": given.ledger_url}
    found = Settings(**{name: value for name, value in wanted.items() if value is not None})  # type: ignore[arg-type]
    empty = {
        name: None
        for name in ("broker_url", "ledger_url")
        if (value := getattr(found, name)) is not None and not value.get_secret_value()
    }
    return found.model_copy(update=empty) if empty else found


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
    """Submit to the configured cluster, or to an embedded one that lives as long as the body.

    Args:
        workers: worker processes of an embedded cluster; by default 2, or 1 on a single core.
    """
    from egregore_dist.client import session as sessions

    chosen = settings()
    # So that what the body has started is stopped.
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if chosen.broker_url is not None or chosen.ledger_url is not None:
            opened = _opened(chosen)
            sessions.use(opened)
            try:
                yield opened
            finally:
                sessions.use(None)
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
    found = settings()
    return found.broker_url is None and found.ledger_url is None


def _configured() -> Settings:
    found = settings()
    if found.broker_url is None:
        raise Quit(codes.USAGE, NOT_CONFIGURED)
    return found


def _opened(chosen: Settings) -> Session:
    from egregore_dist.client.session import Session

    opened = make(Session, chosen)
    opened.ledger.ping()
    return opened


Made = TypeVar("Made")


def make(kind: Callable[[Settings], Made], chosen: Settings) -> Made:
    """Make what connects to the URLs of the settings. Raises `errors.ConfigurationError` where one cannot be read."""
    from egregore_dist import errors

    try:
        return kind(chosen)
    except errors.EgregoreError:
        raise
    except (ValueError, KeyError):
        # Its text may hold a part of a password that was not escaped.
        raise errors.ConfigurationError(
            "the broker's or the ledger's URL cannot be read: give scheme://user:password@host:port/0, with special "
            "characters of the password percent-encoded"
        ) from None


def _take(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        redact.remember(value)
        setattr(ctx.find_root().ensure_object(Given), parameter.name or "", value)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(codes.TERMINATED)

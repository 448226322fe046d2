"""``egregore-dist monitor``."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from urllib.parse import urlencode

import click

from egregore_dist.cli import codes, redact, target
from egregore_dist.cli.failing import Quit

_ROLES = click.Choice(["viewer", "operator", "admin"])
_FILE = click.Path(path_type=Path, dir_okay=False)

# How far one that a program starts beside its workers gives way to them.
_NICER = 10

# A page makes tens of thousands of objects that stay: to look for cycles among them every 700 of them takes as long as
# making them does.
_BETWEEN_COLLECTIONS = 50_000


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, envvar="EGREGORE_MONITOR_HOST", show_envvar=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8750,
    show_default=True,
    envvar="EGREGORE_MONITOR_PORT",
    show_envvar=True,
    help="0 takes one that is free.",
)
@click.option(
    "--users",
    type=_FILE,
    envvar="EGREGORE_MONITOR_USERS",
    show_envvar=True,
    help="Who may log in, with which role: made by --add-user.",
)
@click.option(
    "--token-file",
    type=_FILE,
    envvar="EGREGORE_MONITOR_TOKEN_FILE",
    show_envvar=True,
    help="Holds a token that lets its bearer in; egregore-dist secret makes one.  "
    "[env: EGREGORE_MONITOR_TOKEN, the token]",
)
@click.option(
    "--role",
    type=_ROLES,
    default="operator",
    show_default=True,
    help="Of the bearer of the token or the link, and of the user that is added.",
)
@click.option("--tls-cert", type=_FILE, help="The certificate, for HTTPS.")
@click.option("--tls-key", type=_FILE, help="Its key.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front of it does HTTPS; needs --url.")
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Where that proxy is, if not on this machine: an address or a network. Can be given again.",
)
@click.option(
    "--url", envvar="EGREGORE_MONITOR_URL", show_envvar=True, help="What browsers call it, where that is another name."
)
@click.option("--fd", type=int, hidden=True, help="A socket that listens already: of the program that starts this.")
@click.option("--add-user", metavar="NAME", help="Add a user to --users, or change one: asks for the password.")
@target.options
def monitor(
    host: str,
    port: int,
    users: Path | None,
    token_file: Path | None,
    role: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    proxies: tuple[str, ...],
    url: str | None,
    fd: int | None,
    add_user: str | None,
) -> None:
    """Serve the web pages where runs can be seen, and cancelled, paused and retried.

    By default it listens on this machine alone, and prints a link with a token: whoever has the link may use the
    pages. Another --host needs --users or --token-file, and --tls-cert and --tls-key or --behind-proxy.
    """
    try:
        from egregore_dist.monitor import serve
        from egregore_dist.monitor.config import LOOPBACK, Config, network
        from egregore_dist.monitor.users import Role, Users, add, read
        from egregore_dist.wire import private_file, strength
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("egregore_dist"):
            raise
        text = f"the monitor needs {error.name}: pip install 'egregore-dist[monitor]'"
        raise Quit(codes.USAGE, text) from error

    if add_user is not None:
        if users is None:
            raise click.UsageError("--add-user needs --users FILE")
        add(users, add_user, Role[role.upper()], click.prompt("Password", hide_input=True, confirmation_prompt=True))
        click.echo(f"{add_user} is in {users} as {role}; a running monitor takes it over within seconds")
        return
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    token = _token() if token_file is None else private_file.read(token_file, "the token's file").strip()
    # Nobody was named: whoever has the link that is printed here may use it.
    has_link = users is None and token is None
    if has_link:
        token = strength.new_secret()
    redact.remember(token)
    config = Config(
        users=Users({} if users is None else read(users), token, Role[role.upper()], file=users),
        host=host,
        port=port,
        tls=None if tls_cert is None or tls_key is None else (tls_cert, tls_key),
        behind_proxy=behind_proxy,
        proxies=tuple(map(network, proxies)) or LOOPBACK,
        url=url,
        has_links=has_link or fd is not None,
        descriptor=fd,
    )
    config.check()
    if fd is not None:
        os.nice(_NICER)
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    query = f"/?{urlencode({'token': token})}" if has_link else ""
    serve.serve(config, target.session(), lambda address: click.echo(f"monitor: {address}{query}"))


def _token() -> str | None:
    return os.environ.get("EGREGORE_MONITOR_TOKEN") or None

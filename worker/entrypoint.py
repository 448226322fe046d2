"""The container's entry point: settings from the environment and from secret files, then the worker itself.

Instead of ``EGREGORE_BROKER_URL`` it accepts the URL's parts (see deploy/README.md); ``EGREGORE_WORKER_NAME``
(``worker``) is completed to ``name@host``. Arguments are those of ``egregore-dist worker``. If the first argument is
no option, they are another command, which the container runs in the worker's place.
The password reaches the command in its environment, never in its arguments, which others can read.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from egregore_dist.errors import ConfigurationError
from egregore_dist.wire import private_file


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment: ``given``, completed with its name and the broker's URL.

    Raises:
        ConfigurationError: the broker or its password is missing, or the password's file is refused.
    """
    name = given.get("EGREGORE_WORKER_NAME") or "worker"
    completed = {**given, "EGREGORE_WORKER_NAME": name if "@" in name else f"{name}@{socket.gethostname()}"}
    if not given.get("EGREGORE_BROKER_URL"):
        completed["EGREGORE_BROKER_URL"] = _broker_url(given)
    return completed


def command(environ: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """The command that the container becomes: the worker, or the one that is given."""
    if arguments and not arguments[0].startswith("-"):
        return [*arguments]
    return [sys.executable, "-m", "egregore_dist", "worker", "--name", environ["EGREGORE_WORKER_NAME"], *arguments]


def _broker_url(given: Mapping[str, str]) -> str:
    host = given.get("EGREGORE_BROKER_HOST")
    if not host:
        raise ConfigurationError("set EGREGORE_BROKER_URL, or EGREGORE_BROKER_HOST and EGREGORE_BROKER_PASSWORD_FILE")
    port = given.get("EGREGORE_BROKER_PORT") or "6379"
    if not (port.isascii() and port.isdigit()):
        raise ConfigurationError(f"EGREGORE_BROKER_PORT is {port!r}: it must be a number")
    tls = given.get("EGREGORE_BROKER_TLS") or "no"
    if tls not in ("yes", "no"):
        raise ConfigurationError(f"EGREGORE_BROKER_TLS is {tls!r}: it must be yes or no")
    file = given.get("EGREGORE_BROKER_PASSWORD_FILE")
    if not file:
        raise ConfigurationError("set EGREGORE_BROKER_PASSWORD_FILE to the file that holds the broker's password")
    user = quote(given.get("EGREGORE_BROKER_USER") or "", safe="")
    ca = given.get("EGREGORE_BROKER_CA_FILE")
    scheme, query = "redis", ""
    if tls == "yes":
        scheme, query = "rediss", f"?ssl_ca_certs={quote(ca)}" if ca else ""
    return f"{scheme}://{user}:{quote(_password(Path(file)), safe='')}@{host}:{port}/0{query}"


def _password(file: Path) -> str:
    # Group 10001 of the containers reads it: deploy/passwords.sh.
    password = private_file.read(file, "EGREGORE_BROKER_PASSWORD_FILE", mode=0o440).strip()
    if not password:
        raise ConfigurationError(f"EGREGORE_BROKER_PASSWORD_FILE {file} is empty")
    return password


def main() -> None:
    """Become the worker."""
    try:
        environ = environment(os.environ)
    except ConfigurationError as error:
        sys.exit(f"egregore-dist: {error}")
    arguments = command(environ, sys.argv[1:])
    os.execvpe(arguments[0], arguments, environ)  # noqa: S606  # the container becomes the worker and gets its signals


if __name__ == "__main__":
    main()

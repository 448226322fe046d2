"""The worker container's health check: whether the ledger knows this worker as alive. Exit code 0 or 1."""

from __future__ import annotations

import os
import sys

import redis
from redis import backoff, retry

from egregore_dist.engine.app import ledger_url
from egregore_dist.errors import ConfigurationError
from egregore_dist.ledger import connection, keys
from egregore_dist.settings import load
from entrypoint import environment

#: Seconds to connect and to answer; the image gives the whole check 5.
TIMEOUT = 2.0


def problem() -> str | None:
    """What is wrong with this worker, or None."""
    try:
        os.environ.update(environment(os.environ))
        name = os.environ["EGREGORE_WORKER_NAME"]
        settings = load()
        with connection.client(
            ledger_url(settings),
            socket_connect_timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            retry=retry.Retry(backoff.NoBackoff(), 0),
        ) as ledger:
            alive = ledger.exists(keys.Keys(settings.prefix).worker(name))
    except ConfigurationError as error:
        return str(error)
    except ValueError:
        # Its text may hold a part of a password.
        return "the URL of the ledger cannot be read"
    except redis.RedisError as error:
        return f"the ledger cannot be reached: {type(error).__name__}"
    return None if alive else f"the ledger has no heartbeat of worker {name!r}"


def main() -> None:
    """Print what is wrong, if anything is, and exit accordingly."""
    if what := problem():
        sys.exit(f"unhealthy: {what}")


if __name__ == "__main__":
    main()

"""The worker container's health check: whether the ledger knows this worker as alive. Exit code 0 or 1."""

from __future__ import annotations

import os
import sys

import redis
from redis import backoff, retry

from egregore_dist.ledger import keys
from egregore_dist.settings import Settings
from entrypoint import Misconfigured, environment

#: Seconds to connect and to answer; the image gives the whole check 5.
TIMEOUT = 2.0


def problem() -> str | None:
    """What is wrong with this worker, or None."""
    try:
        os.environ.update(environment(os.environ))
    except Misconfigured as error:
        return str(error)
    settings = Settings()
    url = settings.ledger_url or settings.broker_url
    if url is None:
        return "neither EGREGORE_LEDGER_URL nor EGREGORE_BROKER_URL is set"
    name = os.environ["EGREGORE_WORKER_NAME"]
    try:
        with redis.Redis.from_url(
            url.get_secret_value(),
            socket_connect_timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            retry=retry.Retry(backoff.NoBackoff(), 0),
        ) as ledger:
            alive = ledger.exists(keys.Keys(settings.prefix).worker(name))
    except redis.RedisError as error:
        return f"the ledger cannot be reached: {type(error).__name__}"
    return None if alive else f"the ledger has no heartbeat of worker {name!r}"


def main() -> None:
    """Print what is wrong, if anything is, and exit accordingly."""
    if what := problem():
        sys.exit(f"unhealthy: {what}")


if __name__ == "__main__":
    main()

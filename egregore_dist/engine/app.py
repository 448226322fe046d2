"""The Celery app and its hardened settings, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from egregore_dist import errors
from egregore_dist.engine import broker, urls
from egregore_dist.ledger import sentinel
from egregore_dist.resources import needs, router
from egregore_dist.settings import Settings
from egregore_dist.wire import strength

LANE, COLLECT, ADVANCE = "egregore.lane", "egregore.collect", "egregore.advance"
#: Of workers: a node of theirs can be stopped, in the first only.
POOLS = ("prefork", "threads")
BACKEND = "egregore_dist.engine.backend:ChordBackend"
SENTINEL_BACKEND = "egregore_dist.engine.backend:SentinelChordBackend"
MESSAGING = "egregore_dist.engine.broker:AMQP"
_LEDGERS = ("redis://", "rediss://")

UNPROTECTED = (
    "other machines can reach the server, and there is no secret: whoever can write to it can start registered nodes"
)
PROTECT = (
    "set EGREGORE_SECRET to one value on clients and workers, and let nobody else write to the server. Make a secret "
    f"with: {strength.MAKE_ONE}"
)

# A message that a worker holds longer than this is delivered again; a second lane of a block is harmless.
VISIBILITY_TIMEOUT = 3600


def make_app(settings: Settings) -> Celery:
    """The Celery app of a client or worker.

    Raises:
        errors.ConfigurationError: no broker, or a broker that cannot hold the ledger and no other server that does; or
            a queue whose name means something else.
    """
    refuse_derived([settings.queue])
    app = Celery("egregore", set_as_current=False, amqp=MESSAGING, fixups=[])
    app.loader.override_backends = dict.fromkeys(("redis", "rediss", "socket", "unix"), BACKEND)
    app.loader.override_backends["sentinel"] = SENTINEL_BACKEND
    app.conf.update(
        broker_url=broker_url(settings),
        result_backend=_backend_url(settings),
        result_backend_transport_options=_backend_options(settings),
        task_default_queue=settings.queue,
        task_create_missing_queues=True,
        # Only strict JSON is read; messages hold no data.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        # A lane is acknowledged when it ends, so that the one of a dead process is delivered again.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_publish_retry_policy={
            "max_retries": 5,
            "interval_start": 0.05,
            "interval_step": 0.2,
            "interval_max": 1.0,
            # The connections of Celery's pool are kombu's own, which try again whatever the error.
            "errback": broker.raise_lasting,
        },
        # A prefetched lane would wait behind a long one while another worker is idle.
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        # What a process wrote before it died is read at once; only then is its message given back.
        worker_lost_wait=0.2,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(settings),
        # An answer that nobody expected is no reason for a worker to end.
        broker_channel_error_retry=True,
        # What a chord leaves behind where its callback never came.
        result_expires=3600,
        event_queue_expires=60,
    )
    return app


def refuse_derived(queues: Iterable[str]) -> None:
    """Refuse queues whose names say what their lanes need of a worker.

    Raises:
        errors.ConfigurationError: one does; it says how that is asked for.
    """
    for queue in queues:
        if needs.is_derived(queue):
            raise errors.ConfigurationError(
                f"queue {queue!r} has the name of one that workers with what it asks for consume by themselves: "
                f"start one with `{router.command_for(queue)}`, or call the queue otherwise"
            )


def broker_url(settings: Settings) -> str:
    """The broker's URL as kombu reads it, of one that verifies the server's certificate unless it says otherwise.

    Raises:
        errors.ConfigurationError: there is none, or none that can be a broker's.
    """
    if settings.broker_url is None:
        raise errors.ConfigurationError("no broker is configured: set EGREGORE_BROKER_URL, such as redis://host:6379/0")
    url = settings.broker_url.get_secret_value()
    scheme, separator, _ = url.partition("://")
    # A transport may also be named by its module.
    is_known = scheme.partition("+")[0] in TRANSPORT_ALIASES or urls.is_socket(url)
    if separator and "." not in scheme and not is_known:
        raise errors.ConfigurationError(
            f"no broker is at {scheme[:32]!r} URLs: write redis://host:6379/0, rediss://, unix:// or amqp://"
        )
    if sentinel.is_sentinel(url):
        urls.refuse_unreadable(url, "EGREGORE_BROKER_URL")
        return sentinel.read(url).urls
    # There may be several, for failover.
    for each in url.split(";"):
        urls.refuse_unreadable(each, "EGREGORE_BROKER_URL")
    return ";".join(map(urls.for_kombu, url.split(";")))


def ledger_url(settings: Settings) -> str:
    """The ledger's URL as redis-py reads it: its own, or the broker's where that is a Redis or Valkey server.

    It verifies as `broker_url`.

    Raises:
        errors.ConfigurationError: there is none, or none that can be the ledger's.
    """
    if settings.ledger_url is not None:
        url = settings.ledger_url.get_secret_value()
        if sentinel.is_sentinel(url):
            urls.refuse_unreadable(url, "EGREGORE_LEDGER_URL")
            return sentinel.read(url).url
        if not (url.startswith(_LEDGERS) or urls.is_socket(url)):
            raise errors.ConfigurationError(
                "EGREGORE_LEDGER_URL names no Redis or Valkey server: write it as redis://host:6379/0, rediss:// or unix://"
            )
        urls.refuse_unreadable(url, "EGREGORE_LEDGER_URL")
        return urls.for_redis(url)
    url = broker_url(settings)
    if settings.broker_url is not None and sentinel.is_sentinel(url):
        return sentinel.read(settings.broker_url.get_secret_value()).url
    if "://" not in url:
        raise errors.ConfigurationError("the broker's URL has no scheme: write it as redis://host:6379/0")
    if not (url.startswith(_LEDGERS) or urls.is_socket(url)):
        raise errors.ConfigurationError(
            "the broker cannot hold the ledger: set EGREGORE_LEDGER_URL to a Redis or Valkey server, such as redis://host:6379/0"
        )
    # The ledger is one server; of several brokers each would hold a part.
    urls.refuse_unreadable(url, "EGREGORE_BROKER_URL")
    return urls.for_redis(url)


def _transport_options(settings: Settings) -> dict[str, object]:
    if not is_redis(settings):
        return {}
    return {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # A connection that died in silence is noticed, and made again, within ten seconds.
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 4,
        **broker_options(settings),
    }


def public_url(settings: Settings) -> str:
    """The broker's URL as `EGREGORE_BROKER_URL` has it. Raises what `broker_url` raises."""
    if settings.broker_url is not None and sentinel.is_sentinel(settings.broker_url.get_secret_value()):
        return sentinel.read(settings.broker_url.get_secret_value()).url
    return ";".join(map(urls.for_redis, broker_url(settings).split(";")))


def broker_options(settings: Settings) -> dict[str, Any]:
    """The transport options that belong to `broker_url`: what sentinels call the primary, and their login."""
    url = "" if settings.broker_url is None else settings.broker_url.get_secret_value()
    return sentinel.read(url).options if sentinel.is_sentinel(url) else {}


def is_unprotected(settings: Settings) -> bool:
    """Whether other machines can reach a server, and there is no secret.

    Raises what `broker_url` and `ledger_url` raise.
    """
    if settings.secret is not None or settings.secret_file is not None:
        return False
    servers = [each for url in (public_url(settings), ledger_url(settings)) for each in sentinel.pieces(url)]
    return not all(map(urls.is_local, servers))


def is_redis(settings: Settings) -> bool:
    """Whether the broker is a Redis or Valkey server. Raises what `broker_url` raises."""
    return broker_url(settings).startswith(("redis", "sentinel"))


def _backend_options(settings: Settings) -> dict[str, Any]:
    url = ledger_url(settings)
    options = sentinel.read(url).options if sentinel.is_sentinel(url) else {}
    return {"global_keyprefix": f"{settings.prefix}:celery:", **options}


def _backend_url(settings: Settings) -> str:
    url = ledger_url(settings)
    return sentinel.read(url).urls if sentinel.is_sentinel(url) else urls.for_kombu(url)

"""Connections to the ledger: how they are made, and how their loss is told."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from egregore_dist import errors
from egregore_dist.ledger import sentinel

log = logging.getLogger(__name__)

# A connection that died in silence is noticed, and made again, within ten seconds.
CONNECTION: dict[str, Any] = {"socket_timeout": 6.0, "socket_connect_timeout": 3.0, "socket_keepalive": True}


def options(url: str) -> dict[str, Any]:
    """`CONNECTION`, as far as it is for a URL: a socket in the file system has no network to die in silence."""
    return {name: value for name, value in CONNECTION.items() if not (url.startswith("unix") and "keepalive" in name)}


# Bytes that are sent at a time: a timeout is one of sending all of them, and a large value may take longer on a slow
# network, while it gets on.
_PIECE = 2**18

# How a server says that it takes no write, itself or (up to Redis 6) within the error of a script.
_REFUSALS = {
    "OOM": "its memory is full (maxmemory): raise the limit, or wait until finished runs have expired",
    "NEARLYFULL": "what is left of its memory (maxmemory) is kept for the results of the runs that it has: raise the "
    "limit, or wait until some have ended and expired",
    "MISCONF": "it cannot write to its disk: make room there, and see the server's log",
    "NOREPLICAS": "it has too few replicas that follow it (min-replicas-to-write)",
}
# How it says that it is a replica, or has just become one. The address may be that of another server since: each
# connection that answers so is closed, and made anew.
_DEMOTED = {
    "READONLY": "it is read-only, as a replica is: use the primary's address, or wait for the failover",
    "UNBLOCKED": "it has just become a replica: use the primary's address, or wait for the failover",
}
# How it says that it answers nobody for now, where redis-py does not know: it has run nothing of what it was asked for.
_TURNS_AWAY = {
    "BUSY": "it is held by a script that takes long; it answers when that has ended",
    "TRYAGAIN": "its keys are being moved to another server",
    "CLUSTERDOWN": "its cluster is down",
    "MASTERDOWN": "it is a replica that has lost its primary",
}

# Seconds between two lines of log about a server that refuses to write.
_SAY_EVERY = 30.0

#: What to do where a server's certificate does not verify.
TRUST = (
    "see that the certificate is for the host that the URL names; where a private CA has signed it, name the CA's file "
    "in the URL, as in rediss://host:6379/0?ssl_ca_certs=/etc/ssl/private-ca.pem"
)

#: What to do where the server is a Redis Cluster.
CLUSTER = (
    "the server is a Redis Cluster, which spreads keys that are changed together over several servers: use one server, "
    "with a replica and Sentinel (sentinel://) or a managed failover behind one address for high availability; with a "
    "managed service, choose one shard with cluster mode disabled"
)
_OF_CLUSTERS = ("CROSSSLOT", "MOVED ", "ASK ", "Keys in request don't hash to the same slot", "Slot not served")

#: What to do where the server refuses a login, and where it has no database of a number.
LOGIN = "see that its URL has the right user and password"
DATABASE = "end its URL with a lower number, or let the server have more (databases)"

_NO_DATABASE = "DB index is out of range"

_CODE = re.compile(rf"(?:^|[\s-])({'|'.join([*_REFUSALS, *_DEMOTED])})\s")


def client(url: str, **options: Any) -> redis.Redis:
    """A client of the server at a URL that redis-py reads, or of the primary that sentinels name.

    Raises:
        ValueError: the URL cannot be read.
    """
    make = sentinel.client if sentinel.is_sentinel(url) else redis.Redis.from_url
    found = make(url, **options)
    pool = found.connection_pool
    pool.connection_class = outlasting(pool.connection_class)
    return found


def async_client(url: str, **options: Any) -> redis.asyncio.Redis:
    """The same for an event loop."""
    make = sentinel.async_client if sentinel.is_sentinel(url) else redis.asyncio.Redis.from_url
    found = make(url, **options)
    pool = found.connection_pool
    pool.connection_class = outlasting(pool.connection_class)
    return found


class TurnedAway(redis.exceptions.ConnectionError):
    """The server is there, and answers nobody for now. To redis-py, Celery and kombu it is as good as not there."""


class Demoted(TurnedAway):
    """The server is a replica, and takes no write."""


class _Sync:
    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        # Redis-py goes to the former primary's address again, whatever Sentinel says by then (its issue 3874).
        if retry_socket_connect and isinstance(self, redis.sentinel.SentinelManagedConnection):
            self.connect_to(self.connection_pool.get_master_address())  # type: ignore[no-untyped-call]
        else:
            super().connect_check_health(check_health, retry_socket_connect)  # type: ignore[misc]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not isinstance(command, str):
            command = [piece for part in command for piece in _pieces(part)]
        super().send_packed_command(command, check_health)  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except redis.exceptions.ResponseError as error:
            _raise_if_turned_away(error)
            _name_database(error, self)
            raise
        except redis.exceptions.InvalidResponse as error:
            _name_server(error, self)
            raise


class _Async:
    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if retry_socket_connect and isinstance(self, redis.asyncio.sentinel.SentinelManagedConnection):
            await self.connect_to(await self.connection_pool.get_master_address())  # type: ignore[no-untyped-call]
        else:
            await super().connect_check_health(check_health, retry_socket_connect)  # type: ignore[misc]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except redis.exceptions.ResponseError as error:
            _raise_if_turned_away(error)
            _name_database(error, self)
            raise
        except redis.exceptions.InvalidResponse as error:
            _name_server(error, self)
            raise


def outlasting(stock: Any) -> Any:
    """A redis-py connection class, made to take a server that answers nobody for one that cannot be reached.

    So whatever is done about that is done: the call is tried again, on a new connection, after a growing pause. What is
    large is sent in pieces, each of which has the whole of the socket's timeout. One to the primary that Sentinel names
    asks Sentinel each time that it is made.
    """
    mixin = _Async if issubclass(stock, redis.asyncio.connection.AbstractConnection) else _Sync
    return stock if issubclass(stock, mixin) else type(stock.__name__, (mixin, stock), {})


def _pieces(part: Any) -> Iterable[Any]:
    if len(part) <= _PIECE:
        return (part,)
    view = memoryview(part)
    return (view[start : start + _PIECE] for start in range(0, len(view), _PIECE))


def _raise_if_turned_away(error: redis.exceptions.ResponseError) -> None:
    code = _code(error)
    if code in _DEMOTED:
        raise Demoted(_DEMOTED[code]) from error
    reason = turned_away(error)
    if reason is not None:
        raise TurnedAway(reason) from error


def _name_database(error: redis.exceptions.ResponseError, connection: Any) -> None:
    if is_database_error(error):
        error.args = (f"{_address(connection)} has no database {connection.db} ({error})",)


def _name_server(error: redis.exceptions.InvalidResponse, connection: Any) -> None:
    error.args = (f"{_address(connection)} does not answer as a Redis or Valkey server does ({error})",)


def _address(connection: Any) -> str:
    path = getattr(connection, "path", None)
    return str(path) if path else f"{connection.host}:{connection.port}"


def turned_away(error: BaseException) -> str | None:
    """Why the server answers nobody for now; None where the error says something else."""
    match error:
        case TurnedAway():
            return str(error)
        case redis.exceptions.TryAgainError():
            return _TURNS_AWAY["TRYAGAIN"]
        case redis.exceptions.MasterDownError():
            return _TURNS_AWAY["MASTERDOWN"]
        case redis.exceptions.ClusterDownError():
            return _TURNS_AWAY["CLUSTERDOWN"]
        case redis.exceptions.ResponseError():
            return _TURNS_AWAY["BUSY"] if str(error).startswith("BUSY ") else None
        case _:
            return None


@contextmanager
def reachable() -> Iterator[None]:
    """Turn what redis-py raises into errors that a user can meet.

    Raises:
        errors.BrokerUnavailable: the server cannot be reached, answers nobody for now, or is none that can be used.
        errors.BrokerFull: it can, and refuses to write.
    """
    try:
        yield
    except Demoted as error:
        raise errors.BrokerFull(f"the server takes nothing more: {error}") from error
    except TurnedAway as error:
        raise errors.BrokerUnavailable(f"the ledger does not answer: {error}") from error
    except (redis.sentinel.MasterNotFoundError, redis.asyncio.sentinel.MasterNotFoundError):
        # Its text has the sentinels' connections in it.
        raise errors.BrokerUnavailable(
            "the ledger cannot be reached: no sentinel that answers knows a live primary of this name; see that the "
            "sentinels are up, and that master_name is as in their configuration"
        ) from None
    except redis.exceptions.AuthenticationError as error:
        raise errors.BrokerUnavailable(f"the ledger's server refuses this login: {error}; {LOGIN}") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        if is_unverified(error):
            raise errors.BrokerUnavailable(f"the ledger's server cannot be trusted: {error}; {TRUST}") from error
        raise errors.BrokerUnavailable(
            f"the ledger cannot be reached: {error}; is the server up, and the URL right?"
        ) from error
    except redis.exceptions.InvalidResponse as error:
        raise errors.BrokerUnavailable(
            f"the ledger cannot be used: {error}; is its URL that of a Redis or Valkey server?"
        ) from error
    except redis.exceptions.ResponseError as error:
        if is_cluster_error(error):
            raise errors.BrokerUnavailable(f"the ledger cannot be used: {CLUSTER}") from error
        if is_database_error(error):
            raise errors.BrokerUnavailable(f"the ledger cannot be used: {error}; {DATABASE}") from error
        reason = refusal(error)
        if reason is None:
            raise
        raise errors.BrokerFull(f"the server takes nothing more: {reason}") from error


def is_lasting(error: errors.BrokerUnavailable) -> bool:
    """Whether waiting is in vain, as where it refuses the login or its certificate does not verify."""
    cause = error.__cause__
    if isinstance(cause, redis.exceptions.AuthenticationError):
        return True
    return cause is not None and (is_unverified(cause) or is_cluster_error(cause) or is_database_error(cause))


def is_unverified(error: BaseException) -> bool:
    """Whether a connection was not made, since the server's certificate does not verify."""
    # Of what raised it, redis-py and kombu keep the text alone.
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def is_database_error(error: BaseException) -> bool:
    """Whether the server has no database of the number that was asked for."""
    return isinstance(error, redis.exceptions.ResponseError) and _NO_DATABASE in str(error)


def is_cluster_error(error: BaseException) -> bool:
    """Whether an answer is that of a Redis Cluster to keys of several slots, or of a slot that another server has."""
    # Redis-py takes the code off some answers.
    kinds = (redis.exceptions.AskError, redis.exceptions.ClusterCrossSlotError)
    is_answer = isinstance(error, redis.exceptions.ResponseError)
    return isinstance(error, kinds) or (is_answer and any(text in str(error) for text in _OF_CLUSTERS))


def refusal(error: BaseException) -> str | None:
    """Why the server takes no write, and what to do; None where the error says something else."""
    return _REFUSALS.get(_code(error) or "")


def _code(error: BaseException) -> str | None:
    # Redis-py takes the code off some answers.
    match error:
        case redis.exceptions.OutOfMemoryError():
            return "OOM"
        case redis.exceptions.ReadOnlyError():
            return "READONLY"
        case redis.exceptions.ResponseError():
            matched = _CODE.search(str(error))
            return matched[1] if matched else None
        case _:
            return None


class Refusals:
    """Has the log say that a server refuses to write, now and then."""

    def __init__(self) -> None:
        self._said = -_SAY_EVERY

    def tell(self, error: errors.BrokerFull) -> None:
        """Say it, unless it was said a moment ago."""
        if time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            log.warning("the ledger waits: %s", error, extra={"action": "ledger_full"})

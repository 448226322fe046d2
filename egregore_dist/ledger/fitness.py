"""Whether a server can hold a ledger: it evicts nothing, and it is one server, not a Redis Cluster."""

from __future__ import annotations

import logging
from typing import Any, cast

import redis

from egregore_dist import errors
from egregore_dist.ledger.connection import CLUSTER, is_cluster_error, reachable
from egregore_dist.ledger.keys import Keys

log = logging.getLogger(__name__)

#: How to stop a server from evicting keys, on one of your own and on managed ones.
NO_EVICTION = (
    "set `maxmemory-policy noeviction` on the server: in its configuration file and with CONFIG SET on a server of "
    "your own, in the parameter group, the database's configuration or the advanced settings of a managed one"
)
#: How to let this be seen.
LET_LOOK = "allow the server's user +info, or make sure yourself that maxmemory-policy is noeviction"

_POLICY, _LIMIT = "maxmemory_policy", "maxmemory"


def look(server: redis.Redis, keys: Keys) -> tuple[dict[str, Any], bool]:
    """The server's INFO, and whether it is a Redis Cluster or a proxy before one, in one round trip.

    Where INFO is forbidden, the limits of CONFIG stand for it; where both are, it is empty.
    Raises what redis-py raises.
    """
    asked = server.pipeline(transaction=False)
    asked.info()
    # A proxy may hide a cluster in its INFO: keys of different slots show it.
    asked.exists(keys.agenda, keys.runs, keys.workers)
    info, exists = asked.execute(raise_on_error=False)
    is_cluster = isinstance(exists, redis.exceptions.ResponseError) and is_cluster_error(exists)
    if isinstance(info, redis.exceptions.ResponseError):
        info = _limits(server)
    if info.get("cluster_enabled") or info.get("redis_mode") == "cluster":
        is_cluster = True
    # The check of rights, which follows, names this right with all others that the user lacks.
    if isinstance(exists, Exception) and not is_cluster and not isinstance(exists, redis.exceptions.NoPermissionError):
        raise exists
    return info, is_cluster


def _limits(server: redis.Redis) -> dict[str, Any]:
    try:
        config = cast(dict[str, Any], server.config_get("maxmemory*"))
    except redis.exceptions.ResponseError:
        return {}
    return {_POLICY: config["maxmemory-policy"], _LIMIT: config["maxmemory"]}


def evicts(info: dict[str, Any]) -> bool:
    """Whether a server of this INFO evicts keys when it is full."""
    return bool(int(info.get(_LIMIT, 0))) and info.get(_POLICY, "noeviction") != "noeviction"


def refuse_unfit(server: redis.Redis, keys: Keys) -> None:
    """Refuse a server that cannot hold a ledger; where it does not let this user see that, log so.

    Raises:
        errors.ConfigurationError: it evicts keys, or is a Redis Cluster; the message names the cure.
        errors.BrokerUnavailable: it cannot be reached.
    """
    with reachable():
        info, is_cluster = look(server, keys)
    if is_cluster:
        raise errors.ConfigurationError(CLUSTER)
    if evicts(info):
        raise errors.ConfigurationError(
            f"the server evicts keys when it is full (maxmemory-policy {info[_POLICY]}), and would lose the reports of "
            f"live workers and the results of runs: {NO_EVICTION}"
        )
    if _POLICY not in info:
        log.warning(
            "the server does not show whether it evicts keys when it is full: %s",
            LET_LOOK,
            extra={"action": "policy_unknown"},
        )

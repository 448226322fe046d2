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


def info(server: redis.Redis) -> dict[str, Any]:
    """The server's INFO, or its CONFIG where INFO is forbidden; empty where both are. Raises what redis-py raises."""
    try:
        return server.info()
    except redis.exceptions.ResponseError:
        pass
    try:
        config = cast(dict[str, Any], server.config_get("maxmemory*"))
    except redis.exceptions.ResponseError:
        return {}
    return {_POLICY: config["maxmemory-policy"], _LIMIT: config["maxmemory"]}


def evicts(said: dict[str, Any]) -> bool:
    """Whether a server of this `info` evicts keys when it is full."""
    return bool(int(said.get(_LIMIT, 0))) and said.get(_POLICY, "noeviction") != "noeviction"


def is_cluster(server: redis.Redis, keys: Keys, said: dict[str, Any]) -> bool:
    """Whether a server of this `info` is a Redis Cluster, or a proxy before one. Raises what redis-py raises."""
    if said.get("cluster_enabled") or said.get("redis_mode") == "cluster":
        return True
    try:
        # A proxy may not say so: it shows by keys of different slots.
        server.exists(keys.agenda, keys.runs, keys.workers)
    except redis.exceptions.ResponseError as error:
        if not is_cluster_error(error):
            raise
        return True
    return False


def refuse_unfit(server: redis.Redis, keys: Keys) -> None:
    """Refuse a server that cannot hold a ledger; where it does not let this user see that, log so.

    Raises:
        errors.ConfigurationError: it evicts keys, or is a Redis Cluster; the message names the cure.
        errors.BrokerUnavailable: it cannot be reached.
    """
    with reachable():
        said = info(server)
        if is_cluster(server, keys, said):
            raise errors.ConfigurationError(CLUSTER)
    if evicts(said):
        raise errors.ConfigurationError(
            f"the server evicts keys when it is full (maxmemory-policy {said[_POLICY]}), and would lose the reports of "
            f"live workers and the results of runs: {NO_EVICTION}"
        )
    if _POLICY not in said:
        log.warning(
            "the server does not show whether it evicts keys when it is full: %s",
            LET_LOOK,
            extra={"action": "policy_unknown"},
        )

"""Workflows of ordinary Python functions on remote workers, through Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from egregore_dist.errors import (
    BindingError,
    BranchError,
    BrokerFull,
    BrokerUnavailable,
    ParallelExecutionError,
    ParallelTimeoutError,
    RunCancelled,
    RunExists,
    RunFailed,
    RunLost,
    RunNotFound,
)
from egregore_dist.workflow import Context, Limit, Sequence, decision, node, parallel

if TYPE_CHECKING:
    from egregore_dist.client.cluster import LocalCluster
    from egregore_dist.client.run import Run
    from egregore_dist.client.session import connect

__all__ = [
    # Building workflows
    "Context",
    "Limit",
    "Sequence",
    "decision",
    "node",
    "parallel",
    # Running them
    "LocalCluster",
    "Run",
    "connect",
    # What can go wrong
    "BindingError",
    "BranchError",
    "BrokerFull",
    "BrokerUnavailable",
    "ParallelExecutionError",
    "ParallelTimeoutError",
    "RunCancelled",
    "RunExists",
    "RunFailed",
    "RunLost",
    "RunNotFound",
]

_CLIENT = {"LocalCluster": "client.cluster", "Run": "client.run", "connect": "client.session"}


def __getattr__(name: str) -> Any:
    # Celery and Redis are loaded when a cluster is first used, not when a workflow is built.
    if name in _CLIENT:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_CLIENT[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What a worker says when it is ready: who it is, what it consumes, and what it serves."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from egregore_dist.engine import app as apps
from egregore_dist.settings import Settings
from egregore_dist.wire import registry
from egregore_dist.worker import consuming, pool

log = logging.getLogger(__name__)

# Names of a kind that are listed.
_LISTED = 20


def text(
    *, worker: str, kind: str, slots: int, queues: Sequence[str], modules: Sequence[str], nodes: Sequence[str]
) -> str:
    """What a worker is and serves, in a few lines.

    Args:
        kind: of its pool.
        slots: lanes that it runs at a time.
        nodes: names of the nodes and decisions that it serves.
    """
    return "\n".join(
        (
            f"worker {worker} is ready: {kind} pool, {slots} slot{'' if slots == 1 else 's'}",
            f"  queues: {_listed(queues)}",
            f"  modules: {_listed(modules)}",
            f"  nodes and decisions: {_listed(nodes)}",
        )
    )


def warnings(settings: Settings, nodes: Sequence[str]) -> list[str]:
    """What is wrong with a worker of these settings that serves these nodes."""
    without_nodes = _without_nodes(settings, nodes)
    found = [] if without_nodes is None else [without_nodes]
    return [*found, f"{apps.UNPROTECTED}: {apps.PROTECT}"] if apps.is_unprotected(settings) else found


def _without_nodes(settings: Settings, nodes: Sequence[str]) -> str | None:
    if nodes:
        return None
    if settings.modules:
        cure = f"there are none in {_listed(settings.modules)}: start it with the modules that hold them"
    else:
        cure = "start it with the modules that hold them, `egregore-dist worker -m yourproject.steps`"
    if settings.secret is None and settings.secret_file is None:
        return f"this worker serves no nodes, and no run can use it: {cure}"
    return f"this worker serves no nodes of its own: {cure}. It runs functions that clients sign with its secret"


def register(app: Celery, *, owns: bool) -> None:
    """Have the workers of an app say that they are ready: on standard error, or in the log of a user's own app."""

    def said(sender: Any, **_: Any) -> None:
        if sender.app is app:
            _say(sender.controller, app, owns)

    worker_ready.connect(said, weak=False, dispatch_uid=f"egregore-ready-{id(app)}")


def _say(worker: Any, app: Any, owns: bool) -> None:
    settings: Settings = app.egregore_settings
    nodes = sorted({step.name for step in registry.of(settings.modules)})
    found = text(
        worker=worker.hostname,
        kind=pool.kind(worker.pool),
        slots=worker.egregore_tuner.told()["slots"],
        queues=consuming.own(worker),
        modules=settings.modules,
        nodes=nodes,
    )
    wrong = warnings(settings, nodes)
    if not owns:
        log.info(found, extra={"action": "worker_ready"})
        for each in wrong:
            log.warning(each, extra={"action": "worker_warning"})
        return
    lines = [found, *(f"WARNING: {each}" for each in wrong)]
    sys.stderr.write("".join(f"egregore-dist: {line}\n" for line in lines))
    sys.stderr.flush()


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _LISTED:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:_LISTED])} and {len(names) - _LISTED} more"

"""Makes forks safe: what another thread had locked at the moment of a fork is nobody's in the copy.

Threads of a worker's main process connect to servers while its pool starts processes; one of a client does, too, which
may fork. A process that was forked while a thread had locked something would wait for it for ever, since it has no such
thread. Until Python 3.12, and in Kombu always, a cached property has one lock for all objects of its class. An app of
Celery's has one while it is finalized, as it is when it first publishes, and each module with a ``shared_task`` takes
those of all apps when it is imported.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from typing import Any

from celery import _state, signals
from celery.utils.dispatch import Signal

_found: tuple[Any, ...] = ()
_modules = 0
_installed = False


def install() -> None:
    """Have the processes that this one forks begin with all of these locks open, and those of Celery's signals."""
    global _installed
    if not _installed and hasattr(os, "register_at_fork"):
        _installed = True
        os.register_at_fork(before=_find, after_in_child=_open)


def _find() -> None:
    global _found, _modules
    count = len(sys.modules)
    if count == _modules:
        return
    found: dict[int, Any] = {}
    for module in tuple(sys.modules.values()):
        # By their types: some names of Celery's are stand-ins, which would be made by a closer look.
        for value in tuple(getattr(module, "__dict__", {}).values()):
            if issubclass(type(value), type):
                for attribute in tuple(vars(value).values()):
                    if issubclass(type(attribute), functools.cached_property) and hasattr(attribute, "lock"):
                        found[id(attribute)] = attribute
    _found, _modules = tuple(found.values()), count


def _open() -> None:
    for attribute in _found:
        attribute.lock = threading.RLock()
    for app in _state._get_active_apps():  # type: ignore[attr-defined]
        if not app._finalize_mutex.acquire(blocking=False):
            # It is half done; it may be done again.
            app.finalized = False
        app._finalize_mutex = threading.RLock()
    for signal in vars(signals).values():
        if isinstance(signal, Signal):
            signal.lock = threading.Lock()  # type: ignore[attr-defined]

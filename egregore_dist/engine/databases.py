"""Django's database connections between branches: closed when they are too old or broken, as after each request.

Celery's own fixup does the same around each task; a lane is one task, and executes many branches. Without Django this
costs a look into a dictionary.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module

from egregore_dist import errors

log = logging.getLogger(__name__)

_SETTINGS = "DJANGO_SETTINGS_MODULE"


def set_up() -> None:
    """Set Django up where ``DJANGO_SETTINGS_MODULE`` names its settings: modules with models can be imported then.

    Raises:
        errors.ConfigurationError: it is not installed, or cannot be set up; says why.
    """
    settings = os.environ.get(_SETTINGS)
    if not settings:
        return
    try:
        import_module("django").setup()
    except Exception as cause:
        raise errors.ConfigurationError(
            f"Django cannot be set up with {_SETTINGS}={settings}: {type(cause).__name__}: {cause}. "
            f"Start the worker in the folder of manage.py, or unset {_SETTINGS}"
        ) from cause


def branch_ended() -> None:
    """Close the connections of this thread, and those that async nodes have used, that are not to be used again."""
    if "django.db" in sys.modules:
        _close_old()
        executor = getattr(sys.modules.get("asgiref.sync"), "SyncToAsync", None)
        if executor is not None and executor.single_thread_executor._threads:
            # The thread on which Django runs what async code asks of a database.
            executor.single_thread_executor.submit(_close_old).result()


def thread_ends() -> None:
    """Close the connections of a thread that has called its node, and ends."""
    if "django.db" in sys.modules:
        _guarded(lambda: import_module("django.db").connections.close_all())


def _close_old() -> None:
    _guarded(lambda: import_module("django.db").close_old_connections())


def _guarded(close: Callable[[], object]) -> None:
    try:
        if import_module("django.conf").settings.configured:
            close()
    except Exception:
        # The branch has ended, whatever its connections do.
        log.warning("a database connection could not be closed", exc_info=True, extra={"action": "not_closed"})

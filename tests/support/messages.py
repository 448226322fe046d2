"""Messages on a queue of Redis that no worker consumes, and what one would do with them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from typing import Any

from egregore_dist.client.session import Session
from egregore_dist.engine import app as apps
from egregore_dist.engine import tasks


def body(raw: bytes) -> list[Any]:
    """Arguments, named arguments and what comes with them."""
    found: list[Any] = json.loads(base64.b64decode(json.loads(raw)["body"]))
    return found


def execute(session: Session, task: str, args: Sequence[Any]) -> None:
    """Do what a worker does with a message; in a process of its own, as there."""
    # Not while the thread that publishes has a lock, such as that of a module which it imports.
    session.later.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            app = apps.make_app(session.settings)
            tasks.register(app, session.settings)
            app.tasks[task].apply(tuple(args), throw=True)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0

"""Celery's remote control of a worker, by hand: drain, resume, stop, and how many lanes at a time.

``celery control`` can send them too. Another app's worker in a process of this package's refuses them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.platforms import EX_OK
from celery.worker import state as worker_state
from celery.worker.control import control_command

from egregore_dist.engine import control
from egregore_dist.worker.intake import Intake

log = logging.getLogger(__name__)

Answer = dict[str, Any]

# Each is a process: what is more is a slip of the hand.
_MOST = 1024


def drain(state: Any, **_: Any) -> Answer:
    """Take no more lanes: what runs ends, the rest goes to other workers."""
    _intake(state).hold(control.DRAINED, "by hand, until it is resumed")
    log.warning("drained, by remote control", extra={"action": "drained"})
    return {"ok": "drained"}


def resume(state: Any, **_: Any) -> Answer:
    """Take lanes again."""
    _intake(state).release(control.DRAINED)
    log.warning("resumed, by remote control", extra={"action": "resumed"})
    left = _intake(state).reasons()
    return {"ok": "resumed" if not left else f"resumed, and still: {', '.join(left)}"}


def stop(state: Any, **_: Any) -> Answer:
    """Stop the worker once what runs has ended, as SIGTERM does."""
    _intake(state)
    log.warning("told to stop, by remote control", extra={"action": "told_to_stop"})
    # Not raised: then nobody would hear the answer.
    worker_state.should_stop = EX_OK  # type: ignore[assignment]
    return {"ok": "stopping"}


def concurrency(state: Any, number: Any = None, **_: Any) -> Answer:
    """Run so many lanes at a time from now on; without a number, as the tuner says."""
    _intake(state)
    is_number = isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= _MOST
    if number is not None and not is_number:
        return {
            "error": f"the number of lanes must be a whole number of at least 1 and at most {_MOST}, not {number!r}"
        }
    try:
        state.consumer.controller.egregore_tuner.set(number)
    except ValueError as error:
        return {"error": str(error)}
    log.warning("concurrency set to %s, by remote control", number or "auto", extra={"action": "concurrency_set"})
    return {"ok": str(number or "auto")}


def _intake(state: Any) -> Intake:
    found: Intake | None = getattr(state.consumer.controller, "egregore_intake", None)
    if found is None:
        raise LookupError("this worker serves no workflows of egregore-dist")
    return found


def register() -> None:
    """Have the workers of this process answer these commands."""
    number = {"args": [("number", int)], "signature": "[N]"}
    each: tuple[tuple[str, Callable[..., Answer], dict[str, Any]], ...] = (
        (control.DRAIN, drain, {}),
        (control.RESUME, resume, {}),
        (control.STOP, stop, {}),
        (control.CONCURRENCY, concurrency, number),
    )
    for name, command, options in each:
        control_command(name=name, **options)(command)

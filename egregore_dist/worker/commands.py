"""Remote control of a worker: drain, resume, stop, and how many lanes at a time. Each must be a signed order.

Another app's worker in a process of this package's refuses them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.platforms import EX_OK
from celery.worker import state as worker_state
from celery.worker.control import control_command

from egregore_dist import errors
from egregore_dist.engine import control
from egregore_dist.engine.runtime import signer
from egregore_dist.wire.orders import Orders
from egregore_dist.worker.intake import Intake

log = logging.getLogger(__name__)

Answer = dict[str, Any]

# Each is a process: what is more is a slip of the hand.
_MOST = 1024


def drain(state: Any) -> Answer:
    """Take no more lanes: what runs ends, the rest goes to other workers."""
    _intake(state).hold(control.DRAINED, "by hand, until it is resumed")
    log.warning("drained, by remote control", extra={"action": "drained"})
    return {"ok": "drained"}


def resume(state: Any) -> Answer:
    """Take lanes again."""
    _intake(state).release(control.DRAINED)
    log.warning("resumed, by remote control", extra={"action": "resumed"})
    left = _intake(state).reasons()
    return {"ok": "resumed" if not left else f"resumed, and still: {', '.join(left)}"}


def stop(state: Any) -> Answer:
    """Stop the worker once what runs has ended, as SIGTERM does."""
    log.warning("told to stop, by remote control", extra={"action": "told_to_stop"})
    # Not raised: then nobody would hear the answer.
    worker_state.should_stop = EX_OK  # type: ignore[assignment]
    return {"ok": "stopping"}


def concurrency(state: Any, number: int | None = None) -> Answer:
    """Run so many lanes at a time from now on; without a number, as the tuner says."""
    if number is not None and not 1 <= number <= _MOST:
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
    found: Intake = state.consumer.controller.egregore_intake
    return found


def _ordered(name: str, act: Callable[..., Answer]) -> Callable[..., Answer]:
    def command(state: Any, order: object = None, **_: Any) -> Answer:
        worker = state.consumer.controller
        if not hasattr(worker, "egregore_intake"):
            raise LookupError("this worker serves no workflows of egregore-dist")
        if not hasattr(worker, "egregore_orders"):
            worker.egregore_orders = Orders(signer(state.app.egregore_settings), state.hostname)
        said, now = worker.egregore_heartbeat.said, worker.egregore_heartbeat.now()
        if said is None or now is None:
            return {"error": "it has just started: try again in a moment"}
        try:
            answer: Answer = worker.egregore_orders.take(
                name, order, life=said.life, now=now, act=lambda **arguments: act(state, **arguments)
            )
        except errors.CodeError as error:
            log.warning("refused to %s: %s", name, error, extra={"action": "order_refused"})
            return {"error": str(error)}
        return answer

    command.__doc__ = act.__doc__
    return command


def register() -> None:
    """Have the workers of this process answer these commands."""
    each: tuple[tuple[str, Callable[..., Answer]], ...] = (
        (control.DRAIN, drain),
        (control.RESUME, resume),
        (control.STOP, stop),
        (control.CONCURRENCY, concurrency),
    )
    for name, act in each:
        # Not among what `celery control` offers: it cannot sign.
        control_command(name=name, visible=False)(_ordered(name, act))

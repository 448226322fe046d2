"""The workers of a cluster, and what can be asked of one: to drain, to resume, to stop, to run so many lanes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from egregore_dist import errors
from egregore_dist.engine import broker, control
from egregore_dist.ledger import Ledger
from egregore_dist.resources import report
from egregore_dist.resources.report import Report
from egregore_dist.wire import orders
from egregore_dist.wire.signing import Signer

# Seconds: for a connection, for a worker's answer, and until its report says the same. What is asked for is lost on a
# worker that is just connecting, so it is asked again: it does the same order once.
_CONNECT, _ANSWER, _REPORTED = 3, 1.0, 3.0
_TIMES = 5
_LOOK_EVERY = 0.05
_NAMED = 10


class Workers:
    """The workers of one cluster: ``connect(...).workers``.

    What is asked of a worker it hears through the broker, as Celery's remote control, and answers. It holds until the
    worker is asked for something else, or started anew. Methods raise `errors.BrokerUnavailable` where the ledger or
    the broker cannot be reached, or the worker does not answer, and `errors.ConfigurationError` where the two have not
    the same secret, or the broker refuses a login or a right.

    Args:
        signer: signs what is asked.
        ttl: seconds after which a silent worker counts as gone.
    """

    def __init__(self, ledger: Ledger, app: Celery, signer: Signer, *, ttl: float) -> None:
        self._ledger = ledger
        self._app = app
        self._signer = signer
        self._ttl = ttl

    def list(self) -> list[Report]:
        """The live workers, by name."""
        found = report.read(self._ledger.reports().values(), now=self._ledger.now(), ttl=self._ttl)
        return sorted(found, key=lambda said: said.worker)

    def find(self, name: str) -> Report:
        """A live worker by its name, or by the part before the ``@`` where no other has the same.

        Raises:
            errors.WorkerNotFound: there is none, or more than one; it names those that are alive.
        """
        living = self.list()
        found = [said for said in living if said.worker == name]
        found = found or [said for said in living if said.worker.partition("@")[0] == name]
        if len(found) == 1:
            return found[0]
        names = ", ".join(said.worker for said in (found or living)[:_NAMED]) or "none"
        if found:
            raise errors.WorkerNotFound(f"{len(found)} workers are called {name!r}: give one's whole name: {names}")
        raise errors.WorkerNotFound(f"no live worker is called {name!r}; alive: {names}")

    def drain(self, name: str) -> Report:
        """Have a worker take no more lanes: what runs ends, what waits goes to other workers."""
        return self._ask(name, control.DRAIN, until=lambda said: control.DRAINED in said.holds)

    def resume(self, name: str) -> Report:
        """Have a worker that is drained take lanes again. It may still hold back, for want of memory."""
        return self._ask(name, control.RESUME, until=lambda said: control.DRAINED not in said.holds)

    def stop(self, name: str) -> Report:
        """Have a worker stop once what runs has ended, as SIGTERM does. Whoever looks after it may start it anew."""
        return self._ask(name, control.STOP, until=lambda said: control.STOPPING in said.holds)

    def concurrency(self, name: str, number: int | None) -> Report:
        """Set how many lanes a worker runs at a time; None leaves it to the worker's tuner.

        Raises:
            errors.ConfigurationError: it cannot; it says why.
        """
        by = "tuner" if number is None else "hand"
        return self._ask(
            name,
            control.CONCURRENCY,
            until=lambda said: said.concurrency_by == by and number in (None, said.slots),
            number=number,
        )

    def _ask(self, name: str, command: str, *, until: Callable[[Report], bool], **arguments: Any) -> Report:
        found = self.find(name)
        given = {key: each for key, each in arguments.items() if each is not None}
        at = self._ledger.now()
        order = orders.give(self._signer, command, given, worker=found.worker, life=found.life, at=at)
        answer = self._send(found.worker, command, {"order": order})
        if "error" in answer:
            raise errors.ConfigurationError(f"worker {found.worker}: {answer['error']}")
        return self._reported(found, until)

    def _send(self, worker: str, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        with self._app.connection_for_write(connect_timeout=_CONNECT) as connection:
            lost: Any = (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)
            try:
                connection.ensure_connection(max_retries=1, timeout=_CONNECT)
                for _ in range(_TIMES):
                    answers = self._app.control.broadcast(
                        command,
                        arguments=arguments,
                        destination=[worker],
                        connection=connection,
                        reply=True,
                        timeout=_ANSWER,
                        limit=1,
                    )
                    for answer in answers or ():
                        if worker in answer:
                            found: dict[str, Any] = answer[worker]
                            return found
            except lost as error:
                reason = broker.lasting(error)
                if reason is not None:
                    raise errors.ConfigurationError(f"the broker refuses this: {reason}") from error
                raise errors.BrokerUnavailable(f"the broker cannot be reached: {type(error).__name__}") from error
        raise errors.BrokerUnavailable(
            f"worker {worker} did not answer within {_TIMES * _ANSWER:g} s: it has no connection to the broker now, or "
            "runs an older release; try again"
        )

    def _reported(self, found: Report, until: Callable[[Report], bool]) -> Report:
        # So that who looks next sees it.
        limit = time.monotonic() + _REPORTED
        said: Report | None = found
        while said is not None and not until(said) and time.monotonic() < limit:
            time.sleep(_LOOK_EVERY)
            said = next((each for each in self.list() if each.worker == found.worker), None)
        return said or found

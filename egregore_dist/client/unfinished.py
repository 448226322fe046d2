"""Runs that have not ended when the cluster of a program does: they are waited for, or named."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from egregore_dist import errors
from egregore_dist.client import why
from egregore_dist.ledger import RunRecord

if TYPE_CHECKING:
    from egregore_dist.client.session import Session

# Seconds of one wait, and for which a run is seen to wait for what may never come before it is left.
_WAIT, _PATIENCE = 0.5, 5.0
# A retry that is further away, in seconds, is not waited for.
_FAR = 60.0
# What a cluster that nobody changes any more does not get.
_NEVER = frozenset(("paused", "workers", "queue", "held", "size", "labels", "module"))
# Runs that are looked at in one round, and that a message names.
_LOOKED_AT, _NAMED = 20, 5

_CURES = (
    "To keep a run, wait for it with run.result(), use LocalCluster(data_dir=...), whose runs go on when it is started "
    "again, or set EGREGORE_BROKER_URL to a cluster that stays"
)


def wait(session: Session, left: Iterable[str]) -> list[str]:
    """Wait for the runs of a cluster that ends with this program, and say so on standard error.

    It does not wait after an uncaught exception, nor at the end of an interactive program, nor for runs of which nobody
    can know how long they take. It names the runs that it leaves.

    Args:
        left: runs that the user did not want to wait for.

    Returns:
        The runs that have not ended.

    Raises:
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    waiter = _Waiter(session, left)
    runs = waiter.wanted()
    if not runs:
        return []
    if _is_over():
        tell_lost(runs, {})
        return []
    with suppress(KeyboardInterrupt):
        _say(
            f"waiting for {_named(runs)}, which this program has submitted and not waited for: its cluster ends with "
            "the program. Press Ctrl-C to end now"
        )
        waiter.wait(runs)
    runs = session.ledger.records([run.id for run in waiter.unfinished()])
    tell_lost(runs, waiter.hopeless)
    return [run.id for run in runs]


def tell_lost(runs: Sequence[RunRecord], reasons: Mapping[str, str]) -> None:
    """Name runs that end with their cluster, with why some of them wait."""
    if runs:
        because = "".join(f"\n  run {run}: {reason}" for run, reason in list(reasons.items())[:_NAMED])
        _say(f"the cluster ends before {_named(runs)}, and what has not ended is lost. {_CURES}{because}")


def tell_kept(runs: Sequence[RunRecord], data_dir: object) -> None:
    """Name runs that go on when their cluster is started again."""
    if runs:
        _say(
            f"the cluster ends before {_named(runs)}. LocalCluster(data_dir={str(data_dir)!r}) starts it again "
            "and goes on with what has not ended; Run(id) is the handle of a run there"
        )


class _Waiter:
    """Waits for runs until each has ended, or is seen to have no prospect of it."""

    def __init__(self, session: Session, left: Iterable[str]) -> None:
        self._session = session
        self._left = frozenset(left)
        self._seen: dict[str, tuple[str, float]] = {}
        #: Why runs are not waited for any more, by id.
        self.hopeless: dict[str, str] = {}

    def unfinished(self) -> list[RunRecord]:
        return [run for run in self._session.ledger.unfinished() if run.id not in self._left]

    def wanted(self) -> list[RunRecord]:
        return [run for run in self.unfinished() if run.id not in self.hopeless]

    def wait(self, runs: Sequence[RunRecord]) -> None:
        """Wait for these, and for what they submit; tell how those that do not succeed have ended."""
        while runs:
            self._session.ledger.wait(runs[0].id, _WAIT)
            still = self.wanted()
            ids = {run.id for run in still}
            self._tell_failed([run.id for run in runs if run.id not in ids and run.id not in self.hopeless])
            for run in still[:_LOOKED_AT]:
                self._look(run.id)
            runs = [run for run in still if run.id not in self.hopeless]

    def _look(self, run: str) -> None:
        from egregore_dist.client import waiting

        with suppress(errors.RunNotFound):
            found = waiting.of_run(self._session.ledger, self._session.settings, run)
            reason = next((str(reason) for reason in found if _has_no_prospect(reason)), None)
            if reason is None:
                self._seen.pop(run, None)
                return
            _, since = self._seen.setdefault(run, (reason, time.monotonic()))
            if time.monotonic() - since >= _PATIENCE:
                self.hopeless[run] = reason

    def _tell_failed(self, ended: Sequence[str]) -> None:
        from egregore_dist.client.run import Run

        for record in self._session.ledger.records(ended):
            if record.state != "succeeded":
                try:
                    Run(record.id, of=self._session).result(timeout=_WAIT, progress=False)
                except (errors.EgregoreError, TimeoutError) as error:
                    _say(f"run {record.id} has {record.state}: {error}")


def _has_no_prospect(reason: why.Reason) -> bool:
    return reason.kind in _NEVER or (reason.kind == "retry" and reason.numbers.get("seconds", 0.0) > _FAR)


def _is_over() -> bool:
    """Whether this program ends by an error, or is one whose user has left."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive) or getattr(sys, "last_value", None) is not None


def _named(runs: Sequence[RunRecord]) -> str:
    if len(runs) == 1:
        return f"run {runs[0].id} of workflow {runs[0].workflow!r}"
    more = f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else ""
    return f"{len(runs)} runs ({', '.join(run.id for run in runs[:_NAMED])}{more})"


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"egregore-dist: {text}\n")
        sys.stderr.flush()

"""The workflow of a run, as it is stored with the run."""

from __future__ import annotations

import msgspec

from egregore_dist import errors
from egregore_dist.ledger import Ledger
from egregore_dist.workflow import spec


def workflow(ledger: Ledger, run: str) -> spec.WorkflowSpec:
    """Read it.

    Raises:
        errors.RunNotFound: there is no such run.
        errors.UnreadableWorkflow: another release has submitted it.
        errors.BrokerUnavailable: the ledger cannot be reached.
    """
    try:
        return spec.decode(ledger.work(run).spec)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise errors.UnreadableWorkflow(
            f"run {run}: its workflow cannot be read here: another release of egregore-dist has submitted it. "
            "Ask with that release."
        ) from None

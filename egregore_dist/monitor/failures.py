"""Why a branch failed, followed down to the node that did it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from egregore_dist import errors
from egregore_dist.ledger import Ledger, browse
from egregore_dist.ledger.keys import ROOT
from egregore_dist.wire import failure
from egregore_dist.wire.failure import Failure

# Blocks nested in each other that are followed.
_DEEPEST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a branch failed.

    Attributes:
        block: the block where it did.
        name: of that block, where none of its branches failed.
        branch: that block's branch.
        state: how the block ended, where no branch of it failed: "timeout" or "cancelled".
        failure: what the branch said, where one did.
    """

    block: str
    branch: int | None
    state: str
    failure: Failure | None
    name: str = ""


class _Link(msgspec.Struct):
    # What the ledger writes for a branch that failed with the block that it met.
    block: str | None = None


def of_run(ledger: Ledger, run: str) -> Why | None:
    """Why a run failed, or None where the ledger does not say."""
    return of_branch(ledger, run, ROOT, 0)


def of_branch(ledger: Ledger, run: str, block: str, branch: int) -> Why | None:
    """Why a branch failed, or None where it has not."""
    for _ in range(_DEEPEST):
        raw = browse.stored(ledger, run, "e", block, branch)
        if raw is None:
            return None
        try:
            inner = msgspec.msgpack.decode(raw, type=_Link).block
            if inner is None:
                return Why(block=block, branch=branch, state="error", failure=failure.decode(raw))
        except (msgspec.MsgspecError, errors.EncodingError):
            return Why(block=block, branch=branch, state="error", failure=None)
        record = ledger.block(run, inner)
        if record is None:
            return None
        if record.state in ("timeout", "cancelled") or record.failed is None:
            return Why(block=inner, branch=None, state=record.state, failure=None, name=record.name)
        block, branch = inner, record.failed
    return None

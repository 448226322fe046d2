"""How far a run is, and how long its outermost block goes on if it goes on as it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from egregore_dist.ledger import RunRecord
from egregore_dist.ledger.browse import BlockGlance
from egregore_dist.ledger.keys import ROOT

# Branches that have to have ended before the others are thought to take as long.
_ENDED_AT_LEAST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        n: branches of the blocks that it has opened so far.
        done: how many of them have ended.
        failed: how many of them have failed.
        block: the name of the outermost block that it is at, or "".
        left: seconds until that block has ended, at its pace so far; None where that is not known.
    """

    n: int
    done: int
    failed: int
    block: str = ""
    left: float | None = None


def of(record: RunRecord, blocks: Sequence[BlockGlance], now: float) -> Progress:
    """How far a run is, from its blocks and the server's time in seconds."""
    at = max((block for block in blocks if _is_outermost(block)), key=lambda block: block.opened, default=None)
    return Progress(
        n=sum(block.n for block in blocks),
        done=sum(block.done for block in blocks),
        failed=sum(block.failed for block in blocks),
        block="" if at is None else at.name,
        left=None if at is None or record.state != "running" else _left(at, now),
    )


def _is_outermost(block: BlockGlance) -> bool:
    return block.parent == ROOT and block.state == "open"


def _left(block: BlockGlance, now: float) -> float | None:
    # What ended before a retry tells nothing of how fast it goes on since.
    if block.done < _ENDED_AT_LEAST or block.reopened is not None:
        return None
    return (block.n - block.done) * max(0.0, now - block.opened / 1000) / block.done

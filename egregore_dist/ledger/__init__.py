"""The record of runs and blocks, changed only by atomic transitions."""

from egregore_dist.ledger.ledger import Ledger
from egregore_dist.ledger.records import (
    ENDED,
    Accepted,
    Aside,
    BlockRecord,
    Commit,
    Entered,
    Lease,
    Message,
    NewBlock,
    Presence,
    Resumed,
    RunRecord,
    Served,
    Track,
    Work,
)

__all__ = [
    "ENDED",
    "Accepted",
    "BlockRecord",
    "Aside",
    "Commit",
    "Entered",
    "Lease",
    "Ledger",
    "Message",
    "NewBlock",
    "Presence",
    "Resumed",
    "RunRecord",
    "Served",
    "Track",
    "Work",
]

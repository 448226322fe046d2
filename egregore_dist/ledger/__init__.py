"""The record of runs and blocks, changed only by atomic transitions."""

from egregore_dist.ledger.ledger import Ledger
from egregore_dist.ledger.records import (
    ENDED,
    LEAVE,
    Accepted,
    Aside,
    BlockRecord,
    Commit,
    Entered,
    Lease,
    Loss,
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
    "LEAVE",
    "Accepted",
    "Aside",
    "BlockRecord",
    "Commit",
    "Entered",
    "Lease",
    "Ledger",
    "Loss",
    "Message",
    "NewBlock",
    "Presence",
    "Resumed",
    "RunRecord",
    "Served",
    "Track",
    "Work",
]

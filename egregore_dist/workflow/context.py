"""What a node may know about its own execution."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where a node runs; given to every parameter that is annotated ``Context``.

    Attributes:
        run: the id of the run.
        workflow: the name of the workflow.
        block: the name of the block, or None outside of one.
        branch: the name of the branch, or its key or index in a map; None outside of a block.
        node: the name of the node.
        attempt: which attempt this is, from 1. It counts the node's own retries, and before them the processes that the
            branch has lost; ``run.retry()`` begins at 1 again. The retries before a lost process are not counted: a
            number can come twice.
        block_id: the ledger's id of the block: inside a map, blocks of one name run many times.
        path: the node's place in the workflow: one node may stand in it more than once.
    """

    run: str
    workflow: str
    block: str | None
    branch: str | int | None
    node: str
    attempt: int
    block_id: str | None = None
    path: tuple[int, ...] = ()

    @property
    def idempotency_key(self) -> str:
        """32 hex digits that name this call of the node: the same in every attempt of it, and no other call's.

        After a failure, after its process died, and after ``run.retry()`` it is the same. It differs between runs,
        unless one has the id of another that was deleted, and within a run between nodes, branches, items of maps, and
        places in the workflow. Hand it to services that take such a key, or keep it beside what was done: a node can
        run more than once, though its result counts once.
        """
        # repr, because branch 1 and branch "1" differ, and a branch may hold any separator.
        identity = repr((self.run, self.block, self.block_id, self.branch, self.node, self.path))
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

"""Blocks as people look at them, made without a ledger."""

from __future__ import annotations

from typing import Any

from egregore_dist.ledger.browse import BlockGlance


def block(path: tuple[int, ...], **fields: Any) -> BlockGlance:
    """A block that the run's one branch has met at a path; what is not given is that of an open one without a limit."""
    id = f"0.0-{','.join(map(str, path))}"
    usual: dict[str, Any] = {"id": id, "name": "block", "state": "open", "n": 1, "done": 0, "failed": 0, "running": 0}
    usual |= {"limit": 0, "timeout": None, "deadline": None, "parent": "0", "branch": 0, "input": id}
    return BlockGlance(path=path, **{**usual, "opened": 1000, "ended": None, **fields})

"""Whether this code is called by a node, and which."""

from __future__ import annotations

from contextvars import ContextVar

from egregore_dist.workflow.context import Context

#: What a node knows of where it runs, and the position of its branch.
Here = tuple[Context, int]

current: ContextVar[Here | None] = ContextVar("egregore_node", default=None)


def node() -> str | None:
    """The name of the node that this code is called by, or None."""
    here = current.get()
    return None if here is None else here[0].node

"""Whether this code is called by a node, and which."""

from __future__ import annotations

from contextvars import ContextVar

current: ContextVar[str | None] = ContextVar("egregore_node", default=None)

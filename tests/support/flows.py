"""A small workflow for tests whose subject is the server, not the workflow."""

from __future__ import annotations

from egregore_dist import node, parallel


@node
def doubled(number: int) -> int:
    return 2 * number


@node
def negated(number: int) -> int:
    return -number


FLOW = parallel(doubled, negated)

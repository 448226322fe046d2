"""Nodes of a module that a worker is told to load."""

from egregore_dist import node


@node
def double(number: int) -> int:
    return 2 * number


@node
def square(number: int) -> int:
    return number * number

"""Chains: the functions that a branch executes one after the other, with the choices on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """One of several chains is executed, as the decision before it says."""

    chains: tuple[Chain[T], ...]


#: Functions by their index in a workflow, or by the reference of their code.
Chain: TypeAlias = tuple[T | Choice[T], ...]


def functions(chain: Chain[T]) -> Iterator[T]:
    """All functions in a chain, those of each choice too."""
    for link in chain:
        if isinstance(link, Choice):
            for each in link.chains:
                yield from functions(each)
        else:
            yield link


def named(chain: Chain[int], names: Sequence[str]) -> Chain[str]:
    """The same chain, with the functions of a workflow by their names."""
    return tuple(
        Choice(tuple(named(each, names) for each in link.chains)) if isinstance(link, Choice) else names[link]
        for link in chain
    )

"""What is measured in which round: first what the figures to reach are made of, side by side, and then all else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.peers.cases import Case
from bench.peers.peers import OURS, Peer
from bench.peers.targets import LINES


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A stretch of time whose values may be held against each other.

    Attributes:
        number: of it; no other round has the same one.
        title: what it is for.
        turns: what is measured, in this order: peers, each with its cases.
        is_brief: whether peers that are slow are measured once, without warming.
    """

    number: int
    title: str
    turns: tuple[tuple[Peer, tuple[Case, ...]], ...]
    is_brief: bool = False


Wanted = Callable[[Case], bool]


def figures(
    known: dict[str, Peer], every: Sequence[Case], wanted: Wanted, *, times: int, first: int = 1
) -> Iterator[Round]:
    """The rounds that the figures to reach need: this package and one peer right after each other, in turn the first.

    Args:
        known: the peers that can be measured, by name.
        every: all cases.
        wanted: whether a case is to be measured.
        times: how often each pair is.
        first: the number of the first round.
    """
    number = first
    for time in range(1, times + 1):
        for other, names in _pairs().items():
            turns = [
                (known[name], tuple(case for case in every if case.name in cases and wanted(case)))
                for name, cases in names.items()
                if name in known
            ]
            turns = [(peer, cases) for peer, cases in turns if cases]
            if not turns:
                continue
            if time % 2 == 0:
                turns.reverse()
            against = f"{OURS} beside {other}" if other else f"{OURS} alone"
            yield Round(number=number, title=f"figures to reach, {time} of {times}: {against}", turns=tuple(turns))
            number += 1


def wide(
    known: dict[str, Peer], every: Sequence[Case], wanted: Wanted, *, times: int, first: int = 1
) -> Iterator[Round]:
    """The rounds of all that the figures to reach do not need, slow peers last.

    Args:
        known: the peers that can be measured, by name.
        every: all cases.
        wanted: whether a case is to be measured.
        times: how often.
        first: the number of the first round.
    """
    done = needed()
    for time in range(times):
        turns = [
            (peer, tuple(case for case in every if wanted(case) and (case.name, name) not in done))
            for name, peer in sorted(known.items(), key=lambda item: item[1].seldom)
        ]
        turns = [(peer, cases) for peer, cases in turns if cases]
        if turns:
            title = f"all else, {time + 1} of {times}"
            yield Round(number=first + time, title=title, turns=tuple(turns), is_brief=True)


def needed() -> set[tuple[str, str]]:
    """The cases that the figures to reach are made of, each with its peer."""
    return {need for line in LINES for need in line.needs}


def _pairs() -> dict[str, dict[str, set[str]]]:
    """By the peer that this package is held against, or "": the cases of both sides."""
    found: dict[str, dict[str, set[str]]] = {}
    for line in sorted(LINES, key=lambda line: line.peer is None):
        sides = found.setdefault(line.peer or "", {})
        for case, peer in sorted(line.needs, key=lambda need: need[1] != OURS):
            sides.setdefault(peer, set()).add(case)
    return found

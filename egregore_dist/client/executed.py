"""Which nodes the executions of branches called, as far as a run's events tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

from egregore_dist.client.timeline import Attempt, Timeline, hangs_on
from egregore_dist.engine.interpret import branch_path
from egregore_dist.ledger.browse import path_in
from egregore_dist.ledger.keys import ROOT
from egregore_dist.workflow import spec


@dataclass(frozen=True, slots=True)
class _Stop:
    """What a branch comes to: a node that it calls, a block that it meets, or a choice of which no event tells."""

    kind: Literal["node", "block", "choice"]
    path: spec.Path
    name: str = ""


@dataclass(frozen=True, slots=True)
class Calls:
    """Executions that called one node.

    Attributes:
        whole: those that were nothing but that, so that their times are the node's.
        others: how the node ended in those that called others too, as `Attempt.how` says it.
    """

    whole: list[Attempt] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


class Ways:
    """What the branches of a run come to, in their order."""

    def __init__(self, timeline: Timeline, root: spec.StepSpec) -> None:
        self._root = root
        self._met: dict[tuple[str, int], list[spec.Path]] = {}
        for block in timeline.blocks:
            self._met.setdefault(hangs_on(block), []).append(path_in(block))
        self._ways: dict[tuple[spec.Path, tuple[spec.Path, ...]], Sequence[_Stop]] = {}

    def of(self, place: tuple[str, int]) -> Sequence[_Stop] | None:
        """What a branch comes to; None where another release wrote the workflow."""
        top, blocks = _top(self._root, *place), tuple(self._met.get(place, ()))
        if top is None:
            return None
        if (top, blocks) not in self._ways:
            self._ways[top, blocks] = list(_way(self._root, top, blocks))
        return self._ways[top, blocks]

    def between(self, place: tuple[str, int], after: str, until: str) -> tuple[str, ...] | None:
        """The nodes that a branch comes to behind a block, or "", and before another, or ""; None as above.

        What a decision chose, where that is not known, is "…".
        """
        way = self.of(place)
        if way is None:
            return None
        reached = _behind(way, until) - 1 if until else len(way)
        begun = _behind(way, after)
        if reached < begun:
            return None
        return tuple(stop.name or "…" for stop in way[begun:reached] if stop.kind != "block")


def by_node(timeline: Timeline, root: spec.StepSpec) -> dict[str, Calls]:
    """Each execution that is known to have called a node, by the node's name.

    Not known is what goes on or ended badly somewhere among several nodes, where no event says at which; and which step
    a decision chose, unless that has met a block: the nodes of its choices are missing then.
    """
    ways = Ways(timeline, root)
    found: dict[str, Calls] = {}
    for place, all_of in timeline.attempts.items():
        attempts = [attempt for attempt in all_of if attempt.cut is None]
        way = ways.of(place)
        if way is None:
            continue
        if len(way) == 1 and way[0].kind == "node":
            found.setdefault(way[0].name, Calls()).whole.extend(attempts)
            continue
        for attempt in attempts:
            for name, how in _called(way, attempt):
                found.setdefault(name, Calls()).others[how] += 1
    return found


def _top(root: spec.StepSpec, block: str, branch: int) -> spec.Path | None:
    """The path of a branch, or None where another release wrote the workflow."""
    try:
        path = path_in(block)
        top = () if block == ROOT else branch_path(spec.step_at(root, path), path, branch)
        spec.step_at(root, top)
    except IndexError:
        return None
    return top


def _way(root: spec.StepSpec, path: spec.Path, met: Collection[spec.Path]) -> Iterator[_Stop]:
    """What a branch that has met these blocks comes to, from a step on."""
    step = spec.step_at(root, path)
    match step:
        case spec.SequenceSpec():
            for position in range(len(step.steps)):
                yield from _way(root, (*path, position), met)
        case spec.DecisionSpec():
            yield _Stop("node", path, step.node.name)
            ways = [(*path, choice) for choice in range(len(step.steps))]
            chosen = [way for way in ways if len(ways) == 1 or any(block[: len(way)] == way for block in met)]
            if chosen:
                yield from _way(root, chosen[0], met)
            else:
                yield _Stop("choice", path)
        case spec.NodeSpec() if path not in met:
            yield _Stop("node", path, step.name)
        case _:
            # A node that has needs of its own, or a limit, is met as a block, whose branch is the one that called it.
            yield _Stop("block", path)


def _called(way: Sequence[_Stop], attempt: Attempt) -> Iterator[tuple[str, str]]:
    """The nodes that an execution called, each with how it ended."""
    begun = _behind(way, attempt.behind)
    again = (
        number for number, stop in enumerate(way) if number >= begun and (stop.kind, stop.name) == ("node", attempt.at)
    )
    begun = next(again, begun)
    reached = len(way) if attempt.how == "ok" else max(begun, _behind(way, attempt.met))
    yield from ((stop.name, "ok") for stop in way[begun:reached] if stop.kind == "node")
    if attempt.how == "ok" or attempt.within:
        return
    following = [stop.name for stop in takewhile(lambda stop: stop.kind == "node", way[reached:])]
    is_choice = any(stop.kind == "choice" for stop in way[reached + len(following) :][:1])
    at = attempt.node or (following[0] if len(following) == 1 and not is_choice else "")
    if at:
        before = following[: following.index(at)] if at in following else following
        yield from ((name, "ok") for name in before)
        yield at, attempt.how


def _behind(way: Sequence[_Stop], block: str) -> int:
    """How many stops there are up to a block, with it."""
    if not block:
        return 0
    path = path_in(block)
    return next((number for number, stop in enumerate(way, 1) if (stop.kind, stop.path) == ("block", path)), 0)

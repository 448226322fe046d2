"""How far the blocks of a run are: those of one place in the workflow taken together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from egregore_dist.ledger.browse import BlockGlance, Blocks, path_in
from egregore_dist.ledger.keys import ROOT

Path = tuple[int, ...]

#: Seconds of which a rate is, where something has ended in them.
WINDOW = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The blocks at one place of the workflow.

    Attributes:
        path: the place.
        name: of the blocks.
        blocks: how many there are; the other numbers are of those that were read.
        open: how many have not ended.
        state: "open" while one is; else how they ended: "ok", or as the first one that did not end well.
        n: branches.
        done: branches that have ended.
        failed: branches that have failed.
        running: branches that are executed, or wait for a block that they met.
        opened: when the first was, in seconds.
        ended: when the last one did; None while one is open.
        inside: those that are nested in them.
    """

    path: Path
    name: str
    blocks: int
    open: int
    state: str
    n: int
    done: int
    failed: int
    running: int
    opened: float
    ended: float | None
    inside: tuple[Level, ...]


def levels(blocks: Blocks) -> tuple[Level, ...]:
    """The outermost levels of a run, in the order of the workflow."""
    by_path: dict[Path, list[BlockGlance]] = {}
    inside: dict[Path | None, set[Path]] = {}
    for block in blocks.shown:
        by_path.setdefault(block.path, []).append(block)
        parent = block.id.rpartition(".")[0]
        # A block that is the whole workflow has the path of the run itself.
        inside.setdefault(None if parent == ROOT else path_in(parent), set()).add(block.path)

    def below(path: Path | None) -> tuple[Level, ...]:
        return tuple(
            _level(by_path[each], blocks.counts.get(each, 0), blocks.open.get(each, 0), below(each))
            for each in sorted(inside.get(path, ()))
        )

    return below(None)


def every(found: Iterable[Level]) -> Iterator[Level]:
    """These levels, and all inside of them."""
    for level in found:
        yield level
        yield from every(level.inside)


class Pace:
    """How fast branches end, told from looking again and again."""

    def __init__(self) -> None:
        self._seen: dict[Path, deque[tuple[float, int]]] = {}

    def look(self, now: float, found: Iterable[Level]) -> None:
        """Take in how far a run is. ``now`` is the server's time, in seconds."""
        for level in every(found):
            seen = self._seen.setdefault(level.path, deque())
            if seen and level.done < seen[-1][1]:
                # A retry takes back what had failed.
                seen.clear()
            seen.append((now, level.done))
            while now - seen[0][0] > WINDOW:
                seen.popleft()

    def rate(self, level: Level) -> float | None:
        """Branches of an open level that end in a second, lately or else since it was opened; None before the first."""
        seen = self._seen.get(level.path)
        if level.state != "open" or not seen:
            return None
        (begin, before), (now, done) = seen[0], seen[-1]
        if done > before:
            return (done - before) / max(0.001, now - begin)
        return done / max(0.001, now - level.opened) if done else None

    def left(self, level: Level) -> float | None:
        """In about how many seconds an open level will be done, at its rate; None where that cannot be told."""
        rate = self.rate(level)
        return None if rate is None else (level.n - level.done) / rate


def _level(blocks: Sequence[BlockGlance], count: int, open: int, inside: tuple[Level, ...]) -> Level:
    bad = [block.state for block in blocks if block.state not in ("open", "ok")]
    ended = [block.ended for block in blocks if block.ended is not None]
    return Level(
        path=blocks[0].path,
        name=blocks[0].name,
        blocks=count,
        open=open,
        state="open" if open else bad[0] if bad else "ok",
        n=sum(block.n for block in blocks),
        done=sum(block.done for block in blocks),
        failed=sum(block.failed for block in blocks),
        running=sum(block.running for block in blocks if block.state == "open"),
        opened=min(block.opened for block in blocks) / 1000,
        ended=None if open or not ended else max(ended) / 1000,
        inside=inside,
    )

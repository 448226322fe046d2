"""What the nodes of a run logged and printed, as a client reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from egregore_dist import errors
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.logs import Entry, Line
from egregore_dist.settings import level_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a node printed, or one record that it logged.

    Attributes:
        cursor: its place in the run's stream.
        time: when it was said, in seconds since the epoch on the server's clock.
        worker: the worker that the node ran on.
        block: the id of the block, or None where the node is in none.
        block_name: its name, or None.
        branch: the position of the branch, or None where the node is in no block.
        branch_name: its name, or its key or index in a map, as text; or None.
        attempt: which attempt of the branch said it, from 1: also one whose branch was taken away from it.
        node: the name of the node.
        source: the name of the logger; ``stdout`` or ``stderr`` of what was printed.
        level: as `logging` names it; ``INFO`` of what was printed to stdout, ``WARNING`` to stderr.
        text: what was said, without the end of its line; one that was long has lost its middle.
        dropped: lines of this branch, just before this one, that are not kept.
    """

    cursor: str
    time: float
    worker: str
    block: str | None
    block_name: str | None
    branch: int | None
    branch_name: str | None
    attempt: int
    node: str
    source: str
    level: str
    text: str
    dropped: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are wanted: those that are all of this.

    Attributes:
        block: the id or the name of the block.
        branch: its position, or its name.
        node: the name of the node.
        level: the least level.
    """

    block: str | None = None
    branch: int | str | None = None
    node: str | None = None
    level: int = 0

    @classmethod
    def of(
        cls, block: str | None = None, branch: int | str | None = None, node: str | None = None, level: object = None
    ) -> Wanted:
        """What somebody asked for. Raises `errors.ConfigurationError` where there is no such level."""
        try:
            least = level_of(str(level)) if level is not None else 0
        except ValueError as error:
            raise errors.ConfigurationError(str(error)) from None
        if least is None:
            raise errors.ConfigurationError("no line has the level OFF")
        return cls(block, branch, node, least)

    def holds(self, line: Line) -> bool:
        """Whether a line is wanted."""
        if line.level < self.level or self.node not in (None, line.node):
            return False
        if self.block is not None and self.block != line.block and self.block != (line.block_name or None):
            return False
        if self.branch is None:
            return True
        if isinstance(self.branch, str):
            return self.branch == (line.branch_name or None)
        # The whole run is a block of one branch only to those who ask for that block.
        return self.branch == line.branch and (line.block != ROOT or self.block == ROOT)


def branch_of(text: str | None) -> int | str | None:
    """A branch as somebody writes it: its position, or its name."""
    if not text:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


class Reading:
    """Makes lines of what is read of a run, in its order.

    Args:
        is_all: it is read from the beginning on, so that what is missing before the first line of a branch is missing.
    """

    def __init__(self, wanted: Wanted, *, is_all: bool) -> None:
        self._wanted = wanted
        self._is_all = is_all
        self._last: dict[tuple[str, str, int], int] = {}
        self._dropped: dict[tuple[str, str, int], int] = {}

    def take(self, entries: Iterable[Entry]) -> Iterator[LogLine]:
        """The lines that are wanted."""
        for entry in entries:
            line = entry.line
            key = (entry.writer, line.block, line.branch)
            before = self._last.get(key, 0 if self._is_all else line.number - 1)
            dropped = max(0, line.number - before - 1) + self._dropped.pop(key, 0)
            self._last[key] = line.number
            if self._wanted.holds(line):
                yield _line(entry, dropped)
            elif dropped:
                # Told with the next line of the branch that is shown.
                self._dropped[key] = dropped


def _line(entry: Entry, dropped: int) -> LogLine:
    line = entry.line
    is_in_block = line.block != ROOT
    return LogLine(
        cursor=entry.cursor,
        time=entry.time,
        worker=entry.writer.rsplit("/", 2)[0],
        block=line.block if is_in_block else None,
        block_name=line.block_name if is_in_block else None,
        branch=line.branch if is_in_block else None,
        branch_name=line.branch_name if is_in_block else None,
        attempt=line.attempt,
        node=line.node,
        source=line.source,
        level=logging.getLevelName(line.level),
        text=line.text,
        dropped=dropped,
    )

"""A progress bar for who waits at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from egregore_dist.client.events import Event
from egregore_dist.ledger import Ledger

# Seconds between two looks at the ledger: one call each, which brings only what is new.
_EVERY = 0.1
_MOST_BARS = 8
_NESTED = "nested"


class Updater:
    """Called now and then while a run goes on; ``interval`` is how long to wait between, in seconds."""

    interval = 1.0

    def __call__(self) -> None:
        """Show what changed."""


@dataclass(slots=True)
class Tally:
    """How far the blocks are that share a bar."""

    label: str
    n: int = 0
    done: int = 0


@dataclass(slots=True)
class Count:
    """Counts branches by the run's events: a bar for each of the outermost blocks, one for all that are nested in them.

    Attributes:
        bars: the tallies by the bar's key: a block's id, or ``"nested"``.
        started: whether the run has started.
    """

    bars: dict[str, Tally] = field(default_factory=dict)
    started: bool = False
    _parents: dict[str, str] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take one event in."""
        match event.type:
            case "run.started":
                self.started = True
            case "block.opened" if event.block is not None:
                self._open(event.block, event.detail.get("name", ""), int(event.detail.get("n", 0)))
            case "branches.ended" if event.block in self._left:
                self._end(event.block, len(event.branches) + len(event.failed))
            case "block.ended" if event.block in self._left:
                # What ended with the block has no events of its own; a bar that stands at its end is done.
                self._end(event.block, self._left[event.block])
                parent = _parent(event.block)
                if event.detail.get("state") in ("error", "timeout") and parent in self._left:
                    self._end(parent, 1)

    def _open(self, block: str, name: str, n: int) -> None:
        if block in self._left:
            return
        key = block if _parent(block) == _ROOT and len(self.bars) < _MOST_BARS else _NESTED
        tally = self.bars.setdefault(key, Tally(name))
        if tally.label != name:
            tally.label = "nested blocks"
        tally.n += n
        self._parents[block] = key
        self._left[block] = n

    def _end(self, block: str, branches: int) -> None:
        branches = min(branches, self._left[block])
        self._left[block] -= branches
        self.bars[self._parents[block]].done += branches


class Bars(Updater):
    """The bars of one run."""

    interval = _EVERY

    def __init__(self, ledger: Ledger, run: str, progress: Progress) -> None:
        self._ledger = ledger
        self._run = run
        self._progress = progress
        self._cursor = "0"
        self._count = Count()
        self._waiting: TaskID | None = progress.add_task("waiting for a worker", total=None)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self) -> None:
        for cursor, fields in self._ledger.events(self._run, self._cursor, 0):
            self._cursor = cursor
            self._count.add(Event.of(cursor, fields))
        if self._waiting is not None and self._count.started:
            self._progress.update(self._waiting, description="running")
        # Nested blocks stand below those that they are in.
        for key, tally in sorted(self._count.bars.items(), key=lambda entry: entry[0] == _NESTED):
            if self._waiting is not None:
                self._progress.remove_task(self._waiting)
                self._waiting = None
            if key not in self._tasks:
                self._tasks[key] = self._progress.add_task(tally.label, total=tally.n)
            label = f"└ {tally.label}" if key == _NESTED else tally.label
            self._progress.update(self._tasks[key], description=label, total=tally.n, completed=tally.done)


class _Amount(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text()


@contextmanager
def shown(ledger: Ledger, run: str, progress: bool | None) -> Iterator[Updater]:
    """Show a run's progress while the body waits: always, never, or (None) where standard error is a terminal."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield Updater()
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Amount(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    console = Console(stderr=True)
    # Where nothing can be taken back, only the last state is shown.
    with Progress(*columns, console=console, transient=console.is_terminal) as bars:
        updater = Bars(ledger, run, bars)
        yield updater
        updater()


_ROOT = "0"


def _parent(block: str) -> str:
    """The block that this one is nested in: its id is ``<parent>.<branch>-<path>``."""
    return block.rpartition(".")[0]

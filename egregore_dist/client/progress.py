"""A progress bar for who waits at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from egregore_dist.ledger import Ledger

_EVERY = 0.1
_MOST_BARS = 8


class Updater:
    """Called now and then while a run goes on; ``interval`` is how long to wait between, in seconds."""

    interval = 1.0

    def __call__(self) -> None:
        """Show what changed."""


class Bars(Updater):
    """A bar a block, the outermost first."""

    interval = _EVERY

    def __init__(self, ledger: Ledger, run: str, progress: Progress) -> None:
        self._ledger = ledger
        self._run = run
        self._progress = progress
        self._bars: dict[str, object] = {}

    def __call__(self) -> None:
        blocks = [block for block in self._ledger.blocks(self._run) if block.parent is not None]
        for block in blocks[:_MOST_BARS]:
            if block.id not in self._bars:
                self._bars[block.id] = self._progress.add_task(block.name, total=block.n)
            self._progress.update(self._bars[block.id], completed=block.done)  # type: ignore[arg-type]


@contextmanager
def shown(ledger: Ledger, run: str, progress: bool | None) -> Iterator[Updater]:
    """Show a run's progress while the body waits: always, never, or (None) where standard error is a terminal."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield Updater()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        updater = Bars(ledger, run, bars)
        yield updater
        updater()

"""A run while it goes on: as a tree that changes, or event by event."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from egregore_dist import errors
from egregore_dist.cli import levels, redact, show
from egregore_dist.ledger.keys import ROOT

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

    from egregore_dist.cli.levels import Level, Pace
    from egregore_dist.client.events import Event
    from egregore_dist.client.run import Run
    from egregore_dist.ledger import Ledger, RunRecord

# Seconds between two looks at how far a run is, and blocks that are read at each.
_EVERY = 0.25
_BLOCKS_READ = 1500
# Positions that a line of text tells.
_POSITIONS = 8
_BAR = 24


def lines(run: Run, ledger: Ledger, *, as_json: bool, after: str | None = None) -> None:
    """Print a line for each event, or for those after a cursor, until the run ends.

    Raises `errors.RunNotFound`, and `errors.ConfigurationError` for what is no cursor.
    """
    # Blocks that were opened before the cursor have told their names before it.
    opened = [] if after is None else ledger.blocks(run.id)
    names = {block.id: block.name for block in opened if block.id != ROOT}
    for event in run.events(after=after or "0"):
        if event.block is not None and "name" in event.detail:
            names[event.block] = event.detail["name"]
        click.echo(json_line(event, names) if as_json else line(event, names))


def line(event: Event, names: dict[str, str]) -> str:
    """An event as text; ``names`` are those of the blocks."""
    at = datetime.fromtimestamp(event.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    said = [at, event.type]
    if event.block in names:
        said.append(names[event.block])
    if event.branches:
        said.append(f"branches {_positions(event.branches)}")
    if event.failed:
        said.append(f"failed {_positions(event.failed)}")
    if event.attempts:
        told = [f"{attempt} of {branch}" for branch, attempt in list(event.attempts.items())[:_POSITIONS]]
        said.append(f"attempt {', '.join(told)}")
    if event.sizes:
        said.append(f"results {show.size(sum(event.sizes.values()))}")
    if event.nodes:
        said.append(f"at {', '.join(list(dict.fromkeys(event.nodes.values()))[:_POSITIONS])}")
    if event.calls:
        said.append(f"failed calls {sum(map(len, event.calls.values()))}")
    said += [f"{name} {value}" for name, value in event.detail.items() if name != "name"]
    if event.worker is not None:
        said.append(f"on {event.worker}")
    return redact.clean("  ".join(said)).replace("\n", "\\n")


def json_line(event: Event, names: dict[str, str]) -> str:
    """An event as JSON, in one line."""
    found = {
        "cursor": event.cursor,
        "time": show.moment(event.time),
        "type": event.type,
        "block": event.block,
        "name": names.get(event.block or ""),
        "branches": event.branches,
        "failed": event.failed,
        "worker": event.worker,
        "attempts": event.attempts,
        "sizes": event.sizes,
        "took": event.took,
        "spent": {branch: {"cpu": spent.cpu, "memory": spent.memory} for branch, spent in event.spent.items()},
        "nodes": event.nodes,
        "calls": {branch: [asdict(call) for call in calls] for branch, calls in event.calls.items()},
        "detail": {name: value for name, value in event.detail.items() if name != "name"},
    }
    return redact.json(found)


def live(run: Run, ledger: Ledger) -> None:
    """Show how far a run is until it ends. Raises `errors.RunNotFound`."""
    from rich.live import Live

    pace, due = levels.Pace(), 0.0
    with Live(console=show.console(), auto_refresh=False) as shown:
        # What happens says when to look, and when it is over.
        for _ in run.batches(_EVERY):
            if time.monotonic() >= due:
                shown.update(_look(run, ledger, pace), refresh=True)
                due = time.monotonic() + _EVERY
        shown.update(_look(run, ledger, pace), refresh=True)


def tree(record: RunRecord, now: float, found: Sequence[Level], pace: Pace) -> Tree:
    """A run and how far its blocks are. ``now`` is the server's time, in seconds."""
    from rich.text import Text
    from rich.tree import Tree

    head = Text.assemble(show.text(record.id, "bold"), "  ", show.text(record.workflow), "  ", show.state(record.state))
    head.append(f"  {show.duration((record.ended or now) - record.created)}")
    if record.started is None and record.ended is None:
        head.append("  waits for a worker", "dim")
    made = Tree(head, guide_style="dim")
    _grow(made, now, found, pace, is_outermost=True)
    return made


def _grow(at: Tree, now: float, found: Sequence[Level], pace: Pace, *, is_outermost: bool) -> None:
    for level in found:
        # More of a nested block may be opened, so that nobody knows how much is left.
        left = pace.left(level) if is_outermost else None
        inner = at.add(_row(level, now, pace.rate(level), left))
        _grow(inner, now, level.inside, pace, is_outermost=False)


def _row(level: Level, now: float, rate: float | None, left: float | None) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    name = show.text(level.name, "bold")
    if level.blocks > 1:
        name.append(f" x{level.blocks}", "dim")
    told = Text(f"{level.done}/{level.n}")
    if level.failed:
        told.append(f"  {level.failed} failed", "red")
    if level.state == "open":
        if level.running:
            told.append(f"  {level.running} running", "cyan")
        if rate is not None:
            told.append(f"  {rate:.3g}/s")
        if left is not None:
            told.append(f"  about {show.duration(left)} left")
    else:
        told.append("  ")
        told.append_text(show.state(level.state))
    told.append(f"  {show.duration((level.ended or now) - level.opened)}", "dim")
    row = Table.grid(padding=(0, 2))
    row.add_row(name, ProgressBar(total=max(1, level.n), completed=level.done, width=_BAR), told)
    return row


def _look(run: Run, ledger: Ledger, pace: Pace) -> RenderableType:
    from egregore_dist.ledger import browse

    try:
        record = ledger.run(run.id)
        found = levels.levels(browse.blocks(ledger, run.id, limit=_BLOCKS_READ))
        now = ledger.now() / 1000
    except errors.BrokerUnavailable:
        # The events are waited for anew, and go on where they were.
        return show.text(f"{run.id}: the server does not answer", "yellow")
    pace.look(now, found)
    return tree(record, now, found, pace)


def _positions(positions: Sequence[int]) -> str:
    more = len(positions) - _POSITIONS
    shown = ", ".join(map(str, positions[:_POSITIONS]))
    return f"{shown} and {more} more" if more > 0 else shown

"""``egregore-dist top``: what the cluster does, as it does it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from egregore_dist import errors
from egregore_dist.cli import picture, probe, show, target
from egregore_dist.cli import workers as of_workers
from egregore_dist.client import amounts
from egregore_dist.ledger.lanes import AtBlock
from egregore_dist.ledger.openblocks import Backlog
from egregore_dist.ledger.runlist import Glance, Wanted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from egregore_dist.ledger import Ledger

# Runs that are shown, and workers.
_RUNS_SHOWN, _WORKERS_SHOWN = 20, 50
_OPEN = frozenset({"pending", "running", "paused"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a cluster does.

    Attributes:
        open: how many runs have not ended, None where they are very many.
        lanes: by worker, what its lanes are at.
    """

    at: float
    workers: list[probe.Worker]
    runs: tuple[Glance, ...]
    open: int | None
    backlog: Backlog
    lanes: Mapping[str, Sequence[AtBlock]] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """Lanes that the workers serve at a time."""
        return sum(worker.report.slots for worker in self.workers)

    @property
    def busy(self) -> int:
        """Slots that have a lane, as the workers said last."""
        return sum(map(_busy, self.workers))


@click.command()
@click.option("--once", is_flag=True, help="Print it once, as where the output is no terminal.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, show_default=True, metavar="SECONDS", help="Look so often."
)
@show.as_json
@target.options
def top(once: bool, every: float, wants_json: bool) -> None:
    """Show what the cluster does: its workers and how busy they are, the open runs and how far they are, the backlog.

    Ctrl-C ends it.

    JSON keys: at (ISO 8601, UTC), workers: a list of name, slots, busy, work (as `workers --json` has it), cpu,
    memory_available, memory_total (bytes);
    slots, busy, open (runs that have not ended, null where they are very many), runs: a list of the newest of these:
    id, workflow, state, created, block, branches, done, failed; backlog: blocks, waiting, running (branches), late
    (seconds).
    """
    ledger = target.ledger()
    if wants_json:
        show.print_json(as_json(load(ledger)))
    elif once or not sys.stdout.isatty():
        show.console().print(view(load(ledger)))
    else:
        _live(ledger, every)


def load(ledger: Ledger) -> Load:
    """What the cluster does now. Raises `errors.BrokerUnavailable`."""
    from egregore_dist.ledger import lanes, openblocks, runlist

    counted = runlist.count_going_on(ledger)
    workers = probe.workers(ledger)
    return Load(
        at=ledger.now() / 1000,
        workers=workers,
        lanes=lanes.at_work(ledger, [worker.report for worker in workers]),
        runs=runlist.find(ledger, Wanted(states=_OPEN), limit=_RUNS_SHOWN).runs,
        open=None if counted is None else sum(number for (state, _), number in counted.items() if state in _OPEN),
        backlog=openblocks.backlog(ledger),
    )


def as_json(found: Load) -> dict[str, Any]:
    """What a cluster does as JSON."""
    return {
        "at": show.moment(found.at),
        "workers": [
            {
                "name": worker.report.worker,
                "slots": worker.report.slots,
                "busy": _busy(worker),
                "work": of_workers.lanes_as_json(found.lanes.get(worker.report.worker, ())),
                "cpu": worker.report.cpu,
                "memory_available": worker.report.memory_available,
                "memory_total": worker.report.memory_total,
            }
            for worker in found.workers
        ],
        "slots": found.slots,
        "busy": found.busy,
        "open": found.open,
        "runs": [
            {
                "id": glance.record.id,
                "workflow": glance.record.workflow,
                "state": glance.record.state,
                "created": show.moment(glance.record.created),
                "block": glance.block or None,
                "branches": glance.n,
                "done": glance.done,
                "failed": glance.failed,
            }
            for glance in found.runs
        ],
        "backlog": found.backlog,
    }


def view(found: Load) -> RenderableType:
    """What a cluster does, for people."""
    from rich.console import Group
    from rich.text import Text

    backlog = found.backlog
    workers = amounts.count(len(found.workers), "worker")
    runs = "very many open runs" if found.open is None else amounts.count(found.open, "open run")
    head = f"{show.local(found.at)}   {workers}, {found.busy} of {found.slots} slots busy   "
    head += f"{runs}   {backlog.waiting} branches wait, {backlog.running} run, in {backlog.blocks} blocks"
    parts: list[RenderableType] = [Text(head, style="bold"), Text()]
    if backlog.late > probe.OVERDUE:
        parts.insert(1, Text(f"the janitor is {show.duration(backlog.late)} late: is a worker alive?", style="yellow"))
    parts += [_workers(found), Text(), _runs(found)]
    return Group(*parts)


def _workers(found: Load) -> RenderableType:
    if not found.workers:
        return show.text("no worker is alive: start one with `egregore-dist worker -m MODULE`", "yellow")
    table = show.table(
        "WORKER", "BUSY", "CPU", "FREE MEMORY", "SEEN", "AT WORK", right=("BUSY", "CPU", "FREE MEMORY", "SEEN")
    )
    busiest = sorted(found.workers, key=lambda worker: (-_busy(worker), worker.report.worker))
    for worker in busiest[:_WORKERS_SHOWN]:
        said = worker.report
        table.add_row(
            show.text(said.worker),
            f"{_busy(worker)} of {said.slots}",
            f"{said.cpu:.0%}",
            f"{show.size(said.memory_available)} of {show.size(said.memory_total)}",
            f"{max(0.0, worker.age):.0f} s ago",
            show.text(of_workers.told(found.lanes.get(said.worker, ()))),
        )
    if len(busiest) > _WORKERS_SHOWN:
        table.add_row(f"… {len(busiest) - _WORKERS_SHOWN} more", "", "", "", "", "")
    return table


def _runs(found: Load) -> RenderableType:
    if not found.runs:
        return show.text("no run is open", "dim")
    table = show.table("RUN", "WORKFLOW", "STATE", "FOR", "BLOCK", "DONE", "FAILED", right=("FOR", "DONE", "FAILED"))
    for glance in found.runs:
        record = glance.record
        table.add_row(
            show.text(record.id),
            show.text(record.workflow),
            show.state(record.state),
            show.duration(picture.seconds(record) or max(0.0, found.at - record.created)),
            show.text(glance.block or "-"),
            f"{glance.done}/{glance.n}" if glance.block else "-",
            str(glance.failed or "-"),
        )
    return table


def _busy(worker: probe.Worker) -> int:
    return min(worker.report.slots, len(worker.report.lanes))


def _live(ledger: Ledger, every: float) -> None:
    from rich.live import Live

    try:
        with Live(console=show.console(), auto_refresh=False, screen=True) as shown:
            while True:
                try:
                    shown.update(view(load(ledger)), refresh=True)
                except errors.BrokerUnavailable:
                    shown.update(show.text("the server does not answer; Ctrl-C ends this", "yellow"), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        # That is how one leaves it.
        return

"""``egregore-dist runs``: look at runs, and pause, resume, end and retry them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from egregore_dist.cli import picture, show, target

if TYPE_CHECKING:
    from egregore_dist.client.run import Run
    from egregore_dist.ledger import Ledger, RunRecord

ENDED = ("succeeded", "failed", "cancelled")
STATES = ("pending", "running", "paused", *ENDED)

# Runs read at a time while looking for those of one state.
_PAGE = 200


@click.group()
@target.options
def runs() -> None:
    """Look at runs, and pause, resume, end and retry them."""


@runs.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Show no more than this.")
@click.option("--state", type=click.Choice(STATES), help="Show only runs in this state.")
@show.as_json
@target.options
def list_(limit: int, state: str | None, wants_json: bool) -> None:
    """List runs, the newest first.

    JSON keys: runs, a list of id, workflow, state, created, started, ended (ISO 8601, UTC), seconds.
    """
    ledger = target.ledger()
    found = [record for record, _ in zip(_newest(ledger, state), range(limit), strict=False)]
    if wants_json:
        show.print_json({"runs": [picture.times(record) for record in found]})
        return
    if not found:
        click.echo("no runs" if state is None else f"no {state} runs", err=True)
        return
    table = show.table("ID", "WORKFLOW", "STATE", "CREATED", "TOOK", right=("TOOK",))
    for record in found:
        table.add_row(
            show.text(record.id),
            show.text(record.workflow),
            show.state(record.state),
            show.local(record.created),
            show.duration(picture.seconds(record)),
        )
    show.console().print(table)


@runs.command("show")
@click.argument("run_id", metavar="ID")
@click.option("--value", "wants_value", is_flag=True, help="The value too, of a run that has succeeded.")
@show.as_json
@target.options
def show_(run_id: str, wants_value: bool, wants_json: bool) -> None:
    """Show a run: its state, its blocks and how far they are, why it waits, and why it failed.

    JSON keys: id, workflow, state, created, started, ended, seconds, value, why: a list of kind, block, name (the
    block's), branch (its number in the block), text, numbers, names; error (kind, message, block, branch, node,
    traceback), blocks: a list of id, name, state, branches, done, failed, running (names), parent, branch (the parent's
    that it belongs to), opened, ended, seconds.
    """
    from egregore_dist.client.run import Run

    session = target.session()
    run = Run(run_id, of=session)
    found = picture.take(session.ledger, run)
    value = run.result(progress=False) if wants_value and found.record.state == "succeeded" else None
    if wants_json:
        show.print_json({**picture.as_json(found), "value": value})
        return
    console = show.console()
    console.print(picture.tree(found))
    if found.why:
        console.print("why it waits:", style="bold")
    for line in picture.waits(found):
        console.print("-", line, soft_wrap=True)
    if wants_value and found.record.state == "succeeded":
        show.print_json(value)


@runs.command()
@click.argument("run_id", metavar="ID")
@show.as_json
@target.options
def cancel(run_id: str, wants_json: bool) -> None:
    """End a run now: nothing more of it starts, and what runs is stopped. A run that has ended stays as it is.

    JSON keys: id, state.
    """
    ledger = target.ledger()
    before = ledger.run(run_id).state
    _tell(run_id, before, ledger.cancel(run_id), wants_json)


@runs.command()
@click.argument("run_id", metavar="ID")
@show.as_json
@target.options
def pause(run_id: str, wants_json: bool) -> None:
    """Start nothing more of a run until it is resumed. What runs goes on to its end, and timeouts go on too.

    A run that is paused or has ended stays as it is. JSON keys: id, state.
    """
    ledger = target.ledger()
    before = ledger.run(run_id).state
    _tell(run_id, before, ledger.pause(run_id), wants_json)


@runs.command()
@click.argument("run_id", metavar="ID")
@show.as_json
@target.options
def resume(run_id: str, wants_json: bool) -> None:
    """Let a paused run go on. A run that is not paused stays as it is.

    JSON keys: id, state.
    """
    run = _run(run_id)
    before = run.status
    _tell(run_id, before, run.resume(), wants_json)


@runs.command()
@click.argument("run_id", metavar="ID")
@show.as_json
@target.options
def retry(run_id: str, wants_json: bool) -> None:
    """Run again what did not end well in a run that failed or was cancelled, and keep the rest.

    A run that goes on or has succeeded stays as it is. JSON keys: id, state.
    """
    run = _run(run_id)
    before = run.status
    _tell(run_id, before, run.retry(), wants_json)


def _run(run_id: str) -> Run:
    from egregore_dist.client.run import Run

    return Run(run_id, of=target.session())


def _tell(run_id: str, before: str, after: str, wants_json: bool) -> None:
    if wants_json:
        show.print_json({"id": run_id, "state": after})
        return
    stays = "had ended before" if after in ENDED else "stays as it was"
    click.echo(f"run {run_id} {stays}: {after}" if before == after else f"run {run_id}: {after}")


def _newest(ledger: Ledger, state: str | None) -> Iterator[RunRecord]:
    offset = 0
    # A page without a run: what is older has expired.
    while page := ledger.runs(_PAGE, offset):
        yield from (record for record in page if state in (None, record.state))
        offset += _PAGE

"""``egregore-dist runs``: look at runs, and pause, resume, end and retry them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from egregore_dist import errors
from egregore_dist.cli import codes, hooks, logs, picture, redact, show, target
from egregore_dist.cli.failing import Quit

if TYPE_CHECKING:
    from egregore_dist.client.run import Run
    from egregore_dist.ledger import Ledger, RunRecord

ENDED = ("succeeded", "failed", "cancelled")
STATES = ("pending", "running", "paused", *ENDED)

# Runs read at a time while looking for those of one state.
_PAGE = 200
# So many letters of an id may stand for it, and so many ids are told that begin alike.
_SHORTEST, _ALIKE = 6, 5


@click.group()
@target.options
def runs() -> None:
    """Look at runs, and pause, resume, end and retry them.

    An ID is that of a run, or its first letters, six or more, where no other one of the newest 20000 runs begins so.
    """


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
    show.print_table(table)


@runs.command("show")
@click.argument("run_id", metavar="ID")
@click.option("--value", "wants_value", is_flag=True, help="The value too, of a run that has succeeded.")
@show.as_json
@target.options
def show_(run_id: str, wants_value: bool, wants_json: bool) -> None:
    """Show a run: its state, its blocks and how far they are, why it waits, and why and where it failed.

    JSON keys: id, workflow, state, created, started, ended, seconds, value, why: a list of kind, block, name (the
    block's), branch (its number in the block), text, numbers, names; error (kind, message, block, branch, node,
    traceback), blocks: a list of id, name, state, branches, done, failed, running (names), parent, branch (the parent's
    that it belongs to), opened, ended, seconds.
    """
    from egregore_dist.client.run import Run

    session = target.session()
    run = Run(_whole(session.ledger, run_id), of=session)
    found = picture.take(session.ledger, run)
    value = None
    if wants_value and found.record.state == "succeeded":
        value = hooks.value("result", show.plain(run.result(progress=False)))
    if wants_json:
        show.print_json({**picture.as_json(found), "value": value})
        return
    console = show.console()
    console.print(picture.tree(found))
    if (traceback := picture.traceback(found)) is not None:
        console.print("on the worker:", style="bold")
        console.print(traceback, soft_wrap=True)
    if found.why:
        console.print("why it waits:", style="bold")
    for line in picture.waits(found):
        console.print("-", line, soft_wrap=True)
    if wants_value and found.record.state == "succeeded":
        show.print_json(value)


@runs.command()
@click.argument("run_id", metavar="ID")
@click.option("--markdown", "wants_markdown", is_flag=True, help="Print Markdown, as without an option.")
@click.option(
    "--html", "file", type=click.Path(dir_okay=False), help="Write a page that needs nothing else; - prints it."
)
@show.as_json
@target.options
def report(run_id: str, wants_markdown: bool, file: str | None, wants_json: bool) -> None:
    """Report what a run did: totals, how long executions took, by block, node and worker, and what the end waited for.

    It can be asked for while the run goes on.

    JSON keys: id, workflow, state, at, created, started, ended (ISO 8601, UTC), waited, ran (seconds), totals: blocks,
    branches, ok, failed, stopped, open; success_rate, executions: ok, failed, lost, stopped, running, together,
    durations: count, total, min, mean, p95, max (seconds), measured, cpu (seconds), memory (bytes); parts (as
    durations); nodes: a list of name, executions; blocks: a list of name, path, opened, branches, ok, failed, stopped,
    took (as durations), executions; workers: a list of name, executions, busy; critical_path: a list of block, name,
    branch, worker, waited, ran, cpu, memory, nodes; retries: count, kept, saved; advice: a list of what io=True would
    do for nodes that mostly wait; partial.
    """
    if wants_markdown + wants_json + (file is not None) > 1:
        raise Quit(codes.USAGE, "--json, --markdown and --html exclude each other")
    found = _run(run_id).report()
    if wants_json:
        show.print_json(found.as_dict())
    elif file is None:
        click.echo(redact.clean(found.markdown()), nl=False)
    elif file == "-":
        click.echo(redact.page(found.html()), nl=False)
    else:
        _write(file, redact.page(found.html()))


@runs.command()
@click.argument("run_id", metavar="ID")
@click.option("--after", metavar="CURSOR", help="A line for each event after the one that has this cursor.")
@show.as_json
@target.options
def watch(run_id: str, after: str | None, wants_json: bool) -> None:
    """Watch a run until it ends: on a terminal its blocks and how far they are, else a line for each event.

    Where events are not kept any more, since there were very many, an event "events.missed" stands in their place.
    Ctrl-C ends the watching, and the run goes on. Ends with 1 where the run failed or was cancelled.

    JSON keys: an object a line for each event, with cursor, time (ISO 8601, UTC), type, block, name (of the block),
    branches, failed (positions), worker; by position: attempts (where not the first), sizes (bytes of values), took
    (seconds), spent (cpu in seconds, memory in bytes), nodes (that they failed or were lost at), calls (that failed and
    were made again: node; ago, took and waited in seconds); detail.
    """
    from egregore_dist.cli import watching
    from egregore_dist.client.run import Run

    session = target.session()
    run_id = _whole(session.ledger, run_id)
    run = Run(run_id, of=session)
    try:
        if wants_json or after is not None or not sys.stdout.isatty():
            watching.lines(run, session.ledger, as_json=wants_json, after=after)
        else:
            watching.live(run, session.ledger)
    except KeyboardInterrupt:
        again = f"egregore-dist runs watch {run_id}"
        raise Quit(codes.INTERRUPTED, f"interrupted; run {run_id} goes on. Watch it again with: {again}") from None
    if run.status in ("failed", "cancelled"):
        try:
            run.result(timeout=0, progress=False)
        except TimeoutError:
            raise Quit(codes.TIMEOUT, f"run {run_id} was retried when it had ended, and goes on") from None


@runs.command("logs")
@click.argument("run_id", metavar="ID")
@click.option("--block", help="Of this block alone: its name or its id.")
@click.option("--branch", help="Of this branch of a block alone: its number or its name.")
@click.option("--node", help="Of this node alone.")
@click.option("--level", type=click.Choice(logs.LEVELS, case_sensitive=False), help="Of this level and above.")
@click.option("-f", "--follow", is_flag=True, help="Wait for what is said next, until the run ends.")
@show.as_json
@target.options
def logs_(
    run_id: str,
    block: str | None,
    branch: str | None,
    node: str | None,
    level: str | None,
    follow: bool,
    wants_json: bool,
) -> None:
    """Print what the nodes of a run logged and printed, oldest first, as far as it is kept.

    Ctrl-C ends the following, and the run goes on.

    JSON keys: an object a line, with cursor, time (ISO 8601, UTC), worker, block (its id), block_name, branch (its
    number in the block), branch_name, attempt, node, source (the logger, stdout or stderr), level, text, dropped
    (lines of the branch before it that are not kept).
    """
    from egregore_dist.client.logs import branch_of

    run = _run(run_id)
    line = None
    try:
        for line in run.logs(block, branch_of(branch), node, level, follow=follow):
            click.echo(logs.json_line(line) if wants_json else logs.text(line))
        if line is None and not wants_json:
            click.echo("no lines", err=True)
    except KeyboardInterrupt:
        again = f"egregore-dist runs logs --follow {run.id}"
        raise Quit(codes.INTERRUPTED, f"interrupted; run {run.id} goes on. Follow it again with: {again}") from None


@runs.command()
@click.argument("run_id", metavar="ID")
@show.as_json
@target.options
def cancel(run_id: str, wants_json: bool) -> None:
    """End a run now: nothing more of it starts, and what runs is stopped. A run that has ended stays as it is.

    JSON keys: id, state.
    """
    ledger = target.ledger()
    run_id = _whole(ledger, run_id)
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
    run_id = _whole(ledger, run_id)
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
    _tell(run.id, before, run.resume(), wants_json)


@runs.command()
@click.argument("run_id", metavar="ID")
@show.as_json
@target.options
def retry(run_id: str, wants_json: bool) -> None:
    """Run again what did not end well in a run that failed or was cancelled, and keep the rest.

    What its end has stopped is waited for first, some seconds at most. A run that goes on or has succeeded stays as it
    is. JSON keys: id, state.
    """
    run = _run(run_id)
    before = run.status
    after = run.retry()
    if before in ("failed", "cancelled") and not wants_json:
        # It may have ended in the same way again.
        click.echo(f"run {run.id} was retried: {after}")
    else:
        _tell(run.id, before, after, wants_json)


def _run(run_id: str) -> Run:
    from egregore_dist.client.run import Run

    session = target.session()
    return Run(_whole(session.ledger, run_id), of=session)


def _whole(ledger: Ledger, given: str) -> str:
    """The id of the run that has this one, or is the only one whose id begins so."""
    from egregore_dist.ledger import runlist

    try:
        return ledger.run(given).id
    except errors.RunNotFound:
        alike = runlist.beginning_with(ledger, given, limit=_ALIKE + 1) if len(given) >= _SHORTEST else []
        if not alike:
            raise
    if len(alike) > 1:
        shown = ", ".join(alike[:_ALIKE]) + (" and more" if len(alike) > _ALIKE else "")
        raise Quit(codes.USAGE, f"several runs have ids that begin with {given!r}: {shown}; give more of it")
    return alike[0]


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, "utf-8")
    except OSError as error:
        raise Quit(codes.USAGE, f"--html {file} cannot be written: {error.strerror}") from None
    click.echo(f"written to {redact.clean(file)}", err=True)


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

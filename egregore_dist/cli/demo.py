"""``egregore-dist demo``: survey Python's own library in parallel, and show what took part."""

from __future__ import annotations

import platform
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from egregore_dist import errors
from egregore_dist.cli import codes, show, target
from egregore_dist.cli.failing import Quit
from egregore_dist.cli.run import say, waiting_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from egregore_dist.cli.survey import Figures, Survey
    from egregore_dist.client.events import Event
    from egregore_dist.client.run import Run

_MODULE = "egregore_dist.cli.survey"
# Columns of a terminal from which on every figure has its place.
_WIDE = 120
# Columns that the table takes beside the last one: what is left is for the name of a function.
_OTHERS, _OTHERS_WIDE = 48, 85

NEXT = (
    ("a workflow of yours", "egregore-dist run MODULE:WORKFLOW --input '{\"key\": 1}'"),
    ("a cluster that stays", "export EGREGORE_BROKER_URL=redis://host:6379/0; egregore-dist worker -m MODULE"),
    ("the code of this one", "{survey}"),
)


@click.command()
@click.option("--top", type=click.IntRange(1), default=15, show_default=True, help="Packages to show.")
@click.option("--workers", type=click.IntRange(1, 64), help="Worker processes to start. [default: 2, or 1 on one core]")
@click.option("--keep", is_flag=True, help="Keep the embedded cluster and its web monitor until Ctrl-C.")
@show.as_json
@target.options
def demo(top: int, workers: int | None, keep: bool, wants_json: bool) -> None:
    """Measure every package of Python's standard library, in parallel: its size and how complex its functions are.

    Runs on an embedded cluster, or on the configured one, where a worker must load egregore_dist.cli.survey.

    JSON keys: run, python, seconds, cpu_seconds, total and packages (package, files, bytes, lines, functions,
    complexity, worst: name and complexity, seconds of CPU), workers: a list of name, branches.
    """
    from egregore_dist.cli import survey
    from egregore_dist.client import monitor as web

    if workers is not None and not target.is_embedded():
        raise Quit(codes.USAGE, "--workers starts an embedded cluster, but another one is configured: leave one out")
    if keep and not target.is_embedded():
        raise Quit(codes.USAGE, "--keep is for an embedded cluster, but another one is configured: that stays anyway")
    if keep:
        web.check_installed()
    if not wants_json:
        say("starting workers" if target.is_embedded() else "using the configured cluster")
    with target.submitting(workers) as session:
        if not session.ledger.reports():
            raise errors.ConfigurationError(f"no worker is alive: start one with egregore-dist worker -m {_MODULE}")
        started = time.perf_counter()
        with waiting_for(run_id := uuid.uuid4().hex):
            run = survey.workflow.submit(id=run_id)
            found: Survey = run.result()
        seconds = time.perf_counter() - started
        shares = branches_of(run.events(follow=False))
        if wants_json:
            show.print_json(_said(run.id, found, seconds, shares, top))
        else:
            _print(found, seconds, shares, top)
        if keep:
            _wait(run)


def _said(run: str, found: Survey, seconds: float, shares: Counter[str], top: int) -> dict[str, Any]:
    return {
        "run": run,
        "python": platform.python_version(),
        "seconds": seconds,
        "cpu_seconds": found.total.seconds,
        "total": found.total,
        "packages": found.packages[:top],
        "workers": [{"name": name, "branches": count} for name, count in sorted(shares.items())],
    }


def _wait(run: Run) -> None:
    """Until Ctrl-C, which is the way to end this."""
    # Not by `say`, which may take the token out.
    click.echo(
        f"egregore-dist: until Ctrl-C: {run.monitor_url or 'no web monitor, as EGREGORE_MONITOR says'}", err=True
    )
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def branches_of(events: Iterable[Event]) -> Counter[str]:
    """How many branches each worker has ended, those of nested blocks too; the run as a whole does not count."""
    from egregore_dist.ledger.keys import ROOT

    shares: Counter[str] = Counter()
    for event in events:
        if event.type == "branches.ended" and event.worker is not None and event.block != ROOT:
            shares[event.worker] += len(event.branches) + len(event.failed)
    return shares


def _print(found: Survey, seconds: float, shares: Counter[str], top: int) -> None:
    from rich.text import Text

    from egregore_dist.cli import survey

    console = show.console()
    console.print()
    console.print(Text(f"The standard library of Python {platform.python_version()}, the most complex first", "bold"))
    console.print()
    _print_packages(console, found, top)
    total, branches = found.total, sum(shares.values())
    console.print()
    console.print(
        Text.assemble(
            (f"{branches} branches in {show.duration(seconds)}", "bold"),
            f" ({show.duration(total.seconds)} of CPU time in the nodes), by worker:",
        )
    )
    for name, count in sorted(shares.items()):
        bar = "█" * max(1, round(30 * count / branches))
        console.print(Text.assemble("  ", show.text(name), f"  {count:>5}  ", (bar, "cyan")))
    console.print()
    console.print(Text("Try next", "bold"))
    for what, command in NEXT:
        said = command.replace("{survey}", survey.__file__)
        console.print(Text.assemble(f"  {what:<21} ", (said, "green")), soft_wrap=True)


def _print_packages(console: Console, found: Survey, top: int) -> None:
    wide = console.width >= _WIDE
    numbers: tuple[str, ...] = ("#", "LINES", "COMPLEXITY")
    if wide:
        numbers = ("#", "FILES", "LINES", "SIZE", "FUNCTIONS", "COMPLEXITY", "MEAN")
    room = console.width - (_OTHERS_WIDE if wide else _OTHERS)
    table = show.table("#", "PACKAGE", *numbers[1:], "MOST COMPLEX FUNCTION", right=numbers)
    table.columns[1].no_wrap = True
    shown = found.packages[:top]
    for place, figures in enumerate(shown, start=1):
        cells = _cells(figures, numbers, room)
        table.add_row(str(place), show.text(figures.package, "cyan"), *cells, end_section=place == len(shown))
    table.add_row("", show.text(f"all {len(found.packages)}", "bold"), *_cells(found.total, numbers, room))
    console.print(table)


def _cells(figures: Figures, numbers: tuple[str, ...], room: int) -> tuple[Any, ...]:
    cells = {
        "FILES": f"{figures.files:,}",
        "LINES": f"{figures.lines:,}",
        "SIZE": show.size(figures.bytes),
        "FUNCTIONS": f"{figures.functions:,}",
        "COMPLEXITY": f"{figures.complexity:,}",
        "MEAN": f"{figures.complexity / figures.functions:.1f}" if figures.functions else "-",
    }
    worst = "-"
    if figures.worst is not None:
        # The package stands in front already.
        worst = f"{figures.worst.name.removeprefix(f'{figures.package}.')} ({figures.worst.complexity})"
        worst = worst if len(worst) <= room else f"…{worst[1 - max(room, 2) :]}"
    return *(cells[name] for name in numbers[1:]), show.text(worst)

"""How values look: on a terminal, and as JSON."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from egregore_dist import errors
from egregore_dist.cli import hooks, redact
from egregore_dist.client.amounts import duration as duration
from egregore_dist.client.amounts import size as size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Columns where the output is no terminal.
WIDTH = 160
_WIDEST = 10_000

_STYLES = {
    "succeeded": "green",
    "ok": "green",
    "running": "cyan",
    "open": "cyan",
    "pending": "yellow",
    "paused": "yellow",
    "warning": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "error": "red",
    "timeout": "red",
    "problem": "red",
}


def as_json(command: Any) -> Any:
    """The option ``--json``."""
    return click.option("--json", "wants_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    click.echo(redact.json(plain(value), indent=2))


def plain(value: Any) -> Any:
    """A value as what JSON can hold: what it has no form for becomes its ``repr``."""
    import msgspec

    match value:
        case errors.BranchError():
            return {"error": _branch_error(value)}
        case Mapping():
            return {key if isinstance(key, str) else str(plain(key)): plain(entry) for key, entry in value.items()}
        case float() if not math.isfinite(value):
            return repr(value)
        case list() | tuple() | set() | frozenset():
            return [plain(entry) for entry in value]
        case _:
            # One level at a time, since an error may be anywhere inside.
            try:
                found = msgspec.to_builtins(value, str_keys=True, enc_hook=plain_other)
            except (TypeError, ValueError):
                return repr(value)
            return found


def plain_other(value: Any) -> Any:
    """What msgspec does not know, as JSON."""
    return {"error": _branch_error(value)} if isinstance(value, errors.BranchError) else repr(value)


def _branch_error(error: errors.BranchError) -> dict[str, Any]:
    return {
        "branch": plain(error.branch),
        "kind": error.kind,
        "type": error.type,
        "message": error.message,
        "node": error.node,
        "attempt": error.attempt,
    }


def failure(error: errors.RunFailed) -> dict[str, Any]:
    """Why a run failed, as JSON: ``kind``, ``message``, ``block``, ``branch``, ``node``, ``traceback``."""
    return {
        "kind": type(error).__name__,
        "message": hooks.text("error", str(error)),
        "block": getattr(error, "block", None),
        "branch": plain(getattr(error, "branch", None)),
        "node": error.node,
        "traceback": None if error.remote_traceback is None else hooks.text("traceback", error.remote_traceback),
    }


def console(*, stderr: bool = False) -> Console:
    """A console that takes text as it is."""
    from rich.console import Console

    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else WIDTH
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table; the columns in ``right`` hold numbers, the first one is never cut."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for number, column in enumerate(columns):
        fixed = number == 0 or column in right
        made.add_column(column, justify="right" if column in right else "left", no_wrap=fixed, overflow="fold")
    return made


def print_table(table: Table) -> None:
    """Print a table; where the terminal is too narrow for its names and numbers, lines are longer than that."""
    from rich.cells import cell_len
    from rich.measure import Measurement

    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(each)) for each in (column.header, *column.cells))
    out = console()
    needed = Measurement.get(out, out.options.update(max_width=_WIDEST), table).minimum
    out.width = max(out.width, needed)
    out.print(table)


def text(value: object, style: str = "") -> Text:
    """A piece of output that came from elsewhere: its control characters are shown, not obeyed."""
    from rich.text import Text

    return Text(redact.clean(str(value)), style=style)


def state(name: str) -> Text:
    """A state in its colour."""
    return text(name, _STYLES.get(name, ""))


def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def local(seconds: float | None) -> str:
    """Seconds since the epoch as this machine's own time."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")

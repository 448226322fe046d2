"""What the nodes of a run said, as it is printed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from egregore_dist.cli import hooks, redact, show

if TYPE_CHECKING:
    from egregore_dist.client.logs import LogLine

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
# Under the text of a line, so that no line of it looks like another one's beginning.
_INDENT = "\n    "


def text(line: LogLine) -> str:
    """A line as text; of a record of several lines those after the first are indented."""
    line = hooks.line(line)
    at = datetime.fromtimestamp(line.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    level = click.style(redact.clean(f"{line.level:<8}"), fg=_COLOURS.get(line.level))
    said = redact.clean(line.text).replace("\n", _INDENT)
    shown = f"{at}  {level}  {where(line)}  {said}"
    if not line.dropped:
        return shown
    return f"{click.style(f'    {line.dropped} lines of {where(line)} are not kept', dim=True)}\n{shown}"


def where(line: LogLine) -> str:
    """Who said a line: the block, the branch and the node, and which attempt, where it is not the first."""
    parts = [part for part in (line.block_name, line.branch_name) if part]
    if line.node != line.branch_name:
        parts.append(line.node)
    attempt = f" (attempt {line.attempt})" if line.attempt > 1 else ""
    return redact.clean("/".join(parts)).replace("\n", "\\n") + attempt


def json_line(line: LogLine) -> str:
    """A line as JSON, in one line."""
    line = hooks.line(line)
    found = {
        "cursor": line.cursor,
        "time": show.moment(line.time),
        "worker": line.worker,
        "block": line.block,
        "block_name": line.block_name,
        "branch": line.branch,
        "branch_name": line.branch_name,
        "attempt": line.attempt,
        "node": line.node,
        "source": line.source,
        "level": line.level,
        "text": line.text,
        "dropped": line.dropped,
    }
    return redact.json(found)

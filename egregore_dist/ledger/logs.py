"""What nodes logged and printed, as the ledger keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from egregore_dist.ledger.connection import reachable
from egregore_dist.ledger.ledger import Ledger

#: Lines that are read at a time.
READ = 1000


class Line(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One line, or one log record of several.

    Attributes:
        block: the id of the block.
        block_name: its name, or "" where it is the whole run.
        branch: the position of the branch.
        branch_name: its name, its key or its index; "" where it is the whole run.
        attempt: of the branch.
        node: the name of the node.
        source: the logger's name, ``stdout`` or ``stderr``.
        level: as `logging` counts it.
        number: counts what the branch said in one process, kept or not, from 1.
        text: what was said, cut where it was long.
    """

    block: str
    block_name: str
    branch: int
    branch_name: str
    attempt: int
    node: str
    source: str
    level: int
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A line as it is kept.

    Attributes:
        cursor: its place in the run's stream.
        time: when it was said, in seconds since the epoch on the server's clock.
        writer: who wrote it, as ``<worker>/<pid>/<a word of its own>``.
        line: what was said.
    """

    cursor: str
    time: float
    writer: str
    line: Line


def encode(age: float, line: Line) -> bytes:
    """A line that was said so many seconds ago: the server's clock alone decides when that was."""
    return msgspec.msgpack.encode((max(0, int(age * 1000)), line))


def entry(cursor: str, fields: dict[str, bytes]) -> Entry:
    """Read a line from the fields of its stream entry."""
    age, line = msgspec.msgpack.decode(fields["line"], type=tuple[int, Line])
    return Entry(cursor, (int(cursor.partition("-")[0]) - age) / 1000, fields["by"].decode(), line)


def write(
    ledger: Ledger,
    run: str,
    writer: str,
    number: int,
    lines: Sequence[bytes],
    *,
    said: int,
    forget: Sequence[str] = (),
    most: int,
    created: int,
) -> list[str]:
    """Keep encoded lines of a run.

    Args:
        writer: who writes; no process ever had the same.
        number: higher than that of any call of this writer before.
        said: lines that were said since then, kept or not.
        forget: ids of lines that are kept no more.
        most: bytes of all of the run's lines.
        created: when the run was submitted: one that has its id since keeps none of them.

    Returns:
        The ids of the lines; none where the run is gone.
    """
    args: list[str | int | bytes] = [writer, number, said, most, created, len(forget), len(lines), *forget, *lines]
    return [id.decode() for id in ledger.transition("log", run, args)]


def counts(ledger: Ledger, run: str) -> tuple[int, int]:
    """How many lines were said in a run, and how many of them are kept."""
    pipe = ledger.redis.pipeline(transaction=False)
    pipe.hget(ledger.keys.part(run, "said"), "lines")
    pipe.xlen(ledger.keys.part(run, "log"))
    with reachable():
        said, kept = pipe.execute()
    return max(int(said or 0), kept), kept


def before(ledger: Ledger, run: str, cursor: str) -> list[Entry]:
    """The lines before a cursor ("+" for the last ones), newest first, `READ` at most."""
    newest = cursor if cursor == "+" else f"({cursor}"
    with reachable():
        found = cast(list[Any], ledger.redis.xrevrange(ledger.keys.part(run, "log"), newest, "-", count=READ))
    return [entry(id.decode(), {name.decode(): value for name, value in fields.items()}) for id, fields in found]

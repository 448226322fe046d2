"""What the nodes of a run said, a page at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from egregore_dist.cli.logs import LEVELS
from egregore_dist.client.logs import LogLine, Reading, Wanted, branch_of
from egregore_dist.ledger import Ledger, logs

#: Lines on the page of a run, and on that of a branch.
LINES_SHOWN, LINES_OF_BRANCH = 500, 100

# Lines that are looked at for one page.
_LOOKED_AT = 10_000
_LONGEST = 200
_CURSOR = re.compile(r"[0-9]{1,16}-[0-9]{1,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the form above the lines says.

    Attributes:
        block: the name or the id of a block, or "".
        branch: the position or the name of a branch, or "".
        node: the name of a node, or "".
        level: one of `LEVELS`, or "".
        before: the cursor that the page ends before, or "".
    """

    block: str = ""
    branch: str = ""
    node: str = ""
    level: str = ""
    before: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """Read them from a query; what cannot be read is as if it were not there."""
        level, before = query.get("level", ""), query.get("before", "")
        return cls(
            block=query.get("block", "")[:_LONGEST],
            branch=query.get("branch", "")[:_LONGEST],
            node=query.get("node", "")[:_LONGEST],
            level=level if level in LEVELS else "",
            before=before if _CURSOR.fullmatch(before) else "",
        )

    @property
    def wanted(self) -> Wanted:
        """As lines are looked for."""
        return Wanted.of(self.block or None, branch_of(self.branch), self.node or None, self.level or None)

    @property
    def is_filtering(self) -> bool:
        """Whether they leave any line out."""
        return any((self.block, self.branch, self.node, self.level))

    def address(self, run: str, before: str = "") -> str:
        """The address of these lines of a run, before a cursor."""
        said = {"block": self.block, "branch": self.branch, "node": self.node, "level": self.level, "before": before}
        query = urlencode({name: value for name, value in said.items() if value})
        return f"/runs/{quote(run)}/logs{'?' if query else ''}{query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Lines of a run, the oldest first.

    Attributes:
        shown: those that fit.
        looked: how many were looked at.
        said: how many the run's nodes have said.
        kept: how many of them are kept.
        older: the cursor before which there are more, or "".
        cursor: of the last one, whether it fits or not.
    """

    shown: tuple[LogLine, ...]
    looked: int
    said: int
    kept: int
    older: str
    cursor: str


def lines(ledger: Ledger, run: str, wanted: Wanted, *, before: str = "", limit: int = LINES_SHOWN) -> Lines:
    """The last lines that fit, in a bounded number of reads."""
    said, kept = logs.counts(ledger, run)
    entries: list[logs.Entry] = []
    fit, at, is_all = 0, before or "+", False
    while fit < limit and len(entries) < _LOOKED_AT:
        found = logs.before(ledger, run, at)
        if not found:
            is_all = True
            break
        for entry in found:
            entries.append(entry)
            fit += wanted.holds(entry.line)
            if fit == limit:
                break
        at = entries[-1].cursor
    reading = Reading(wanted, is_all=is_all)
    return Lines(
        shown=tuple(reading.take(reversed(entries))),
        looked=len(entries),
        said=said,
        kept=kept,
        older="" if is_all else at,
        cursor=entries[0].cursor if entries else "0",
    )

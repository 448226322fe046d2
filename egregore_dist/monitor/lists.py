"""The list of runs as an address says it: filters in, filters out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args
from urllib.parse import urlencode

from egregore_dist.ledger.records import RunState
from egregore_dist.ledger.runlist import Listed, Wanted
from egregore_dist.workflow import names

#: Runs, and messages set aside, on a page.
RUNS_SHOWN = 50
ASIDE_SHOWN = 200

STATES = get_args(RunState)

_LONGEST = 200
_LISTED = re.compile(rf"([0-9]{{1,16}})-({names.PATTERN})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the form above the list says.

    Attributes:
        state: one of `STATES`, or "".
        workflow: a name, or "".
        text: part of an id or a name, or "".
        since: ``YYYY-MM-DDTHH:MM`` in UTC, or "".
        until: the same.
        before: where the page begins, or None.
    """

    state: str = ""
    workflow: str = ""
    text: str = ""
    since: str = ""
    until: str = ""
    before: Listed | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """Read them from a query; what cannot be read is as if it were not there."""
        state = query.get("state", "")
        last = _LISTED.fullmatch(query.get("before", ""))
        return cls(
            state=state if state in STATES else "",
            workflow=query.get("workflow", "")[:_LONGEST].strip(),
            text=query.get("text", "")[:_LONGEST].strip(),
            since=_kept(query.get("since", "")),
            until=_kept(query.get("until", "")),
            before=None if last is None else Listed(int(last[1]), last[2]),
        )

    @property
    def wanted(self) -> Wanted:
        """As the ledger is asked."""
        return Wanted(
            states=frozenset([self.state] if self.state else []),
            workflow=self.workflow,
            text=self.text,
            since=_milliseconds(self.since),
            until=_milliseconds(self.until),
            before=self.before,
        )

    @property
    def is_filtering(self) -> bool:
        """Whether they leave any run out."""
        return any((self.state, self.workflow, self.text, self.since, self.until))

    def address(self, before: Listed | None = None) -> str:
        """The address of this list, of what comes after a run."""
        said = {
            "state": self.state,
            "workflow": self.workflow,
            "text": self.text,
            "since": self.since,
            "until": self.until,
            "before": "" if before is None else f"{before.at}-{before.id}",
        }
        query = urlencode({name: value for name, value in said.items() if value})
        return f"/?{query}" if query else "/"


def _kept(text: str) -> str:
    return text if _milliseconds(text) is not None else ""


def _milliseconds(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text[:_LONGEST]).replace(tzinfo=UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None

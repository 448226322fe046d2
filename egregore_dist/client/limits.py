"""Limits by name, as they are and as they are changed while runs go on."""

from __future__ import annotations

from types import EllipsisType

from egregore_dist.engine.places import Places
from egregore_dist.ledger import Ledger
from egregore_dist.ledger import limits as records
from egregore_dist.ledger.limits import Known
from egregore_dist.workflow import names
from egregore_dist.workflow.limits import Rule, rule


class Limits:
    """The limits of one cluster: ``connect(...).limits``.

    Methods raise `errors.BrokerUnavailable` where the ledger cannot be reached.
    """

    def __init__(self, ledger: Ledger, places: Places) -> None:
        self._ledger = ledger
        self._places = places

    def list(self) -> list[Known]:
        """Every limit that code has declared or somebody has set, by name."""
        return records.every(self._ledger)

    def show(self, name: str) -> Known | None:
        """One limit, or None."""
        return records.one(self._ledger, name)

    def set(
        self, name: str, *, concurrent: int | EllipsisType | None = ..., per: str | EllipsisType | None = ...
    ) -> Known:
        """Change what a limit lets run, for every run, from now on; what runs already is not stopped.

        It goes before what the code declares until it is cleared. One that no code has declared yet is kept for then.

        Args:
            name: the limit.
            concurrent: how many at a time, None for any number; absent, it stays as it is.
            per: how many may start in a time, None for any number; absent, it stays as it is.

        Raises:
            WorkflowError: one of them is not valid.
        """
        names.checked(name, "limit")
        known = records.one(self._ledger, name)
        before = Rule() if known is None else known.rule
        now_concurrent = (before.concurrent or None) if isinstance(concurrent, EllipsisType) else concurrent
        now_per = before.per if isinstance(per, EllipsisType) else per
        is_none = now_concurrent is None and now_per is None
        new = Rule() if is_none else rule(now_concurrent, now_per, f"limit {name!r}")
        self._edit(name, records.text_of(new, None if known is None else known.key))
        found = records.one(self._ledger, name)
        assert found is not None
        return found

    def clear(self, name: str) -> Known | None:
        """Forget what was set by hand: what the code declares holds again; of an idle limit that is forgotten too."""
        self._edit(name, "")
        return records.one(self._ledger, name)

    def _edit(self, name: str, rule: str) -> None:
        _, buckets = self._ledger.edit_limit(name, rule)
        for bucket in buckets:
            self._places.tend(bucket, "edit")

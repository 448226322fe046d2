"""What was measured: a document that is kept after every step, and its medians."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SECONDS = "seconds"
Rounds = list[list[float]]


class Results:
    """The document.

    Args:
        about: the machine, the date, and the like.
        file: where it is kept.
    """

    def __init__(self, about: dict[str, Any], file: Path | None = None) -> None:
        self.about = about
        self.peers: dict[str, dict[str, Any]] = {}
        self.cases: dict[str, dict[str, Any]] = {}
        self.values: dict[str, dict[str, dict[str, Rounds]]] = {}
        self.skipped: dict[str, dict[str, str]] = {}
        self._file = file

    @classmethod
    def read(cls, file: Path) -> Results:
        """Those that were kept in a file."""
        document = json.loads(file.read_text("utf-8"))
        found = cls(document["about"], file)
        found.peers, found.cases = document["peers"], document["cases"]
        found.values, found.skipped = document["values"], document["skipped"]
        return found

    def add(self, case: str, peer: str, metrics: dict[str, list[float]]) -> None:
        """One round's values of a case."""
        kept = self.values.setdefault(case, {}).setdefault(peer, {})
        for metric, values in metrics.items():
            kept.setdefault(metric, []).append(values)
        self.keep()

    def forget(self, case: str, peer: str) -> None:
        """Drop what is known of a case, to measure it anew."""
        for kept in (self.values, self.skipped):
            kept.get(case, {}).pop(peer, None)

    def skip(self, case: str, peer: str, reason: str) -> None:
        """Why the peer has no value, or no more of them."""
        self.skipped.setdefault(case, {})[peer] = reason
        self.keep()

    def rounds(self, case: str, peer: str, metric: str = SECONDS) -> Rounds:
        """The values of a case, round by round; empty where there are none."""
        return self.values.get(case, {}).get(peer, {}).get(metric, [])

    def median(self, case: str, peer: str, metric: str = SECONDS) -> float | None:
        """The median of the rounds' medians."""
        return middle(self.rounds(case, peer, metric))

    def ratio(self, ours: tuple[str, str, str], theirs: tuple[str, str, str]) -> float | None:
        """One median over another, paired by round where both were measured in each.

        Args:
            ours: case, peer and metric of what is above the line.
            theirs: those of what is below.
        """
        return paired(self.rounds(*ours), self.rounds(*theirs))

    def as_dict(self) -> dict[str, Any]:
        """For a program to read."""
        return {
            "about": self.about,
            "peers": self.peers,
            "cases": self.cases,
            "values": self.values,
            "skipped": self.skipped,
        }

    def keep(self) -> None:
        """Write it, whole or not at all; as long as there is nothing, what was there before stays."""
        if self._file is None or not (self.values or self.skipped):
            return
        new = self._file.with_suffix(".part")
        new.write_text(json.dumps(self.as_dict(), indent=1) + "\n", "utf-8")
        os.replace(new, self._file)


def middle(rounds: Rounds) -> float | None:
    """The median of the rounds' medians, so that a round with more values counts no more than another."""
    return statistics.median(statistics.median(values) for values in rounds) if rounds else None


def spread(rounds: Rounds) -> tuple[float, float]:
    """The least and the largest of all values."""
    flat = [value for values in rounds for value in values]
    return min(flat), max(flat)


def paired(above: Rounds, below: Rounds) -> float | None:
    """The median of the rounds' ratios, or the ratio of the medians where the rounds do not match."""
    if not above or not below:
        return None
    if len(above) == len(below):
        pairs = zip(above, below, strict=True)
        return statistics.median(statistics.median(one) / statistics.median(other) for one, other in pairs)
    return (middle(above) or 0.0) / (middle(below) or float("inf"))


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share * 1000) // 1000) - 1)]

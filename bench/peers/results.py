"""What was measured: a document that is kept after every step, and its medians."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SECONDS = "seconds"
NOT_BEGUN = "not begun: "
#: The values of each round, by the round's number.
Rounds = dict[int, list[float]]


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
        self.account: dict[str, Any] = {}
        self._file = file

    @classmethod
    def read(cls, file: Path) -> Results:
        """Those that were kept in a file."""
        document = json.loads(file.read_text("utf-8"))
        found = cls(document["about"], file)
        found.peers, found.cases = document["peers"], document["cases"]
        # JSON has no numbers for keys.
        found.values = {
            case: {
                peer: {
                    metric: {int(number): values for number, values in rounds.items()}
                    for metric, rounds in metrics.items()
                }
                for peer, metrics in by_peer.items()
            }
            for case, by_peer in document["values"].items()
        }
        found.skipped, found.account = document["skipped"], document["account"]
        return found

    def add(self, case: str, peer: str, number: int, metrics: dict[str, list[float]]) -> None:
        """The values of a case in the round of this number."""
        kept = self.values.setdefault(case, {}).setdefault(peer, {})
        for metric, values in metrics.items():
            kept.setdefault(metric, {})[number] = values
        self.keep()

    def last_round(self) -> int:
        """The largest number that a round has; 0 where there is none."""
        by_peer = [metrics for peers in self.values.values() for metrics in peers.values()]
        return max((number for metrics in by_peer for rounds in metrics.values() for number in rounds), default=0)

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
        return self.values.get(case, {}).get(peer, {}).get(metric, {})

    def median(self, case: str, peer: str, metric: str = SECONDS) -> float | None:
        """The median of the rounds' medians."""
        return middle(self.rounds(case, peer, metric))

    def ratios(self, ours: tuple[str, str, str], theirs: tuple[str, str, str]) -> list[float]:
        """One over another, once for each round that has both.

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
            "account": self.account,
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
    return statistics.median(medians(rounds)) if rounds else None


def medians(rounds: Rounds) -> list[float]:
    """The median of each round."""
    return [statistics.median(values) for values in rounds.values()]


def spread(rounds: Rounds) -> tuple[float, float]:
    """The least and the largest of all values."""
    flat = [value for values in rounds.values() for value in values]
    return min(flat), max(flat)


def paired(above: Rounds, below: Rounds) -> list[float]:
    """The ratio of the medians in each round that both have."""
    return [
        statistics.median(above[number]) / statistics.median(below[number])
        for number in sorted(above.keys() & below.keys())
    ]


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share * 1000) // 1000) - 1)]

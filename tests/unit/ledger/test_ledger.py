"""What a ledger makes of its server's answers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from egregore_dist.ledger import Lease, Ledger


@pytest.mark.parametrize("late", [1, 2, 100])
def test_a_server_that_is_always_late_is_believed_at_last(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    """What comes late is asked about again; where each answer is late, nobody would ever begin."""
    asked: list[list[Any]] = []
    now = [0.0]

    def answer(_name: str, _run: str, args: list[Any]) -> list[Any]:
        asked.append(args)
        now[0] += 1.1 if len(asked) <= late else 0.1
        return [b"open", 5, 1, [], [], 0, [], [], 0]

    ledger = Ledger("redis://127.0.0.1:1/0", retries=0)
    monkeypatch.setattr(ledger, "_transition", answer)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    served = ledger.serve("r", "0", 0, "w/1/lane.0")

    assert served.leases == (Lease(5),)
    assert len(asked) == min(1 + late, 4)

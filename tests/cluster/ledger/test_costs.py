"""What runs cost the server: generous limits that a change of the order of growth would pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from egregore_dist.ledger import Ledger
from egregore_dist.ledger.keys import ROOT
from tests.cluster.ledger.play import Play, numbers, ok, track

KILOBYTE = 1024


def calls(ledger: Ledger, act: Callable[[], object]) -> dict[str, int]:
    """How often the server was asked for each command by a client; what scripts call is not counted."""
    monitored: dict[str, int] = {}

    def count(command: str) -> None:
        monitored[command] = monitored.get(command, 0) + 1

    def send(*arguments: Any, **options: Any) -> Any:
        count(arguments[0].lower())
        return original(*arguments, **options)

    original = ledger.redis.execute_command
    ledger.redis.execute_command = send  # type: ignore[method-assign]
    try:
        act()
    finally:
        ledger.redis.execute_command = original  # type: ignore[method-assign]
    return monitored

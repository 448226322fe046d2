"""``docs/guarantees.md`` names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guarantees.md").read_text("utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("|")][2:]


def named_in(row: str) -> list[tuple[str, str]]:
    """The tests that a row names: file and function. ``::name`` is in the file of the one before."""
    found: list[tuple[str, str]] = []
    for file, name in re.findall(r"`([^`\s]*)::(\w+)`", row):
        found.append((file or found[-1][0], name))
    return found


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    """Each row names one at least, and none that is not there."""
    named = {row: named_in(row) for row in ROWS}
    missing = [
        f"{file}::{name}"
        for tests in named.values()
        for file, name in tests
        if not (ROOT / file).is_file() or f"def {name}(" not in (ROOT / file).read_text("utf-8")
    ]

    assert len(ROWS) > 20
    assert [row for row, tests in named.items() if not tests] == []
    assert missing == []

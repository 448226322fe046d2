"""By what a process that a branch started is known."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from egregore_dist.engine import marks

MARK = marks.of(Path("boards", "1"))


def mark_of_a_program() -> str:
    """The mark of one that this process starts."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
        return marks.read(psutil.Process(program.pid))


@pytest.mark.parametrize("way", ["a limit", "the environment"])
def test_what_a_process_starts_while_it_is_marked(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Where there is no limit for it, the mark is in the environment."""
    if way == "the environment":
        monkeypatch.setattr(marks, "_LIMIT", None)
    marks.put_on(MARK)
    try:
        assert mark_of_a_program() == MARK
    finally:
        marks.take_off()
    assert mark_of_a_program() != MARK


def test_boards_have_marks_of_their_own() -> None:
    """Of another worker's process with the same pid, and of one whose pid begins with the same digits."""
    assert len({MARK, marks.of(Path("others", "1")), marks.of(Path("boards", "12"))}) == 3

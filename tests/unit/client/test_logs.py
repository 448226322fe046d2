"""Lines of nodes as a client reads them: which are wanted, and how many are missing."""

from __future__ import annotations

from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.cli import logs as printed
from egregore_dist.client.logs import LogLine, Reading, Wanted, branch_of
from egregore_dist.ledger.logs import Entry, Line


def entry(number: int = 1, *, writer: str = "w1@here/7/ab", cursor: str = "1-1", **more: Any) -> Entry:
    """A line of branch 3, which is called left, of a block that is called pair."""
    given: dict[str, Any] = {"block": "0.0-1", "block_name": "pair", "branch": 3, "branch_name": "left", "attempt": 1}
    given |= {"node": "n", "source": "stdout", "level": 20, "text": "said", **more}
    return Entry(cursor, 1.5, writer, Line(number=number, **given))


def read(*entries: Entry, is_all: bool = True, **wanted: Any) -> list[LogLine]:
    return list(Reading(Wanted.of(**wanted), is_all=is_all).take(entries))


OF_RUN = {"block": "0", "block_name": "", "branch": 0, "branch_name": ""}


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"block": "pair"}, True),
        ({"block": "0.0-1"}, True),
        ({"block": "0"}, False),
        ({"block": ""}, False),
        ({"branch": 3}, True),
        ({"branch": "left"}, True),
        ({"branch": "3"}, False),
        ({"branch": 0}, False),
        ({"node": "n", "level": "info"}, True),
        ({"node": "m"}, False),
        ({"level": "WARNING"}, False),
        ({"level": 20}, True),
        ({"level": 21}, False),
    ],
)
def test_which_are_wanted(wanted: dict[str, Any], fits: bool) -> None:
    """A block by its id or name, a branch by its position or name, a node by its name, a level and those above."""
    assert bool(read(entry(), **wanted)) == fits


def test_lines_outside_of_blocks() -> None:
    """They have neither block nor branch, and are no branch's lines."""
    (line,) = read(entry(**OF_RUN))

    assert (line.block, line.block_name, line.branch, line.branch_name) == (None, None, None, None)
    assert read(entry(**OF_RUN), branch=0) == []
    assert len(read(entry(**OF_RUN), block="0", branch=0)) == 1


@pytest.mark.parametrize("level", ["LOUD", "", "off", -1, 1.5])
def test_a_level_that_there_is_not(level: object) -> None:
    """It is refused."""
    with pytest.raises(errors.ConfigurationError):
        Wanted.of(level=level)


def test_what_is_missing() -> None:
    """The next line of a branch that is shown says how many before it are not, whoever wrote between them."""
    other = "w2@here/9/cd"
    entries = [
        entry(3),
        entry(1, branch=4),
        entry(4),
        entry(1, writer=other, attempt=2),
        entry(10, level=10),
        entry(12),
        entry(2, writer=other, attempt=2),
    ]

    assert [line.dropped for line in read(*entries)] == [2, 0, 0, 0, 5, 1, 0]
    assert [line.dropped for line in read(*entries, is_all=False)] == [0, 0, 0, 0, 5, 1, 0]
    assert [line.dropped for line in read(*entries, level="INFO", branch=3)] == [2, 0, 0, 6, 0]


def test_what_a_line_has() -> None:
    """The worker, the level by its name, and the text."""
    (line,) = read(entry(level=40))
    (odd,) = read(entry(level=25))

    assert (line.worker, line.level, line.time, line.cursor) == ("w1@here", "ERROR", 1.5, "1-1")
    assert odd.level == "Level 25"


@pytest.mark.parametrize(
    ("text", "branch"),
    [(None, None), ("", None), ("7", 7), ("left", "left"), ("-1", "-1"), ("²", "²"), ("9" * 10, "9" * 10)],
)
def test_a_branch_as_it_is_written(text: str | None, branch: object) -> None:
    """Digits are a position, the rest is a name."""
    assert branch_of(text) == branch


def test_a_line_that_is_printed() -> None:
    """What a terminal would obey is shown, a text of several lines is indented, and what is missing is said."""
    (line,) = read(entry(8, text="one\x1b[2J\ntwo\r", block_name="a\nb", attempt=2, level=30))
    dropped, first, second = printed.text(line).splitlines()

    assert "7 lines of a\\nb/left/n (attempt 2) are not kept" in dropped
    assert first.endswith("  a\\nb/left/n (attempt 2)  one\\x1b[2J")
    assert second == "    two\\r"

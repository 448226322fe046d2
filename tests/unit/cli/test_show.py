"""How values look."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from egregore_dist import errors
from egregore_dist.cli import show


@dataclass
class Point:
    """A value of a user's own type."""

    x: int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ([1, "a", 2.5], [1, "a", 2.5]),
        ((1, (2,)), [1, [2]]),
        ({1: "a", ("k", 2): "b"}, {"1": "a", "['k', 2]": "b"}),
        (Point(1), {"x": 1}),
        ({"at": datetime(2026, 1, 2, tzinfo=UTC)}, {"at": "2026-01-02T00:00:00Z"}),
        (Decimal("1.50"), "1.50"),
        (b"ab", "YWI="),
        (3j, "3j"),
        ([float("nan"), {"a": float("-inf")}], ["nan", {"a": "-inf"}]),
    ],
)
def test_values_as_json(value: object, expected: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value has a form in JSON, if only its ``repr``."""
    show.print_json(value)

    assert json.loads(capsys.readouterr().out) == expected


def test_a_collected_error_as_json() -> None:
    """A branch's error is an object that says so."""
    found = show.plain({"a": errors.BranchError("a", type="ValueError", message="m", node="n")})

    assert found["a"]["error"] == {
        "branch": "a",
        "kind": "error",
        "type": "ValueError",
        "message": "m",
        "node": "n",
        "attempt": 1,
    }


def test_moments_are_iso() -> None:
    """Times in JSON are ISO 8601 in UTC."""
    assert show.moment(0.25) == "1970-01-01T00:00:00.250+00:00"
    assert show.moment(None) is None


def test_names_are_shown_not_obeyed() -> None:
    """A name with markup or an escape sequence is shown as it is."""
    assert show.text("[red]\x1b[2J").plain == "[red]\\x1b[2J"


def test_a_narrow_terminal_cuts_no_name_and_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where they do not fit, lines are longer than the terminal is wide; what is left is folded."""
    monkeypatch.setenv("COLUMNS", "40")
    table = show.table("FUNCTION", "EXECUTIONS", "CPU p95", "NODES", right=("EXECUTIONS", "CPU p95"))
    table.add_row(show.text("a.module:a_function_of_some_length"), "12", "13.5 ms", show.text("one, two, three"))
    show.print_table(table)
    lines = capsys.readouterr().out.splitlines()

    assert "FUNCTION" in lines[0]
    assert "EXECUTIONS" in lines[0]
    assert "a.module:a_function_of_some_length" in lines[2]
    assert "13.5 ms" in lines[2]

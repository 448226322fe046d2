"""What the pages of limits, and the command, count."""

from __future__ import annotations

import re
from typing import Any

import pytest

from egregore_dist.cli import limits
from egregore_dist.ledger.limits import Bucket, Known
from egregore_dist.workflow.limits import Rule
from tests.unit.monitor.test_escaping import PAGES, page

RULE = Rule(concurrent=4)


def limit(*, held: int, waiting: int = 0, key: str | None = None) -> Known:
    """A limit of four at a time."""
    bucket = Bucket(limit="model", value=key and "value", rule=RULE, held=held, waiting=waiting)
    return Known(name="model", rule=RULE, declared=RULE, is_set=False, key=key, buckets=(bucket,))


def shown(name: str, of: Known, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page of one limit, or of all."""
    asked: dict[str, Any] = {"limit": of} if name == "limit.html" else {"limits": [of]}
    monkeypatch.setitem(PAGES, name, PAGES[name] | asked)
    return page(name)


@pytest.mark.parametrize("name", ["limit.html", "limits.html"])
def test_pages_say_what_they_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are of branches, and what waits are blocks."""
    html = shown(name, limit(held=4, waiting=1), monkeypatch)

    assert ">Places in use<" in html
    assert ">Blocks that wait<" in html


def test_the_command_says_what_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """The same on a terminal."""
    limits._print(limit(held=4, waiting=1), wants_json=False)
    limits._print(limit(held=4), wants_json=False)

    said = capsys.readouterr().out
    assert "4 held, 1 block waits" in said
    assert "4 held, no blocks wait" in said


@pytest.mark.parametrize("name", ["limit.html", "limits.html"])
def test_a_full_limit_is_shown_as_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words, and in the colour of what has gone far; one with a place left is not, nor one with a key."""
    assert ">full<" in shown(name, limit(held=4), monkeypatch)
    assert ">full<" not in shown(name, limit(held=3), monkeypatch)
    assert ">full<" not in shown(name, limit(held=4, key="shop"), monkeypatch)


@pytest.mark.parametrize(("held", "is_above"), [(3, False), (4, True), (5, True)])
def test_the_meter_of_a_full_limit_is_not_green(held: int, is_above: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is above what is high, where a browser has another colour for it."""
    found = re.search(r'high="([\d.]+)" optimum="0" value="(\d)"', shown("limits.html", limit(held=held), monkeypatch))

    assert found is not None
    assert (float(found[2]) > float(found[1])) is is_above

"""The list's filters in an address."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest

from egregore_dist.ledger.runlist import Listed
from egregore_dist.monitor.lists import Filters


def test_filters_come_back_from_their_address() -> None:
    """What a list was filtered by is in its address, whatever signs it has."""
    filters = Filters(
        state="failed",
        workflow="a & b=c <script>",
        text="ä#?%",
        since="2026-01-02T03:04",
        until="2026-01-03T00:00",
        before=Listed(1700000000123, "order-42"),
    )

    address = filters.address(filters.before)

    assert Filters.of(dict(parse_qsl(urlsplit(address).query))) == filters


@pytest.mark.parametrize(
    "query",
    [
        {"state": "burnt"},
        {"before": "x"},
        {"before": "1-<script>"},
        {"before": "99999999999999999-x"},
        {"since": "yesterday"},
        {"until": "2026-13-40T00:00"},
        {"since": "9" * 5000},
        {"unknown": "1"},
    ],
    ids=str,
)
def test_what_cannot_be_read_filters_nothing(query: dict[str, str]) -> None:
    """An address that somebody made up shows all runs."""
    assert Filters.of(query) == Filters()


def test_times_are_utc() -> None:
    """Times of the form are UTC, as its labels say."""
    assert Filters.of({"since": "1970-01-01T00:01"}).wanted.since == 60_000


def test_texts_have_a_length() -> None:
    """A filter is as long as a name can be, and no longer."""
    assert len(Filters.of({"text": "x" * 5000}).text) == 200

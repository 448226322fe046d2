"""Extract, decide, transform in parallel, load into SQLite, and load only once, though the load node runs twice.

Dataclasses, dates and decimals travel as they are: a node gets what its annotations say.
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

from egregore_dist import Context, Sequence, decision, node, parallel


@dataclass(frozen=True)
class Order:
    """One sale."""

    at: datetime
    country: str
    product: str
    amount: Decimal


@node("extract")
def extract(orders: int, until: datetime) -> list[Order]:
    """Read the source system; here, make it up."""
    chance = random.Random(7)
    return [
        Order(
            at=until - timedelta(hours=chance.randrange(72)),
            country=chance.choice(["DE", "FR", "JP", "US"]),
            product=chance.choice(["chair", "lamp", "table"]),
            amount=Decimal(chance.randrange(1_000, 50_000)) / 100,
        )
        for _ in range(orders)
    ]


@decision("route")
def route(orders: list[Order]) -> Literal["totals_only", "full_report"]:
    """A handful of orders needs no breakdown."""
    return "full_report" if len(orders) > 100 else "totals_only"


@node("by_day")
def by_day(orders: list[Order]) -> dict[date, Decimal]:
    """Revenue a day; keys keep their type on the way."""
    revenue: defaultdict[date, Decimal] = defaultdict(Decimal)
    for order in orders:
        revenue[order.at.date()] += order.amount
    return dict(sorted(revenue.items()))


@node("by_country")
def by_country(orders: list[Order]) -> dict[str, Decimal]:
    """Revenue a country."""
    revenue: defaultdict[str, Decimal] = defaultdict(Decimal)
    for order in orders:
        revenue[order.country] += order.amount
    return dict(sorted(revenue.items()))


@node("by_product")
def by_product(orders: list[Order]) -> dict[str, Decimal]:
    """Revenue a product."""
    revenue: defaultdict[str, Decimal] = defaultdict(Decimal)
    for order in orders:
        revenue[order.product] += order.amount
    return dict(sorted(revenue.items()))


def build(database: Path) -> Sequence:
    """The workflow that loads into ``database``."""

    @node("load", retries=2)
    def load(report: dict[str, dict[str, dict[str, Decimal]]], context: Context) -> str:
        # The key is the same for each attempt of this execution: what is written under it is written once.
        with closing(sqlite3.connect(database)) as connection:
            with connection:
                connection.execute("CREATE TABLE IF NOT EXISTS loads (key TEXT PRIMARY KEY)")
                connection.execute("CREATE TABLE IF NOT EXISTS revenue (kind TEXT, name TEXT, amount TEXT)")
                new = connection.execute("INSERT OR IGNORE INTO loads VALUES (?)", [context.idempotency_key]).rowcount
                if new:
                    rows = [(kind, str(name), str(amount)) for kind, part in flat(report) for name, amount in part.items()]
                    connection.executemany("INSERT INTO revenue VALUES (?, ?, ?)", rows)
        if context.attempt == 1:
            raise ConnectionError("the connection broke after the commit")
        return f"attempt {context.attempt}: {'loaded' if new else 'was loaded already, nothing written'}"

    totals_only = parallel(by_day, name="totals_only")
    full_report = parallel(by_day, parallel(by_country, by_product, name="breakdown"), name="full_report")
    return Sequence(extract, route.to(totals_only, full_report), load, name="etl")

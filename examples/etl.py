"""Extract, decide, transform in parallel, and load into SQLite: only once, although the load runs twice.

Dataclasses, dates and decimals travel as they are: a node gets what its annotations say.
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

from egregore_dist import Context, Sequence, decision, node, parallel


@dataclass(frozen=True)
class Order:
    at: datetime
    country: str
    product: str
    amount: Decimal


@dataclass(frozen=True)
class Row:
    kind: str
    name: str
    revenue: Decimal


def revenue(kind: str, orders: list[Order], key: Callable[[Order], str]) -> list[Row]:
    """The sum of the orders for each key."""
    sums: dict[str, Decimal] = {}
    for order in orders:
        sums[key(order)] = sums.get(key(order), Decimal()) + order.amount
    return [Row(kind, name, sums[name]) for name in sorted(sums)]


@node("extract")
def extract(count: int, until: datetime) -> list[Order]:
    """Read the source; here, make it up."""
    chance = random.Random(7)

    def order() -> Order:
        at = until - timedelta(hours=chance.randrange(48))
        amount = Decimal(chance.randrange(1_000, 50_000)) / 100
        return Order(at, chance.choice(["DE", "FR", "JP"]), chance.choice(["chair", "lamp"]), amount)

    return [order() for _ in range(count)]


@decision("route")
def route(orders: list[Order]) -> Literal["brief", "full"]:
    return "full" if len(orders) > 100 else "brief"


@node("by_day")
def by_day(orders: list[Order]) -> list[Row]:
    return revenue("day", orders, lambda order: f"{order.at:%Y-%m-%d}")


@node("by_country")
def by_country(orders: list[Order]) -> list[Row]:
    return revenue("country", orders, lambda order: order.country)


@node("by_product")
def by_product(orders: list[Order]) -> list[Row]:
    return revenue("product", orders, lambda order: order.product)


@node("join")
def join(by_day: list[Row], breakdown: dict[str, list[Row]] | None = None) -> list[Row]:
    """A block gives the next step its results by name, and so do blocks inside it; parameters are found by name."""
    return by_day + [row for rows in (breakdown or {}).values() for row in rows]


brief = Sequence(parallel(by_day), join)
full = Sequence(parallel(by_day, parallel(by_country, by_product, name="breakdown")), join)


def build(database: str) -> Sequence:
    """The workflow that loads into ``database``; the load is a closure over it."""

    @node("load", retries=2)
    def load(rows: list[Row], context: Context) -> str:
        # The key is the same for each attempt of this execution, so what is written under it is written once.
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS loads (key TEXT PRIMARY KEY)")
            connection.execute("CREATE TABLE IF NOT EXISTS revenue (kind TEXT, name TEXT, amount TEXT)")
            new = connection.execute("INSERT OR IGNORE INTO loads VALUES (?)", [context.idempotency_key]).rowcount
            if new:
                for row in rows:
                    connection.execute("INSERT INTO revenue VALUES (?, ?, ?)", [row.kind, row.name, str(row.revenue)])
        if context.attempt == 1:
            raise ConnectionError("made up: the answer to the commit was lost")
        return f"attempt {context.attempt} {'wrote them' if new else 'found them written by the one before'}"

    return Sequence(extract, route.to(brief=brief, full=full), load, name="etl")


def main() -> None:
    """Run it for few orders and for many, and show what the database holds."""
    with tempfile.TemporaryDirectory() as folder:
        for count in (20, 5_000):
            database = str(Path(folder, f"{count}.db"))
            loaded = build(database)({"count": count, "until": datetime(2026, 3, 2, tzinfo=UTC)})
            with closing(sqlite3.connect(database)) as connection:
                rows = connection.execute("SELECT kind, name, amount FROM revenue").fetchall()
            print(f"{count} orders: {len(rows)} rows; {loaded}")
            for kind, name, amount in rows:
                print(f"  {kind:<8} {name:<11} {Decimal(amount):>14,}")


if __name__ == "__main__":
    main()

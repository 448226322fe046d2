"""The flows of a shop, for the pictures of the monitor in the docs."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Literal

from egregore_dist import Limit, Sequence, decision, node, parallel

#: Names a file: what is held waits until it is there.
GATE = "EGREGORE_SHOP_GATE"
#: Orders from this one on are held.
HELD_FROM = 40

log = logging.getLogger("shop")


def _wait() -> None:
    gate = Path(os.environ[GATE])
    while not gate.exists():
        time.sleep(0.05)


@node
def load(day: str) -> list[int]:
    """Read the orders of a day."""
    log.info("reading the orders of %s", day)
    return list(range(12))


@node
def prices(orders: list[int]) -> int:
    """Take a second."""
    time.sleep(0.9)
    return len(orders)


@node
def stock(orders: list[int]) -> int:
    """Take half of one."""
    time.sleep(0.5)
    return len(orders)


@node(limit=Limit(concurrent=4, per="40/s", name="shops"))
def fetch(order: int) -> int:
    """Ask a shop for an order."""
    if order >= HELD_FROM:
        _wait()
    time.sleep(0.15 + 0.05 * (order * 7 % 9))
    print(f"order {order}: {200 + order} bytes")
    if order == 7:
        log.warning("order 7 has no address, taking that of the account")
    return 200 + order


@node
def merge(sizes: list[int]) -> int:
    """Add up."""
    return sum(sizes)


@decision
def route(gathered: dict[str, int]) -> Literal["small", "big"]:
    """Tell small days from big ones."""
    return "small" if gathered["pages"] < 10_000 else "big"


@node
def publish(gathered: dict[str, int]) -> str:
    """Wait for somebody to let it go on."""
    _wait()
    return "published"


@node
def archive(gathered: dict[str, int]) -> str:
    """Take a moment."""
    time.sleep(0.3)
    return "archived"


@node
def batch(gathered: dict[str, int]) -> str:
    """What big days get."""
    return "later"


@node
def report(done: object) -> str:
    """The last one."""
    return "done"


@node(retries=1, retry_on=ConnectionError, retry_delay=0.2)
def charge(account: int) -> int:
    """Ask the bank, which refuses one of them."""
    print(f"charging account {account}")
    time.sleep(0.2)
    if account == 3:
        raise ConnectionError("the bank has answered 503: try again after 02:00")
    return account


@node
def hello(name: str) -> str:
    """Greet."""
    return f"hello {name}"


_pages = Sequence(fetch.map(max_concurrent=4, name="fetch_all"), merge, name="pages")
_deliver = parallel(publish, archive, name="deliver")
nightly = Sequence(
    load,
    parallel(prices, _pages, stock, timeout=60, name="gather"),
    route.to(small=_deliver, big=batch),
    report,
    name="nightly",
)
billing = Sequence(charge.map(max_concurrent=2, name="charge_all"), report, name="billing")
fetch_again = fetch.map(name="fetch_again")
greet = Sequence(hello, name="greet")

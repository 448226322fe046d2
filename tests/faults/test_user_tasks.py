"""Tasks of a user's own, in an app that this package is installed into: none is worse off than without it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import chain, chord, group

from tests.support import shops
from tests.support.clusters import RABBITMQ, answers, delete_queues
from tests.support.shops import Shop

ON_LOSS = "worker_cancel_long_running_tasks_on_connection_loss"

# Stock outcomes that are compared with before one of ours counts as different: some are decided by a race.
TRIES = 4

# Seconds that a task may take longer than with stock Celery, whose pool replaces a killed process after up to five.
SLACK = 7.0

URLS = {"redis": None, "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//"}
BROKERS = ["redis", *(["rabbitmq"] if answers(RABBITMQ) else [])]

# Acknowledged before it begins, after it has ended, and after it has ended unless its process dies.
TASKS = ["early", "late", "safe"]

_numbers = itertools.count()


@pytest.mark.parametrize("cancels", [True, False], ids=["cancelled", "kept"])
def test_a_task_survives_a_cut_connection(cancels: bool, tmp_path: Path) -> None:
    """A task that is acknowledged late ends well when the connection is cut, whether Celery cancels it then or not."""
    with shops.opened(tmp_path, installed=True, conf={ON_LOSS: cancels}) as shop:
        result = shop.app.tasks["late"].delay("cut", "", 2.0)
        shop.begun("cut")
        shop.proxy.cut()

        assert shop.ends(result)[0] == "SUCCESS"
        # Only one that was cancelled runs again.
        assert shop.runs("cut") == (2 if cancels else 1)


class Outcome(NamedTuple):
    """How a task ended."""

    state: str
    runs: int
    result: str


Begin = Callable[[Shop, Any, str], Any]


def _sent(*args: Any, **options: Any) -> Begin:
    return lambda shop, task, key: task.apply_async((key, *args), **options)


def _cut(begin: Begin) -> Begin:
    """The connection to the broker is cut, once the worker has all that was sent: on the way, messages can be lost."""

    def cut(shop: Shop, task: Any, key: str) -> Any:
        result = begin(shop, task, key)
        shop.holds(*_sent_at_once(result))
        shop.proxy.cut()
        return result

    return cut


def _revoked(begin: Begin, *, begun: bool = True, **options: Any) -> Begin:
    def revoke(shop: Shop, task: Any, key: str) -> Any:
        result = begin(shop, task, key)
        if begun:
            shop.begun(key)
        else:
            shop.holds(result)
        result.revoke(**options)
        return result

    return revoke


def _sent_at_once(result: Any) -> list[Any]:
    # Those of a group, the header of a chord, the first of a chain, or the only one.
    while result.parent is not None:
        result = result.parent
    return getattr(result, "results", None) or [result]


def _beside(key: str) -> str:
    # Counted apart: what happens, happens to the first execution of the other.
    return f"{key}, beside"


def _chord(*special: Any) -> Begin:
    def begin(shop: Shop, task: Any, key: str) -> Any:
        header = [task.si(key, *special), task.si(_beside(key), "", 0.5), task.si(_beside(key), "", 0.5)]
        return chord(header, shop.app.tasks["total"].s()).apply_async()

    return begin


def _group(*special: Any) -> Begin:
    def begin(shop: Shop, task: Any, key: str) -> Any:
        return group(task.si(key, *special), task.si(_beside(key), "", 0.5), app=shop.app).apply_async()

    return begin


def _chain(*special: Any) -> Begin:
    def begin(shop: Shop, task: Any, key: str) -> Any:
        more = shop.app.tasks["more"]
        return chain(task.si(key, *special), more.s(_beside(key)), more.s(_beside(key)), app=shop.app).apply_async()

    return begin


#: What happens to a task.
EVENTS: dict[str, Begin] = {
    "nothing": _sent(),
    "countdown": _sent(countdown=1),
    "failure": _sent("fail"),
    "retry": _sent("retry"),
    "kill": _sent("die", 0.2),
    "soft limit": _sent("", 20.0, soft_time_limit=1),
    "hard limit": _sent("", 20.0, time_limit=1),
    "revoke, SIGTERM": _revoked(_sent("", 20.0), terminate=True),
    "revoke, SIGKILL": _revoked(_sent("", 20.0), terminate=True, signal="SIGKILL"),
    "revoke while waiting": _revoked(_sent(countdown=2), begun=False),
    "chord": _chord("", 0.5),
    "chord, failure": _chord("fail"),
    "chord, kill": _chord("die"),
    "group": _group("", 0.5),
    "group, kill": _group("die"),
    "chain": _chain("", 0.5),
    "chain, retry": _chain("retry"),
    "chain, kill": _chain("die"),
}

#: What happens to a task when its worker's connection is cut.
CUTS: dict[str, Begin] = {
    "cut": _cut(_sent("", 2.0)),
    "cut, kill": _cut(_sent("die", 2.0)),
    "cut while waiting": _cut(_sent("", 0.2, countdown=2)),
    "cut, retry": _cut(_sent("retry", 1.0)),
    "cut, chord": _cut(_chord("", 2.0)),
    "cut, group": _cut(_group("", 2.0)),
    "cut, chain": _cut(_chain("", 2.0)),
}

CASES = [
    *((False, event, task) for event in EVENTS for task in TASKS),
    *((cancels, event, task) for cancels in (True, False) for event in CUTS for task in TASKS),
]


def _name(case: tuple[bool, str, str]) -> str:
    cancels, event, task = case
    return f"{event}, {task}{', cancelled' if cancels else ''}"


def _is_no_worse(ours: Outcome, stock: Outcome, *, is_cut: bool) -> bool:
    # Stock Celery also executes a task again that goes on while its connection is made anew.
    runs = ours.runs <= stock.runs if is_cut else ours.runs == stock.runs
    return runs and (ours.state, ours.result) == (stock.state, stock.result)


class Pair:
    """Two workers of the same app, behind one broker of each kind: stock Celery and ours."""

    def __init__(self, stock: Shop, ours: Shop) -> None:
        self.stock, self.ours = stock, ours


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, bool], Pair]]:
    """Makes such a pair when it is first needed."""
    made: dict[tuple[str, bool], Pair] = {}
    with ExitStack() as stack:

        def get(broker: str, cancels: bool) -> Pair:
            if (broker, cancels) not in made:
                made[broker, cancels] = Pair(*(opened(broker, cancels, installed) for installed in (False, True)))
            return made[broker, cancels]

        def opened(broker: str, cancels: bool, installed: bool) -> Shop:
            name, url = f"shop-{os.getpid()}-{next(_numbers)}", URLS[broker]
            if url is not None:
                stack.callback(delete_queues, url, [name, f"egregore-{name}"])
            folder = tmp_path_factory.mktemp(name)
            # A worker of a user's own app may have any of these, whatever the limits of its pool.
            conf = {ON_LOSS: cancels, "task_send_sent_event": True}
            return stack.enter_context(shops.opened(folder, installed=installed, conf=conf, broker=url, name=name))

        yield get


def _end(shop: Shop, case: tuple[bool, str, str]) -> tuple[Outcome, float]:
    """Let it happen to one task: how that ended, and how many seconds that took."""
    _, event, name = case
    key = f"{event}.{name}.{next(_numbers)}"
    began = time.monotonic()
    result = (EVENTS | CUTS)[event](shop, shop.app.tasks[name], key)
    parts = getattr(result, "results", None) or [result]
    states = [shop.ends(part)[0] for part in parts]
    took = time.monotonic() - began
    shop.rests()
    values = [_shown(part) for part in parts]
    return Outcome(" ".join(sorted(states)), shop.runs(key) + shop.runs(_beside(key)), " ".join(sorted(values))), took


def _shown(result: Any) -> str:
    value = result.result
    return type(value).__name__ if isinstance(value, BaseException) else repr(value)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("case", CASES, ids=_name)
@pytest.mark.parametrize("kind", BROKERS)
def test_a_task_ends_as_with_stock_celery(
    pairs: Callable[[str, bool], Pair], kind: str, case: tuple[bool, str, str]
) -> None:
    """The same state, result and number of executions, and no later, whatever happens to it.

    Only where a connection is cut may there be fewer executions than with stock Celery.
    """
    pair = pairs(kind, case[0])
    with ThreadPoolExecutor(2) as both:
        (stock, usual), (ours, took) = both.map(lambda shop: _end(shop, case), (pair.stock, pair.ours))
    outcomes, longest = [stock], usual

    def is_no_worse() -> bool:
        return took <= longest + SLACK and any(_is_no_worse(ours, each, is_cut=case[1] in CUTS) for each in outcomes)

    while not is_no_worse() and len(outcomes) < TRIES:
        stock, usual = _end(pair.stock, case)
        outcomes.append(stock)
        longest = max(longest, usual)
    print(f"{kind} | {_name(case)} | {outcomes} in {longest:.1f} s | {ours} in {took:.1f} s")

    assert is_no_worse(), (outcomes, longest, ours, took)

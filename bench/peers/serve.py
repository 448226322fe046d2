"""``python -m bench.peers.serve DRIVER``: a peer's process, which does what it reads from its standard input."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from bench.peers import work as functions
from bench.peers.protocol import Driver, Setup, Unsupported, Work

# Seconds between two looks at whether a large block runs, and until one of which nobody can tell is taken to run.
_LOOK_EVERY, _LEAD = 0.005, 0.5
# No small block begins when less than this share of the large one is left: it might outlast it, and be faster for that.
_LEAST_LEFT = 0.1


def measure(driver: Driver, work: Work, *, warm: int, repeats: int, within: float) -> dict[str, Any]:
    """Time the work ``repeats`` times; after ``within`` seconds neither warming nor timing goes on, but once each."""
    call = _checked(driver.prepare(work), work.expected)
    begun = time.perf_counter()
    calls = 0
    for _ in range(warm):
        call()
        calls += 1
        if time.perf_counter() - begun > within:
            break
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < repeats and (not taken or time.perf_counter() - begun < within):
        driver.settle()
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return {"seconds": taken, "calls": calls + len(taken)}


def runs(driver: Driver, work: Work, *, threads: int, warm: int, seconds: float) -> dict[str, Any]:
    """Do the work again and again from several threads, and time each."""
    call = _checked(driver.prepare(work), work.expected)
    for _ in range(warm):
        call()
    driver.settle()
    taken: list[float] = []
    failed: list[BaseException] = []
    begun = time.perf_counter()

    def client() -> None:
        try:
            while (started := time.perf_counter()) - begun < seconds:
                call()
                taken.append(time.perf_counter() - started)
        except BaseException as error:
            failed.append(error)

    clients = [threading.Thread(target=client, daemon=True) for _ in range(threads)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    if failed:
        raise failed[0]
    return {"latencies": taken, "elapsed": time.perf_counter() - begun}


def beside(driver: Driver, work: Work, large: Work, *, repeats: int) -> dict[str, Any]:
    """Time the work on an idle cluster, and then while the large piece of work runs.

    A driver that can tell what is left of the large one says when it has begun, and when to stop: what the client still
    has to read when all branches are done is no load for the cluster. For others it runs until the client has all.
    """
    call, big = _checked(driver.prepare(work), work.expected), _checked(driver.prepare(large), large.expected)
    call()
    idle = measure(driver, work, warm=0, repeats=repeats, within=10.0)["seconds"]
    failed: list[BaseException] = []

    def background() -> None:
        try:
            big()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=background, daemon=True)
    thread.start()
    left = _begun(driver, thread)
    busy: list[float] = []
    lefts: list[float] = []
    while len(busy) < repeats and thread.is_alive() and (left is None or left >= _LEAST_LEFT * large.count):
        started = time.perf_counter()
        call()
        # One that outlasts the large one has waited for all of it: that counts, and is the last.
        busy.append(time.perf_counter() - started)
        lefts += [] if left is None else [left / large.count]
        left = driver.left()
    thread.join()
    if failed:
        raise failed[0]
    if not busy:
        raise Unsupported("the large block had ended before the small one began")
    return {"seconds": busy, "idle": idle, "left": lefts}


def _begun(driver: Driver, thread: threading.Thread) -> int | None:
    """Wait until what the thread does is begun; what is left of it."""
    while (left := driver.left()) == 0 and thread.is_alive():
        time.sleep(_LOOK_EVERY)
    if left is None:
        time.sleep(_LEAD)
    return left


def answer(driver: Driver, request: dict[str, Any]) -> dict[str, Any]:
    """Do what one request asks."""
    what = request.pop("do")
    if what == "start":
        driver.start(Setup(**request))
        return {}
    work = Work(**request.pop("work"))
    if what == "measure":
        return measure(driver, work, **request)
    if what == "runs":
        return runs(driver, work, **request)
    if what == "beside":
        return beside(driver, work, Work(**request.pop("large")), **request)
    raise ValueError(f"nobody knows how to {what!r}")


def main() -> None:
    """Serve until told to stop, or until the harness is gone."""
    # What the peer prints, or starts, must not get at the conversation.
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _leave)
    driver: Driver = importlib.import_module(f"bench.peers.drivers.{sys.argv[1]}").Driver()
    try:
        for line in requests:
            request = json.loads(line)
            if request["do"] == "stop":
                break
            reply: dict[str, Any]
            try:
                reply = {"ok": True, **answer(driver, request)}
            except Unsupported as error:
                reply = {"ok": False, "unsupported": str(error)}
            except Exception as error:
                traceback.print_exc()
                reply = {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
            answers.write(json.dumps(reply) + "\n")
            answers.flush()
    finally:
        driver.stop()


def _checked(call: Callable[[], object], expected: int) -> Callable[[], None]:
    def checked() -> None:
        found = functions.leaves(call())
        if found != expected:
            raise RuntimeError(f"{found} results came back, not {expected}")

    return checked


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(1)


if __name__ == "__main__":
    main()

"""``python -m bench.peers.accounts CASE ...``: where the time of cases goes that were measured, printed as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import click
import redis

from bench import account, plain, relay, slots
from bench.peers import cases as catalogue
from bench.peers import processes
from bench.peers.cases import CLIENTS, TWO, Case
from bench.peers.drivers import ours
from bench.peers.harness import grouped
from bench.peers.protocol import Setup
from bench.peers.results import Results
from bench.peers.targets import targets
from egregore_dist.client import session, timeline
from egregore_dist.client.server import Server
from egregore_dist.ledger.keys import ROOT
from egregore_dist.resources import report

#: Cases that an account is made of, whatever was reached.
ALWAYS = ("trivial-3", "trivial-1000", "trivial-100000")
# Branches of a block that is small.
_SMALL = 10
_ROUNDS, _MAKESPANS, _HANDED = 3, 5, 200
_A_CLIENT = 8
_TIMEOUT = 420.0
#: Seconds that the account takes, about.
SECONDS = 130.0


class NoAccount(Exception):
    """Raised where no account can be made; the message says why."""


def wanted(results: Results, among: Collection[str]) -> list[str]:
    """The cases to account for, among these: some always, and those of each figure that is not reached."""
    missed = [target.line.case for target in targets(results) if target.reached is False]
    names = {*ALWAYS, *missed}
    # A block beside another has no account of its own.
    modes = ("measure", "runs")
    return [case.name for case in catalogue.every() if case.name in names.intersection(among) and case.mode in modes]


def ask(names: Sequence[str], *, spy: str, mark: str, quick: bool) -> dict[str, Any]:
    """Make the account in a process of its own.

    Args:
        names: the cases.
        spy: where py-spy is; empty where it is to be found.
        mark: of all processes.
        quick: tiny work, to see that it works.

    Raises:
        NoAccount: it could not be made.
    """
    command = [sys.executable, "-m", "bench.peers.accounts", *names]
    command += [*(["--spy", spy] if spy else []), *(["--quick"] if quick else [])]
    environment = {**os.environ, "PYTHONPATH": str(processes.ROOT), processes.MARK: mark}
    try:
        done = subprocess.run(
            command,
            cwd=processes.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise NoAccount(f"it did not end within {_TIMEOUT:.0f} s") from None
    finally:
        processes.sweep(mark)
    if done.returncode:
        raise NoAccount(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "its process ended")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def make(names: Sequence[str], *, spy: Sequence[str] | None, quick: bool) -> dict[str, Any]:
    """The account of these cases, and the limits that they are held against."""
    found: dict[str, Any] = {"cores": report.measure().cores, "cases": {}, "profiler": "", "limits": {}}
    known = [case for case in catalogue.every(quick=quick) if case.name in names]
    for group in grouped(known):
        with _cluster(group[0].setup) as (server, parts):
            for case in group:
                found["cases"][case.name] = made = _of_case(case, parts, server, quick=quick)
                try:
                    made["modules"] = _modules(case, parts, spy, quick=quick) if case.ideal is None else {}
                except account.NoProfiler as error:
                    found["profiler"] = str(error)
    found["limits"] = _limits(_HANDED // 10 if quick else _HANDED)
    return found


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--spy", help="The program py-spy.")
@click.option("--quick", is_flag=True, help="Tiny work: to see that all works.")
def main(names: tuple[str, ...], spy: str | None, quick: bool) -> None:
    """Print where the time of these cases goes."""
    click.echo(json.dumps(make(names, spy=[spy] if spy else None, quick=quick)))


@contextmanager
def _cluster(setup: Setup) -> Iterator[tuple[redis.Redis, account.Processes]]:
    with Server.start(tcp=True) as server, redis.Redis.from_url(server.url) as connection:
        driver = ours.Driver()
        driver.start(replace(setup, server=server.tcp_url))
        try:
            workers = tuple(worker.pid for worker in driver.cluster.workers if worker.pid is not None)
            assert server.pid is not None
            yield connection, account.Processes(client=os.getpid(), server=server.pid, workers=workers)
        finally:
            driver.stop()


def _of_case(case: Case, parts: account.Processes, server: redis.Redis, *, quick: bool) -> dict[str, Any]:
    work, units = _work(case)
    rounds, least = (1, 0.1) if quick else (_ROUNDS, 2.0)
    cost = account.cost(parts, server, work, units=units, rounds=rounds, least=least)
    made = {"unit": "branch" if units > 1 and case.mode == "measure" else "run", "units": units, **asdict(cost)}
    if case.ideal is not None:
        made["makespan"] = [_makespan(case) for _ in range(1 if quick else _MAKESPANS)]
    return made


def _work(case: Case) -> tuple[Callable[[], object], int]:
    """What does all units of a case once, and how many those are."""
    step, data = ours.built(case.work)
    if case.mode == "runs":
        pool, count = ThreadPoolExecutor(CLIENTS), CLIENTS * _A_CLIENT
        return lambda: list(pool.map(lambda _: step.run(data), range(count))), count
    return lambda: step.run(data), _units(case)


def _units(case: Case) -> int:
    """A small block is accounted for as one run, and so is one of which the whole is what counts."""
    return 1 if case.work.expected <= _SMALL or case.ideal is not None else case.work.expected


def _modules(
    case: Case, parts: account.Processes, spy: Sequence[str] | None, *, quick: bool
) -> dict[str, list[tuple[str, float]]]:
    work, units = _work(case)
    options = {"seconds": 1} if quick else {}
    return account.by_module(parts, work, units=units, spy=spy, **options)


def _makespan(case: Case) -> dict[str, float]:
    work = case.work
    step, data = ours.built(work)
    begun = time.perf_counter()
    run = step.submit(data)
    run.result(progress=False)
    wall = time.perf_counter() - begun
    seen = timeline.Timeline()
    timeline.read_on(session.current().ledger, run.id, seen)
    executions = [
        slots.Execution(attempt.start, attempt.end)
        for (block, _), attempts in seen.attempts.items()
        for attempt in attempts
        if block != ROOT and attempt.end is not None
    ]
    assert seen.submitted is not None
    assert seen.ended is not None
    return slots.parts(
        executions,
        asked=sum(map(float, work.inputs)),
        slots=min(work.cap or case.setup.slots, case.setup.slots),
        submitted=seen.submitted,
        ended=seen.ended,
        wall=wall,
    )


def _limits(times: int) -> dict[str, Any]:
    """What a run of few branches cannot do without: the handing over alone, and one task of plain Celery."""
    with Server.start(tcp=True) as server:
        handed = relay.seconds(server.tcp_url, times)
        with plain.running(server.tcp_url, processes=TWO.processes) as celery:
            tasks = [_timed(celery.task) for _ in range(times)]
    return {"relay": {"seconds": handed, "wakes": relay.WAKES, "sent": relay.SENT}, "task": {"seconds": tasks}}


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

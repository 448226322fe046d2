"""Runs of mixed shape for a long time, and a fault every 5 to 40 seconds: nothing is lost, doubled, stuck or leaked.

    python -m tests.soak [--seconds 1800] [--rate 20] [--seed N]

Ends with code 0 if the checker found nothing, memory and keys stayed flat, and there were faults enough.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass
from statistics import fmean, median

import psutil

from egregore_dist import errors
from egregore_dist.ledger.connection import reachable
from tests.soak.faults import Faults, add_far, children
from tests.soak.load import Load
from tests.support.history import percentile, told
from tests.support.netns import Host
from tests.support.trial import Trial
from tests.support.waiting import let_pass

# Long enough for the checker, which looks at a run some seconds after its end, on a busy machine too.
RETENTION = 90.0
# A sample a second; what the first third shows is warming up.
WARM = 1 / 3
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory in bytes, ``at`` in seconds from the start; ``pool``: of the worker's pool process that has most."""

    at: float
    worker: int
    pool: int
    server: int
    keys: int


def main() -> int:
    """Soak; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rate", type=float, default=20.0, help="runs a second")
    parser.add_argument("--seed", default=str(secrets.randbelow(10**6)))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s, {options.rate:g} runs/s", flush=True)
    try:
        problems = soak(options.seconds, options.rate, options.seed)
    except AssertionError as error:
        # What the trial itself finds, at its start or at its end.
        problems = [str(error)]
    for problem in problems:
        print(f"FAILED: {problem}")
    print("the soak has failed" if problems else "the soak has passed")
    return 1 if problems else 0


def soak(seconds: float, rate: float, seed: str) -> list[str]:
    """Soak and print the figures; returns what is wrong."""
    settings = {"retention": str(RETENTION)}
    with Trial(workers=3, concurrency=2, seed=seed, settings=settings, looks_at_runs=False, tcp=True) as trial:
        host = add_far(trial)
        load = Load(trial, rate=rate, seed=seed)
        load.start()
        began = time.monotonic()
        done, samples = disturb(trial, seconds, seed, load, host)
        took = time.monotonic() - began
        load.stop(within=120.0)
        problems = report(load, done, samples, took)
        let_pass(RETENTION + 5.0)
        left = for_ever(trial)
    print(f"keys: {left} do not expire once all runs have")
    if left > samples[0].keys + 20:
        problems.append(f"{left} keys are there for ever")
    wanted = int(20 * seconds / 1800)
    if done.total() < wanted:
        problems.append(f"{done.total()} faults, and {wanted} are wanted")
    return problems


def disturb(
    trial: Trial, seconds: float, seed: str, load: Load, host: Host | None
) -> tuple[Counter[str], list[Sample]]:
    """Do faults and take samples for so long."""
    rng = random.Random(f"{seed}/faults")
    faults, done, samples = Faults(trial, rng, host), Counter[str](), []
    began = time.monotonic()
    due = rng.uniform(5, 40)
    while (at := time.monotonic() - began) < seconds:
        if at >= due:
            kind = faults.any()
            done[kind] += 1
            due = time.monotonic() - began + rng.uniform(5, 40)
            print(f"{at:7.1f} s  {kind}; {load.waiting} runs are going on, {len(load.breaches)} breaches", flush=True)
        try:
            samples.append(sample(trial, at))
        except errors.BrokerUnavailable:
            pass
        time.sleep(1.0)
    return done, samples


def sample(trial: Trial, at: float) -> Sample:
    """Measure now."""
    with reachable():
        server, worker = trial.ledger.redis, trial.nodes[0]
        used, keys = int(server.info("memory")["used_memory"]), int(server.dbsize())
    # Between a kill and the next start there may be none.
    pool = max((rss(pid) for pid in children(worker)), default=0)
    return Sample(at, rss(worker.pid), pool, used, keys)


def for_ever(trial: Trial) -> int:
    """How many keys do not expire. Celery keeps its counters of a chord for minutes, longer than a run is kept here."""
    server = trial.ledger.redis
    return [server.ttl(key) for key in server.scan_iter(count=1000)].count(-1)


def report(load: Load, done: Counter[str], samples: list[Sample], took: float) -> list[str]:
    """Print the figures; returns what is wrong with them."""
    print(f"{load.submitted.total()} runs in {took:.0f} s, {load.submitted.total() / took:.1f}/s; {dict(load.ended)}")
    print(f"submits tried again: {load.refused}; faults: {done.total()}")
    for kind, count in sorted(done.items()):
        print(f"  {count:4} {kind}")
    print(
        f"seconds from submit to end: median {median(load.latencies):.2f}, p99 {percentile(load.latencies, 99):.2f}, "
        f"max {max(load.latencies):.2f}"
    )
    print(f"breaches: {len(load.breaches)}")
    problems = [told(load.breaches)] if load.breaches else []
    steady = [it for it in samples if it.at >= took * WARM]
    is_long = len(steady) >= 60
    if not is_long:
        print("too short for slopes")
        steady = samples
    first = samples[0]
    for name, start, values in (
        ("worker", first.worker, [it.worker for it in steady]),
        ("pool", first.pool, [it.pool for it in steady]),
        ("server", first.server, [it.server for it in steady]),
    ):
        slope = slope_of([it.at for it in steady], values) * 60 / MIB
        print(
            f"memory of the {name}: {start / MIB:.1f} MiB at the start, {values[0] / MIB:.1f} once warm, "
            f"{values[-1] / MIB:.1f} at the end, {slope:+.3f} MiB/min"
        )
        if is_long and slope > 1.0:
            problems.append(f"the memory of the {name} grows by {slope:.2f} MiB a minute")
    half = len(steady) // 2
    early, late = (fmean(it.keys for it in part) for part in (steady[:half], steady[half:]))
    print(
        f"keys: {first.keys} at the start, {steady[0].keys} once warm, {steady[-1].keys} at the end; "
        f"{early:.0f} on average in the first half, {late:.0f} in the second"
    )
    if is_long and late > 1.2 * early + 100:
        problems.append(f"the number of keys grows from {early:.0f} to {late:.0f}")
    return problems


def slope_of(xs: list[float], ys: list[int]) -> float:
    """The slope of the line that fits best."""
    x, y = fmean(xs), fmean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def rss(pid: int) -> int:
    """The memory of a process; 0 of one that has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    sys.exit(main())

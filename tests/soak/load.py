"""The soak's load: runs of mixed shape, submitted at a rate, each checked after its end and then forgotten."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from egregore_dist import BranchError, Run, RunFailed, Sequence, errors, node, parallel
from egregore_dist.ledger import ENDED, Ledger
from egregore_dist.ledger.connection import reachable
from tests.support import history
from tests.support.history import Broken, Execution, History, RunHistory, Seen
from tests.support.trial import Trial
from tests.support.work import anap, join, moment, nap, overlong, quick, spin, waits

# Seconds after its end at which a run is looked at: what must not happen after the end has had its time.
LOOK_AFTER = 3.0
# Seconds that a deadline may be late: the server itself is away for some.
LATE = 20.0


@node
def broken(data: Any) -> None:
    """Fails."""
    raise ValueError("broken")


def _nested(rng: random.Random) -> tuple[Any, Any]:
    inner = Sequence(parallel(quick, nap, name="inner"), join).alias("in")
    return Sequence(parallel(inner, nap, anap, max_concurrent=rng.choice([None, 1, 2])), join), 0.02


SHAPES: dict[str, Callable[[random.Random], tuple[Any, Any]]] = {
    "node": lambda rng: (quick, 1),
    "block": lambda rng: (Sequence(parallel(quick, nap, anap), join), 0.02),
    "map": lambda rng: (Sequence(quick.map(max_concurrent=rng.choice([None, 3])), join), list(range(30))),
    "async map": lambda rng: (anap.map(max_concurrent=rng.choice([None, 5])), [0.05] * 20),
    "on threads": lambda rng: (Sequence(waits.map(max_concurrent=rng.choice([None, 5])), join), [0.05] * 20),
    "overlong": lambda rng: (Sequence(overlong.map(on_error="collect"), join), [0.05] * 6 + [60.0] * 3),
    "nested": _nested,
    "computing": lambda rng: (Sequence(parallel(spin, quick), join), 0.05),
    "long": lambda rng: (parallel(nap, quick), rng.uniform(0.5, 2.0)),
    "failing": lambda rng: (parallel(broken, nap, quick), 0.02),
    "collecting": lambda rng: (Sequence(parallel(broken, nap, on_error="collect"), join), 0.02),
    "timed out": lambda rng: (parallel(anap, quick, timeout=0.5), 30.0),
    "sequence": lambda rng: (Sequence(moment, parallel(nap, anap), join), 0),
}
# Each overlong run costs a process, and a slot until it is killed: few, so that the others are not kept waiting.
WEIGHTS = {"node": 6, "block": 4, "map": 3, "overlong": 0.1}


def is_right(shape: str, state: str, value: Any) -> bool:
    """Whether a run of a shape may end so. A branch may be lost, where faults met it three times."""
    if shape in ("failing", "timed out"):
        return state in ("failed", "cancelled")
    if state != "succeeded":
        return state == "cancelled"
    match shape:
        case "map":
            return len(value) == 30
        case "async map" | "on threads":
            return len(value) == 20
        case "overlong":
            return [isinstance(it, BranchError) for it in value[6:]] == [True] * 3
        case "collecting":
            return isinstance(value["broken"], BranchError) and "nap" in value
        case _:
            return bool(value)


class Load:
    """Submits and checks until it is told to stop.

    Args:
        rate: runs a second, together.
    """

    def __init__(self, trial: Trial, *, rate: float, seed: str, threads: int = 2) -> None:
        self.trial = trial
        self.submitted = Counter[str]()
        self.ended = Counter[str]()
        self.breaches: list[Broken] = []
        self.latencies: list[float] = []
        self.refused = 0
        self._ledger = Ledger(trial.cluster.url, prefix=trial.cluster.settings.prefix)
        self._pending: dict[str, tuple[str, float]] = {}
        self._over: list[tuple[float, str]] = []
        self._shapes: dict[str, str] = {}
        self._executions: dict[str, dict[str, Execution]] = defaultdict(dict)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._drained = threading.Event()
        interval = threads / rate
        self._threads = [
            threading.Thread(target=self._submit, args=(random.Random(f"{seed}/{number}"), interval, number))
            for number in range(threads)
        ]
        self._watcher = threading.Thread(target=self._watch)

    @property
    def waiting(self) -> int:
        """Runs that have not ended."""
        return len(self._pending)

    def start(self) -> None:
        """Begin."""
        for thread in (*self._threads, self._watcher):
            thread.start()

    def stop(self, within: float) -> None:
        """Submit no more, and wait until what was submitted has ended and was checked."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._drained.wait(within)
        self._drained.set()
        self._watcher.join()
        for run, (shape, _) in self._pending.items():
            self.breaches.append(Broken("I1", f"run {run} ({shape}) has not ended within {within:g} s"))
        self._ledger.close()

    def _submit(self, rng: random.Random, interval: float, number: int) -> None:
        due = time.monotonic()
        names = list(SHAPES)
        weights = [WEIGHTS.get(name, 1) for name in names]
        for count in range(10**9):
            due += rng.uniform(0, 2 * interval)
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            # What an outage held up is not caught up with.
            due = max(due, time.monotonic() - 1.0)
            (shape,) = rng.choices(names, weights)
            flow, data = SHAPES[shape](rng)
            id = f"soak-{number}-{count}"
            if not self._accept(flow, data, id):
                continue
            with self._lock:
                self._pending[id] = (shape, time.monotonic())
            self.submitted[shape] += 1
            if rng.random() < 0.02:
                self._quietly(lambda id=id: Run(id).cancel())  # type: ignore[misc]

    def _accept(self, flow: Any, data: Any, id: str) -> bool:
        # The same id again, until it is known that the run is there: an answer may have been lost.
        while not self._stopped.is_set() or self._quietly(lambda: self._ledger.exists(id)):
            if self._quietly(lambda: flow.submit(data, id=id)) is not None:
                return True
            self.refused += 1
            time.sleep(0.2)
        return False

    def _watch(self) -> None:
        while not self._drained.is_set():
            self._drained.wait(0.5)
            try:
                self._quietly(self._look)
            except Exception as error:
                # Whatever it is, the others are looked at all the same.
                self.breaches.append(Broken("checker", f"{type(error).__name__}: {error}"))
            if all(not thread.is_alive() for thread in self._threads) and not self._pending and not self._over:
                self._drained.set()

    def _look(self) -> None:
        with self._lock:
            pending = list(self._pending)
        pipe = self._ledger.redis.pipeline(transaction=False)
        for id in pending:
            pipe.hget(self._ledger.keys.run(id), "state")
        now = time.monotonic()
        for id, state in zip(pending, pipe.execute(), strict=True):
            if state is None or state.decode() in ENDED:
                self._over.append((now, id))
                with self._lock:
                    self._shapes[id], began = self._pending.pop(id)
                self.latencies.append(now - began)
        ready = [(at, id) for at, id in self._over if now - at >= LOOK_AFTER]
        if ready:
            self._check([id for _, id in ready])
            self._over = [it for it in self._over if it not in ready]

    def _check(self, ids: list[str]) -> None:
        for execution in self.trial.new_executions():
            self._executions[execution.run][execution.id] = execution
        found = History(accepted=set(ids), late=LATE)
        for id in ids:
            run = history.read_run(self._ledger, id)
            found.runs[id] = run
            found.executions += self._executions.get(id, {}).values()
            self._told(found, run)
        broken = history.check(found)
        self.breaches += broken
        for id in ids:
            self.ended[str(found.runs[id].state)] += 1
            self._executions.pop(id, None)
            del self._shapes[id]

    def _told(self, found: History, run: RunHistory) -> None:
        shape = self._shapes[run.id]
        try:
            value = Run(run.id).result(timeout=5, progress=False)
            found.seen.append(Seen(run.id, "succeeded", value))
        except errors.RunCancelled:
            found.seen.append(Seen(run.id, "cancelled"))
        except RunFailed:
            found.seen.append(Seen(run.id, "failed"))
        except errors.RunNotFound:
            self.breaches.append(Broken("value", f"run {run.id} ({shape}) was gone when it was asked for its value"))
        if run.state is not None and not is_right(shape, run.state, run.value):
            self.breaches.append(Broken("value", f"run {run.id} ({shape}) {run.state}: {run.value!r}"))

    @staticmethod
    def _quietly(act: Callable[[], Any]) -> Any:
        try:
            with reachable():
                return act()
        except errors.BrokerUnavailable:
            return None

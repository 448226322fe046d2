"""Metrics for Prometheus, read from the ledger when they are asked for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from egregore_dist.cli import probe
from egregore_dist.ledger import ENDED, Ledger, limits, openblocks, runlist
from egregore_dist.ledger.counts import OTHER
from egregore_dist.ledger.records import RunState
from egregore_dist.monitor import counted
from egregore_dist.monitor.estimates import Estimator

# Counting looks at every run: a count stands for so many seconds, and so many times as long as it took.
_STANDS = 15.0
_SHARE = 50
# Workers that have series of their own; more are in the sums alone.
_WORKERS_NAMED = 200
# Limits that are told of, the first ones by name.
_LIMITS_NAMED = 50


class Metrics:
    """The metrics of one cluster.

    Args:
        queue: of nodes that ask for none.
    """

    def __init__(self, ledger: Ledger, queue: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Ledger(ledger, queue))

    def text(self) -> tuple[bytes, str]:
        """The metrics as text, and its type. Raises `errors.BrokerUnavailable`."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _Ledger(Collector):
    def __init__(self, ledger: Ledger, queue: str) -> None:
        self._ledger = ledger
        self._estimator = Estimator(ledger, queue)
        self._lock = threading.Lock()
        self._counted: Counter[tuple[str, str]] | None = None
        self._until = 0.0

    def describe(self) -> list[Metric]:
        """Nothing: the ledger need not be there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        labels = ["state", "workflow"]
        runs = GaugeMetricFamily("egregore_runs", "Runs that the ledger has.", labels=labels)
        found = self._runs()
        for workflow in sorted({OTHER, *(series for _, series in found)}):
            for state in get_args(RunState):
                runs.add_metric([state, workflow], found[state, workflow])
        yield runs
        yield from self._backlog()
        yield from counted.families(self._ledger)
        aside = "Messages that were set aside because nobody could serve them, as many as are kept."
        yield GaugeMetricFamily("egregore_messages_aside", aside, self._ledger.count_aside())
        yield from self._limits()
        yield from self._workers()

    def _runs(self) -> Counter[tuple[str, str]]:
        with self._lock:
            begun = time.monotonic()
            if self._counted is None or begun > self._until:
                self._counted = runlist.count(self._ledger)
                self._until = time.monotonic() + max(_STANDS, _SHARE * (time.monotonic() - begun))
            found = Counter(self._counted)
        # Those that go on are few enough to be counted each time.
        going_on = runlist.count_going_on(self._ledger)
        if going_on is not None:
            for key in [key for key in found if key[0] not in ENDED]:
                del found[key]
            found.update({key: number for key, number in going_on.items() if key[0] not in ENDED})
        return found

    def _backlog(self) -> Iterator[Metric]:
        look = openblocks.look(self._ledger)
        number = look.of_all(len(look.blocks))
        yield GaugeMetricFamily("egregore_open_blocks", "Blocks that have not ended.", number)
        by_state: Counter[tuple[str, str]] = Counter(
            {("waiting", OTHER): 0, ("running", OTHER): 0, ("parked", OTHER): 0}
        )
        for block in look.blocks:
            by_state["waiting", block.series] += block.waiting
            by_state["running", block.series] += block.running
            if not block.is_run:
                # The branch that met it.
                by_state["running", block.series] -= 1
                by_state["parked", block.series] += 1
        text = "Branches of them: those that nobody executes yet, are executed, or wait for a block that they met."
        branches = GaugeMetricFamily("egregore_branches", text, labels=["state", "workflow"])
        for (state, workflow), number in sorted(by_state.items()):
            branches.add_metric([state, workflow], look.of_all(max(0, number)))
        yield branches
        text = "Seconds of work in the branches that wait, by what was learned of their nodes."
        seconds = GaugeMetricFamily("egregore_backlog_seconds", text, labels=["workflow"])
        text = "Branches that wait, of which it was not learned yet how long they take."
        unknown = GaugeMetricFamily("egregore_backlog_unknown_branches", text, labels=["workflow"])
        estimates = self._estimator.estimate(look.blocks)
        for workflow in sorted({OTHER, *estimates}):
            estimate = estimates.get(workflow)
            seconds.add_metric([workflow], 0.0 if estimate is None else estimate.seconds / look.share)
            unknown.add_metric([workflow], 0 if estimate is None else look.of_all(estimate.unknown))
        yield from (seconds, unknown)
        overdue = "Seconds that the agenda's oldest entry is late: the janitor's work, normally about 0."
        yield GaugeMetricFamily("egregore_agenda_late_seconds", overdue, look.late)

    def _limits(self) -> Iterator[Metric]:
        text = "Branches that have a place of a limit."
        held = GaugeMetricFamily("egregore_limit_held", text, labels=["limit"])
        text = "Blocks that wait for a place of it, each once for every queue and value of its key."
        waiting = GaugeMetricFamily("egregore_limit_waiting", text, labels=["limit"])
        text = "Places that there are, for each value of its key; none where any number may run."
        concurrent = GaugeMetricFamily("egregore_limit_concurrent", text, labels=["limit"])
        for known in limits.every(self._ledger, _LIMITS_NAMED):
            held.add_metric([known.name], known.held)
            waiting.add_metric([known.name], known.waiting)
            if known.rule.concurrent:
                concurrent.add_metric([known.name], known.rule.concurrent)
        yield from (held, waiting, concurrent)

    def _workers(self) -> Iterator[Metric]:
        workers = probe.workers(self._ledger)
        yield GaugeMetricFamily("egregore_workers", "Workers that are alive.", len(workers))
        slots = sum(worker.report.slots for worker in workers)
        yield GaugeMetricFamily("egregore_slots", "Lanes that the live workers serve at a time.", slots)
        labels = ["worker"]
        each = [
            GaugeMetricFamily("egregore_worker_slots", "Lanes that it serves at a time.", labels=labels),
            GaugeMetricFamily("egregore_worker_prefetch", "Messages that it takes at most; 0: any.", labels=labels),
            GaugeMetricFamily("egregore_worker_lanes", "Lanes that it has, running or received.", labels=labels),
            GaugeMetricFamily("egregore_worker_cores", "Cores that it may use.", labels=labels),
            GaugeMetricFamily("egregore_worker_cpu_ratio", "Share of its machine's cores that is busy.", labels=labels),
            GaugeMetricFamily("egregore_worker_load", "Load average of its machine, of a minute.", labels=labels),
            GaugeMetricFamily("egregore_worker_memory_available_bytes", "Memory that can be had.", labels=labels),
            GaugeMetricFamily("egregore_worker_memory_total_bytes", "Memory that there is for it.", labels=labels),
            GaugeMetricFamily("egregore_worker_pool_memory_bytes", "Memory of its pool's processes.", labels=labels),
            GaugeMetricFamily("egregore_worker_clock_skew_seconds", "Its clock before the server's.", labels=labels),
            GaugeMetricFamily("egregore_worker_report_age_seconds", "Since its last report.", labels=labels),
        ]
        for worker in workers[:_WORKERS_NAMED]:
            said = worker.report
            numbers = (
                said.slots,
                said.prefetch,
                len(said.lanes),
                said.cores,
                said.cpu,
                said.load,
                said.memory_available,
                said.memory_total,
                sum(said.children.values()),
                said.skew,
                max(0.0, worker.age),
            )
            for family, number in zip(each, numbers, strict=True):
                family.add_metric([said.worker], number)
        yield from each

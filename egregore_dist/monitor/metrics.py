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
from egregore_dist.ledger import ENDED, Ledger, browse
from egregore_dist.ledger.records import RunState

# Counting looks at every run: a count stands for so many seconds, and so many times as long as it took.
_STANDS = 15.0
_SHARE = 50
# Workers that have series of their own; more are in the sums alone.
_WORKERS_NAMED = 200


class Metrics:
    """The metrics of one cluster."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Ledger(ledger))

    def text(self) -> tuple[bytes, str]:
        """The metrics as text, and its type. Raises `errors.BrokerUnavailable`."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _Ledger(Collector):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._counted: Counter[str] | None = None
        self._until = 0.0

    def describe(self) -> list[Metric]:
        """Nothing: the ledger need not be there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        runs = GaugeMetricFamily("egregore_runs", "Runs that the ledger has, by state.", labels=["state"])
        counted = self._runs()
        for state in get_args(RunState):
            runs.add_metric([state], counted[state])
        yield runs
        backlog = browse.backlog(self._ledger)
        yield GaugeMetricFamily("egregore_open_blocks", "Blocks that have not ended.", backlog.blocks)
        yield GaugeMetricFamily("egregore_branches_waiting", "Branches that nobody executes yet.", backlog.waiting)
        yield GaugeMetricFamily("egregore_branches_running", "Branches that are executed.", backlog.running)
        overdue = "Seconds that the agenda's oldest entry is late: the janitor's work, normally about 0."
        yield GaugeMetricFamily("egregore_agenda_late_seconds", overdue, backlog.late)
        aside = "Messages that were set aside because nobody could serve them, as many as are kept."
        yield GaugeMetricFamily("egregore_messages_aside", aside, browse.aside(self._ledger))
        yield from self._workers()

    def _runs(self) -> Counter[str]:
        with self._lock:
            begun = time.monotonic()
            if self._counted is None or begun > self._until:
                self._counted = browse.count(self._ledger)
                self._until = time.monotonic() + max(_STANDS, _SHARE * (time.monotonic() - begun))
            counted = Counter(self._counted)
        # Those that go on are few enough to be counted each time.
        going_on = browse.count_going_on(self._ledger)
        if going_on is not None:
            for state in set(counted) - ENDED:
                del counted[state]
            counted.update({state: number for state, number in going_on.items() if state not in ENDED})
        return counted

    def _workers(self) -> Iterator[Metric]:
        workers = probe.workers(self._ledger)
        yield GaugeMetricFamily("egregore_workers", "Workers that are alive.", len(workers))
        slots = sum(worker.report.slots for worker in workers)
        yield GaugeMetricFamily("egregore_slots", "Lanes that the live workers serve at a time.", slots)
        labels = ["worker"]
        each = [
            GaugeMetricFamily("egregore_worker_slots", "Lanes that it serves at a time.", labels=labels),
            GaugeMetricFamily("egregore_worker_lanes", "Lanes that it has, running or received.", labels=labels),
            GaugeMetricFamily("egregore_worker_cores", "Cores that it may use.", labels=labels),
            GaugeMetricFamily("egregore_worker_memory_available_bytes", "Memory that can be had.", labels=labels),
            GaugeMetricFamily("egregore_worker_memory_total_bytes", "Memory that there is for it.", labels=labels),
            GaugeMetricFamily("egregore_worker_report_age_seconds", "Since its last report.", labels=labels),
        ]
        for worker in workers[:_WORKERS_NAMED]:
            said = worker.report
            numbers = (
                said.slots,
                len(said.lanes),
                said.cores,
                said.memory_available,
                said.memory_total,
                max(0.0, worker.age),
            )
            for family, number in zip(each, numbers, strict=True):
                family.add_metric([said.worker], number)
        yield from each

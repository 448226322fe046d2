"""A janitor's rounds: the one that leads enforces deadlines, and repairs what the dead and lost messages have left."""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TypeVar

import msgspec
from celery import Celery

from egregore_dist import errors
from egregore_dist.engine import publish
from egregore_dist.engine.later import Later
from egregore_dist.engine.places import Places
from egregore_dist.engine.queues import Queues
from egregore_dist.ledger import OTHERS, Due, Ledger, Message, Presence, fitness
from egregore_dist.resources import needs, report, router
from egregore_dist.settings import Settings

log = logging.getLogger(__name__)

# Rounds that a leader may miss before another janitor leads.
_MISSED = 2.5
# Seconds until an entry that could not be dealt with is tried again.
_AGAIN_AFTER = 60.0
# Seconds between two lines of log about keys that the server evicts.
_WARN_EVERY = 60.0
# Seconds between two clearings of the list of runs.
_CLEAR_EVERY = 3600.0

# Rounds whose calls for places of a limit wait for a broker that does not answer.
_CALLS_KEPT = 8

Entry = tuple[str, str, str]
T = TypeVar("T")


class Sweeper:
    """The rounds of one worker's janitor.

    Args:
        app: publishes what transitions ask for.
        worker: the worker's name.
    """

    def __init__(self, ledger: Ledger, app: Celery, settings: Settings, worker: str) -> None:
        self._ledger = ledger
        self._app = app
        self._queues = Queues(app)
        self._settings = settings
        self._name = f"{worker}/{os.getpid()}/{secrets.token_hex(4)}"
        self._lease = _MISSED * settings.sweep_interval
        self._leads = False
        self._said: list[report.Report] = []
        # What this round knows of workers, once it has asked.
        self._present: dict[str, Presence] = {}
        self._cleared = -_CLEAR_EVERY
        self._later = Later()
        self._rounds = 0
        # Runs of which the server has lost part, and when they were submitted.
        self._lost: dict[str, int] = {}
        self._forgets = Later()
        self._places = Places(ledger, app, Later())
        # How long reports live: its own worker's, and those of others that it has read, which may be set otherwise.
        self._ttls = {settings.report_ttl}
        self._heard = self._heard_at = -math.inf
        self._server = ""
        self._evicted = -1
        self._warns_at = 0.0
        # Until when workers may not have been able to report.
        self._silent_until = math.inf

    def round(self) -> None:
        """Ask who leads and what is due, in one call, and deal with it.

        Raises:
            errors.BrokerUnavailable: the ledger cannot be reached.
        """
        due = self._ledger.due(self._name, self._lease)
        self._hear(due)
        self._present = {}
        self._rounds += 1
        if due.leads != self._leads:
            self._leads = due.leads
            log.info("janitor %s: %s", self._name, "leads" if self._leads else "leads no more")
        if not due.leads:
            return
        for entry in due.entries:
            if entry[1] == "deadline":
                self._publish(" ".join(entry), entry[0], self._sweep(entry))
        self._look_after([entry for entry in due.entries if entry[1] != "deadline"])
        self._look_after_limits(due.limits)
        if time.monotonic() - self._cleared >= _CLEAR_EVERY:
            self._asked(self._ledger.forget_expired)
            self._cleared = time.monotonic()
        # What this round took was no silence of the server's.
        self._heard, self._heard_at = time.monotonic(), time.time()

    def _hear(self, due: Due) -> None:
        # By the wall clock too: a machine that sleeps does not count that by the other one, and the server does.
        now, at = time.monotonic(), time.time()
        # Nobody could report to a server that was away, or took nothing, so for a while nobody is taken for dead; a
        # janitor that begins does not know whether it was.
        if max(now - self._heard, at - self._heard_at) - self._settings.sweep_interval > self._patience:
            self._silent_until = now
        # Nor does one have what was reported, if it came back with what it had kept a while ago, or if it evicts keys.
        evicts = due.server == self._server and due.evicted > self._evicted >= 0
        if due.full or evicts or due.server != self._server:
            self._silent_until = now
        if evicts and due.leads and at >= self._warns_at:
            self._warns_at = at + _WARN_EVERY
            log.error(
                "the server evicts keys (%d since its start), and may lose runs and the reports of live workers: "
                "nothing is started until it has evicted none for a while; %s",
                due.evicted,
                fitness.NO_EVICTION,
                extra={"action": "server_evicts"},
            )
        self._server, self._evicted, self._heard, self._heard_at = due.server, due.evicted, now, at

    @property
    def _patience(self) -> float:
        return min(self._ttls) / 2

    @property
    def _trusts(self) -> bool:
        """Whether who does not report is dead."""
        return self._heard >= self._silent_until + max(self._ttls)

    def _look_after_limits(self, buckets: Sequence[str]) -> None:
        if not buckets:
            return
        workers = self._workers()
        until = time.monotonic() + self._lease
        for bucket in buckets:
            tended = self._asked(partial(self._ledger.tend, bucket, "janitor", workers=workers))
            # Whom it has called it does not call again soon, so what a few rounds want waits side by side.
            self._publish(f"limit {bucket} {self._rounds % _CALLS_KEPT}", "", tended.messages)
            self._places.set(tended.alarms)
            if time.monotonic() > until:
                return

    def _look_after(self, entries: Sequence[Entry]) -> None:
        workers: dict[str, Presence] | None = None
        instead: dict[str, str] = {}
        backed_up: frozenset[str] | None = None
        until = time.monotonic() + self._lease
        for entry in entries:
            if backed_up is None:
                workers = self._workers()
                instead = self._instead()
                backed_up = self._backed_up(entries)
            self._publish(" ".join(entry), entry[0], self._sweep(entry, workers, backed_up, instead))
            if time.monotonic() > until:
                # The rest is due in the next round too, and deadlines that have come meanwhile go before it.
                break
        self._queues.close()

    def _publish(self, key: str, run: str, wanted: Sequence[Message]) -> None:
        # On a thread of its own: a broker that does not answer must not hold up deadlines. What is wanted again under
        # the same key takes the place of what was.
        if any(message.kind == "lost" for message in wanted):
            self._lost[run] = wanted[0].created
            self._forgets.put("lost", 0.0, self._forget)
        elif wanted:
            self._later.put(key, 0.0, partial(self._send, run, wanted))

    def _forget(self) -> None:
        lost, self._lost = self._lost, {}
        log.error(
            "runs are lost, since the server does not have all of them any more, as after a failover, or where it "
            "evicts keys; what is left of them is deleted, and whoever waits for one is told: %s",
            ", ".join(lost),
            extra={"action": "runs_lost"},
        )
        self._ledger.forget(lost)

    def _send(self, run: str, wanted: Sequence[Message]) -> None:
        left = publish.messages(self._app, run, wanted)
        if run and left:
            # It has asked in vain: what waits shall not wait the longer for that, once the broker is back.
            try:
                self._ledger.ask_again(run, {message.block for message in left})
            except errors.BrokerUnavailable as error:
                log.info("janitor: run %s: %s", run, error, extra={"action": "publish_failed", "run_id": run})

    def _sweep(
        self,
        entry: Entry,
        workers: dict[str, Presence] | None = None,
        backed_up: Collection[str] = (),
        instead: dict[str, str] | None = None,
    ) -> list[Message]:
        run, kind, block = entry
        try:
            sweep = partial(self._ledger.sweep, run, kind, block)
            return self._asked(partial(sweep, workers=workers, backed_up=backed_up, instead=instead))
        except errors.BrokerUnavailable:
            raise
        except Exception:
            # One entry that cannot be dealt with must not keep the others waiting, nor fill the log.
            self._asked(partial(self._ledger.put_off, run, kind, block, _AGAIN_AFTER))
            log.exception("janitor: run %s, block %s", run, block, extra={"action": "sweep_failed", "run_id": run})
            return []

    def _backed_up(self, entries: Iterable[Entry]) -> frozenset[str]:
        blocks = [(run, block) for run, kind, block in entries if kind == "hint"]
        names = self._asked(partial(self._ledger.queues_of, blocks))
        return frozenset(name for name in names if self._asked(partial(self._queues.waiting, [name])))

    def _instead(self) -> dict[str, str]:
        """Where lanes go that were seen to need more memory than others have, and the workers that have it are gone."""
        if not self._trusts:
            return {}
        sized = [name for name in self._asked(self._ledger.queues) if needs.of(name).learned]
        served = {name for name in sized for said in self._said if router.serves(said, name)}
        cluster = router.Cluster(self._said)
        return {name: router.roomy(cluster, name, needs.of(name).learned) for name in sized if name not in served}

    def _asked(self, ask: Callable[[], T]) -> T:
        """What the ledger, or the broker, answers; if it takes long, that is a silence as one between two rounds is."""
        began = time.monotonic()
        try:
            return ask()
        finally:
            if time.monotonic() - began > self._patience:
                self._silent_until = time.monotonic()
                self._present[OTHERS] = Presence(at=0)

    def _workers(self) -> dict[str, Presence]:
        """What workers said of themselves when this round asked first."""
        found = self._present
        if OTHERS in found:
            return found
        self._said = []
        now = self._asked(self._ledger.now)
        reports = self._asked(self._ledger.reports)
        if self._asked(self._ledger.evicted) > self._evicted >= 0:
            # One of them may have been evicted since this round began.
            self._silent_until = time.monotonic()
        if self._trusts:
            self._ttls = {self._settings.report_ttl}
        for name, raw in reports.items():
            try:
                said = msgspec.msgpack.decode(raw, type=report.Report)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                # It is alive all the same: of another release.
                log.warning("janitor: report of %s: %s", name, error, extra={"action": "report_unreadable"})
                found[name] = Presence(at=0)
            else:
                found[name] = Presence(at=said.at, dead=said.dead, pids=said.living or None, lanes=said.lanes)
                self._said.append(said)
                if said.ttl > 0:
                    self._ttls.add(said.ttl)
        found[OTHERS] = Presence(at=now if self._trusts else 0)
        return found

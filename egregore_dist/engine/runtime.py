"""What one process needs to execute branches: the ledger, the code, and what it has learned of the runs it serves."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.engine import boards, leftovers
from egregore_dist.engine.announce import Announcer
from egregore_dist.engine.backoff import Backoffs
from egregore_dist.engine.compile import Shape, shape
from egregore_dist.engine.interrupt import Interrupter
from egregore_dist.engine.later import Later
from egregore_dist.engine.learning import Learning
from egregore_dist.engine.logbook import Logbook
from egregore_dist.engine.places import Places
from egregore_dist.engine.raiser import Raiser
from egregore_dist.ledger import Aside, Ledger, Work
from egregore_dist.resources import gpus, needs, report
from egregore_dist.resources.router import Cluster
from egregore_dist.settings import Settings
from egregore_dist.wire import private_file, registry
from egregore_dist.wire.code import UNSIGNED, Loader
from egregore_dist.wire.signing import Signer
from egregore_dist.workflow import spec
from egregore_dist.workflow.binding import Parameters

log = logging.getLogger(__name__)

_SPECS_KEPT = 256
_RUNS_KEPT = 64
_REPORTS_FRESH = 1.0

# While the ledger is away, a lane keeps its leases and waits some ten minutes: its branches are not run twice.
_PATIENCE = 600


# By the path of a block, and the queue of what asks for none in it.
Shapes = dict[tuple[spec.Path, str], Shape]


@dataclass(frozen=True, slots=True)
class Callee:
    """A node's function, ready to be called."""

    fn: Callable[..., Any]
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Workload:
    """A run's workflow as this process executes it. ``shapes`` is shared by the runs of one spec.

    ``refusal``: why the signature of ``functions`` was not accepted, None if it was. ``trace``: where the run stands in
    a trace, or "". ``created``: when it was submitted, in server milliseconds.
    """

    run: str
    name: str
    root: spec.StepSpec
    functions: tuple[str, ...]
    queue: str
    shapes: Shapes
    refusal: str | None = UNSIGNED
    trace: str = ""
    created: int = 0

    def shape(self, path: spec.Path, queue: str) -> Shape:
        """The shape of the block at ``path``, met or served by a lane of a queue.

        A node that is a block of its own runs where its branch does, unless it asks for a queue; branches of others
        begin on the queue of the whole run.
        """
        step = spec.step_at(self.root, path)
        default = needs.of(queue).queue if isinstance(step, spec.NodeSpec) else self.queue
        known = self.shapes.get((path, default))
        if known is None:
            known = self.shapes[path, default] = shape(step, default)
        return known


class Runtime:
    """The part of a worker's process that executes branches. One a process: connections do not survive a fork."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.pid = os.getpid()
        self.board = boards.mine()
        self.ledger = Ledger(
            apps.ledger_url(settings),
            prefix=settings.prefix,
            retention=settings.retention,
            retries=_PATIENCE,
            waits=self.board.wait,
        )
        alarms = Interrupter()
        self.raiser = Raiser()
        self.interrupter: Interrupter | Raiser = alarms if alarms.usable else self.raiser
        self.later = Later()
        self.backoffs = Backoffs(self.ledger, self.later)
        self.announcer = Announcer(app, self.later)
        self.places = Places(self.ledger, app, self.later)
        self.logbook = Logbook(self.ledger, settings)
        in_main = threading.current_thread() is threading.main_thread()
        self.learning = Learning(self.ledger, self.later, alone=in_main)
        self.loader = Loader(signer(settings), registry.of(settings.modules).functions)
        self._specs: OrderedDict[tuple[str, bytes], tuple[spec.WorkflowSpec, Shapes]] = OrderedDict()
        self._workloads: OrderedDict[str, Workload] = OrderedDict()
        self._callees: OrderedDict[tuple[str, bool], Callee] = OrderedDict()
        self._cluster: tuple[float, Cluster] = (-_REPORTS_FRESH, Cluster())
        self._lock = threading.Lock()

    def workload(self, run: str, work: Work) -> Workload:
        """Decode a run's work; specs are kept, since many runs share one.

        Raises:
            errors.CodeError: the spec is of a version that this worker does not know.
        """
        with self._lock:
            known = self._specs.get((work.queue, work.spec))
        if known is None:
            decoded = spec.decode(work.spec)
            if decoded.version != spec.VERSION:
                raise errors.CodeError(
                    f"run {run!r} has a spec of version {decoded.version}, and this worker knows {spec.VERSION}: "
                    "run clients and workers of one release"
                )
            known = (decoded, {})
            self._keep(self._specs, (work.queue, work.spec), known, _SPECS_KEPT)
        code = self.loader.references(work.functions)
        workflow, shapes = known
        queue = work.queue or self.settings.queue
        made = Workload(
            run, work.workflow, workflow.root, code.refs, queue, shapes, code.refusal, work.trace, work.created
        )
        self._keep(self._workloads, run, made, _RUNS_KEPT)
        return made

    def known_workload(self, run: str) -> Workload | None:
        """A run's work as it was decoded last, or None; whether it still holds, its ``created`` tells."""
        with self._lock:
            return self._workloads.get(run)

    def callee(self, load: Workload, function: int, *, branch: int, attempt: int, node: str) -> Callee:
        """The function of a node, which a branch comes to.

        Raises:
            errors.CodeError: this worker refuses it, or cannot load it.
        """
        ref = load.functions[function]
        # What a signed run may name, another may not.
        key = (ref, load.refusal is None)
        with self._lock:
            known = self._callees.get(key)
        if known is None:
            try:
                self.board.load(branch, attempt, node)
                blob = self.ledger.code(load.run, ref[2:]) if ref.startswith("v:") else None
                with leftovers.kept():
                    loaded = self.loader.load(ref, blob, refusal=load.refusal)
                known = Callee(loaded.fn, Parameters.of(loaded.fn, loaded.hints))
            finally:
                self.board.loaded()
            self._keep(self._callees, key, known, 4 * _SPECS_KEPT)
        return known

    def cluster(self) -> Cluster:
        """The live workers as they said lately, at most a second old; where none did, what this machine could offer."""
        at, cluster = self._cluster
        if time.monotonic() - at > _REPORTS_FRESH:
            raws = self.ledger.reports()
            reports = report.read(raws.values(), now=self.ledger.now(), ttl=self.settings.report_ttl)
            cluster = Cluster(reports or (self._own_report(),))
            self._cluster = (time.monotonic(), cluster)
        return cluster

    def set_aside(self, run: str, block: str, token: str) -> None:
        """Note that a message asked this lane to serve a block that there is not."""
        reason = "there is no such run or block: it has expired or was deleted, or there never was one"
        noted = Aside(reason=reason, worker=token.partition("/")[0], excerpt=f"run {run}, block {block[:100]}")
        try:
            self.ledger.set_aside([noted])
        except errors.BrokerUnavailable as error:
            log.warning("run %s is unknown, and was not noted: %s", run, error, extra={"action": "set_aside"})

    def _own_report(self) -> report.Report:
        machine = report.measure()
        return report.Report(
            worker="",
            host=machine.host,
            pid=self.pid,
            cores=machine.cores,
            memory_available=machine.memory_available,
            memory_total=machine.memory_total,
            slots=max(1, int(machine.cores)),
            queues=(self.settings.queue,),
            labels=self.settings.labels,
            gpus=gpus.said(self.settings.gpus),
        )

    def _keep(self, cache: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
        with self._lock:
            cache[key] = value
            while len(cache) > limit:
                cache.popitem(last=False)


def signer(settings: Settings) -> Signer:
    """The signer of a client or worker.

    Raises:
        errors.ConfigurationError: the secret is weak, or its file cannot be read, or others can read it.
    """
    if settings.secret is not None:
        return Signer.from_text(settings.secret.get_secret_value())
    if settings.secret_file is not None:
        return Signer.from_text(private_file.read(settings.secret_file, "EGREGORE_SECRET_FILE").strip())
    return Signer.from_text(None)

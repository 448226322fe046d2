"""Start a worker: the app with its tasks and steps, or the same in an app of the user's own."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence

from celery import Celery, signals
from celery.concurrency import get_implementation
from celery.fixups.django import fixup
from celery.local import maybe_evaluate
from celery.utils.nodenames import host_format

from egregore_dist import errors
from egregore_dist.engine import access, databases, installed, leftovers, tasks
from egregore_dist.engine import app as apps
from egregore_dist.engine.runtime import signer
from egregore_dist.ledger import Ledger, connection
from egregore_dist.settings import Settings
from egregore_dist.wire import registry
from egregore_dist.worker import admission, commands, guard, intake, naming, ready, remote, slots, steps, theirs, tuner
from egregore_dist.workflow import names


def install(app: Celery, *, modules: Sequence[str] = (), settings: Settings | None = None) -> None:
    """Load this package's tasks into a Celery app: its workers then serve workflows beside the app's own tasks.

    What the tasks need is set on them, and they publish and count with what is our own, so the app's settings stay as
    they are. Its workers must consume ``settings.queue``. Their connections to a Redis broker outlive its restarts, and
    what is no message of a task that they know is set aside where it would end them.

    This process, and what it forks, submits to the same broker and ledger, unless `connect` or ``EGREGORE_BROKER_URL``
    says otherwise. So do the app's tasks: one that waits for a run, as ``flow.run(...)`` does, holds its slot, and ends
    only if there is another for the run.

    Args:
        app: the app.
        modules: modules with nodes, beside those of ``EGREGORE_MODULES``; nodes of others are refused. A worker loads
            them when it begins, with the modules of the app's tasks, and does not start where one cannot be loaded.
        settings: read from ``EGREGORE_*`` where absent; the app's own broker is taken where those name none.

    Raises:
        errors.ConfigurationError: settings that cannot work, or no broker; or the app has transport options, such as
            ``global_keyprefix``, with which its workers would not find what others publish. Where those come later, its
            worker does not start.
    """
    _install(app, modules=modules, settings=settings, owns=False, by_hand=True)


def _install(app: Celery, *, modules: Sequence[str] = (), settings: Settings | None, owns: bool, by_hand: bool) -> None:
    if isinstance(modules, str):
        # A sequence too, of names of one letter.
        raise errors.ConfigurationError(f"modules is a list of names: write install(app, modules=[{modules!r}])")
    if settings is None:
        settings = theirs.settings(app)
    theirs.register(app, owns=owns)
    settings = settings.model_copy(update={"modules": (*settings.modules, *modules)})
    # Refused now, not when the first function by value arrives.
    signer(settings)
    if owns:
        databases.set_up()
        registry.load(settings.modules)
    else:
        _load_when_asked(app, settings.modules)
    tasks.register(app, settings, owns=owns)
    steps.register(app, settings)
    guard.register(app, owns=owns)
    slots.register(app)
    intake.register(app)
    admission.register(app)
    tuner.register(app, by_hand=by_hand)
    ready.register(app, owns=owns)
    commands.register()
    installed.note(settings)


def _load_when_asked(app: Celery, modules: Sequence[str]) -> None:
    # As modules of tasks: when a worker begins, after Django has been set up, and not in programs that submit.
    def load(**_: object) -> None:
        registry.load(modules)

    signals.import_modules.connect(load, sender=maybe_evaluate(app), weak=False)


def run(
    settings: Settings,
    *,
    concurrency: int | None = None,
    queues: Sequence[str] = (),
    name: str | None = None,
    pool: str = "prefork",
    loglevel: str = "WARNING",
    events: bool = False,
) -> None:
    """Run a worker in this process until it is told to stop.

    Args:
        concurrency: lanes at a time; by default the cores that this process may use, and then as `worker.tuner` says.
        queues: Celery queues to consume; by default ``settings.queue``.
        name: the worker's name, unique in the cluster; by default made of the host's name and the process's id.
        pool: ``prefork``, or ``threads`` where sync nodes cannot be stopped.
        events: send Celery's events of tasks, and one for each branch, from the start; Flower also asks for them.

    Raises:
        SystemExit: the worker ended by a failure, which its log names.
        errors.ConfigurationError: settings, a queue, a log level or a name that cannot work, or a server that cannot
            hold a ledger.
        errors.CodeError: a module that cannot be loaded.
    """
    if pool not in apps.POOLS:
        raise errors.ConfigurationError(
            f"pool {pool!r} is not supported, choose one of {', '.join(apps.POOLS)}: "
            "the others stand still while they work, so that deadlines and heartbeats would not be kept"
        )
    levels = logging.getLevelNamesMapping()
    if loglevel.upper() not in levels:
        raise errors.ConfigurationError(f"log level {loglevel!r} is not known, choose one of {', '.join(levels)}")
    apps.refuse_derived(queues)
    for queue in queues:
        _checked(queue, "queue")
    name = _full_name(name)
    app = apps.make_app(settings)
    remote.restrict(app)
    # Around its tasks and in new processes, Celery sees to Django's connections itself.
    fixup(app)
    _install(app, settings=settings, owns=True, by_hand=concurrency is not None)
    leftovers.own()
    _claim(settings, name)
    # Without Celery's command line, which would import the commands of all installed packages, such as Flower's.
    worker = app.Worker(
        hostname=name,
        pool_cls=get_implementation(pool),
        concurrency=concurrency or "auto",
        queues=list(queues) or [settings.queue],
        loglevel=levels[loglevel.upper()],
        no_color=True if os.environ.get("NO_COLOR") else None,
        task_events=events or None,
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    if worker.exitcode:
        sys.exit(worker.exitcode)


def _full_name(name: str | None) -> str:
    # Celery's own way to write the host, such as w1@%h, is told from the start as it will be.
    own, at, host = host_format(name or f"egregore-{os.getpid()}").partition("@")
    _checked(own, "worker")
    return f"{own}@{_checked(host, 'host of a worker') if at else socket.gethostname()}"


def _checked(name: str, what: str) -> str:
    try:
        return names.checked(name, what)
    except errors.WorkflowError as error:
        raise errors.ConfigurationError(str(error)) from None


def _claim(settings: Settings, name: str) -> None:
    # Asked for again when it begins; here, the answer is one clear line.
    ledger = Ledger(apps.ledger_url(settings), prefix=settings.prefix, retries=0)
    try:
        ledger.refuse_unfit_server()
        access.refuse_missing(ledger.redis, settings, access.WORKER)
        naming.claim(ledger, name, naming.Life.begin(), ttl=settings.report_ttl)
    except errors.BrokerUnavailable as error:
        # A server that is away may come; a login that it refuses, or a certificate that nobody knows, stays wrong.
        if connection.is_lasting(error):
            raise errors.ConfigurationError(str(error)) from None
    finally:
        ledger.close()

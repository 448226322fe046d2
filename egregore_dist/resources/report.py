"""What a worker says about itself and its machine."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec
import psutil

from egregore_dist.resources import cgroup

log = logging.getLogger(__name__)

# What a machine is taken to have that cannot be measured: a little. Bytes.
_ASSUMED_MEMORY = 256 * 2**20
# No process holds so much. Bytes.
_MOST_HELD = 2**50


class Machine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a process may use of its machine. Memory in bytes.

    Attributes:
        host: the machine: processes of one host share its cores and memory.
        cores: cores that it may use (affinity and cgroup quota).
        cpu_group: what bounds them, the cgroup that has the quota or the cores themselves: processes of one such group
            share them; "" where that is not known.
        cpu_set: the cores that it may be on (affinity), by their numbers; none of a release that does not say.
        machine_cores: what the machine itself has; 0 where that is not known.
        memory_available: what can be had now, under the cgroup's limit where there is one.
        memory_total: what there is for it: the limit, or the machine's.
        memory_limit: the cgroup's limit; 0 for none.
        group: the cgroup that has the limit: processes of one group share what it leaves; "" for none.
        machine_available: what the machine itself could still give; 0 where that is not known.
        machine_total: what the machine itself has; 0 where that is not known.
        load: the machine's load average of the last minute.
        cpu: the share of the machine's cores that were busy since the last report, 0 to 1.
    """

    host: str
    cores: float
    cpu_group: str = ""
    cpu_set: tuple[int, ...] = ()
    machine_cores: float = 0.0
    memory_available: int
    memory_total: int
    memory_limit: int = 0
    group: str = ""
    machine_available: int = 0
    machine_total: int = 0
    load: float = 0.0
    cpu: float = 0.0


class AtWork(msgspec.Struct, frozen=True, array_like=True):
    """What one lane of a worker was at.

    Attributes:
        run: the run.
        block: the id of the block that it served.
        token: what its leases belong to; "" where the worker cannot tell.
        since: when the branch was begun, or the lane where no single branch is told, in milliseconds of the server's
            clock; 0 where that is not known.
        branch: the position of the branch that was executed, or None: between two, and where many are at a time.
        attempt: of that branch, from 1; 0 without one.
        node: what the branch had called last, or "".
    """

    run: str
    block: str
    token: str = ""
    since: int = 0
    branch: int | None = None
    attempt: int = 0
    node: str = ""


class Report(Machine, frozen=True, kw_only=True, omit_defaults=True):
    """One worker's report: its machine, and itself. Memory in bytes, times in seconds.

    Attributes:
        worker: the worker's node name.
        pid: the worker's main process.
        life: a word that no other process has, nor one of the same pid before or after it; see `worker.naming`.
        slots: lanes that it serves at a time, its pool's size.
        pool: the kind of pool.
        prefetch: messages that it takes at most before they are acknowledged; 0 for no limit.
        queues: the queues that it consumes.
        modules: the modules that it was told to load.
        nodes: names of the nodes found in them.
        code: a hash of the code of each, in the same order.
        children: the pool's processes, with the memory that each holds (RSS).
        time: the worker's own clock.
        skew: how far that is ahead of the server's.
        version: of this package.
        labels: what it was told to say of itself, each as ``key=value``.
        gpus: the names of the GPUs that it may use: those of workers of one machine are the same where the names are.
        at: when, in milliseconds of the server's clock.
        ttl: seconds after which this worker counts as gone where it says nothing more; 0 where it did not tell.
        lanes: the ids of the lanes that it had then, running or received.
        short: queues that it does not consume now, as its machine has no room for their lanes, each with why.
        widths: how many branches each running one may run at a time, by its id.
        dead: its processes that ended lately.
        living: those that run its lanes; none of a release that does not say.
        holds: why it takes no lanes now: words, each with what is to be said of it; none where it takes them.
        concurrency_by: who set ``slots``: "hand", "tuner", or "" of a release that does not say.
        concurrency_why: from what, in words.
        prefetch_why: from what ``prefetch`` comes, in words.
        lane_memory: what one of its lanes is taken to need; 0 where that is not known.
        work: what its lanes were at.
    """

    worker: str
    pid: int
    slots: int
    life: str = ""
    pool: str = "prefork"
    prefetch: int = 0
    queues: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    children: dict[int, int] = {}
    time: float = 0.0
    skew: float = 0.0
    version: str = ""
    labels: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    at: int = 0
    ttl: float = 0.0
    lanes: tuple[str, ...] = ()
    widths: dict[str, int] = {}
    short: dict[str, str] = {}
    dead: tuple[int, ...] = ()
    living: tuple[int, ...] = ()
    holds: dict[str, str] = {}
    concurrency_by: str = ""
    concurrency_why: str = ""
    prefetch_why: str = ""
    lane_memory: int = 0
    work: tuple[AtWork, ...] = ()


class Meter:
    """Measures this machine; where that fails, or gives what cannot be, the last sound measurement stays."""

    def __init__(self) -> None:
        self._last = assumed()
        self._failing = False
        self.measure()

    def measure(self) -> Machine:
        """What this process may use now, or could the last time that it was told."""
        try:
            found = _measure()
            wrong = None if is_sound(found) else f"it cannot be: {found}"
        except Exception as error:
            # Whatever psutil or the system do, the worker goes on.
            wrong = f"{type(error).__name__}: {error}"
        if wrong is None:
            self._last = found
        elif not self._failing:
            log.warning("the machine cannot be measured: %s", wrong, extra={"action": "machine_not_measured"})
        self._failing = wrong is not None
        return self._last


def measure() -> Machine:
    """Measure this machine once: psutil for the host, the cgroup's own files where they say less."""
    return Meter().measure()


def assumed() -> Machine:
    """What a machine is taken to be that cannot be measured: one core, and memory for some lanes."""
    return Machine(host=host(), cores=1.0, memory_available=_ASSUMED_MEMORY, memory_total=_ASSUMED_MEMORY)


def is_sound(machine: Machine) -> bool:
    """Whether a measurement can be true. A group may have nothing left; a whole machine never has."""
    return (
        0 < machine.cores < math.inf
        and 0 <= machine.machine_cores < math.inf
        and machine.memory_total > 0
        and 0 <= machine.memory_available <= machine.memory_total
        and 0 <= machine.machine_available <= machine.machine_total
        and (machine.memory_available > 0 or machine.memory_limit > 0)
        and 0 <= machine.load < math.inf
        and 0 <= machine.cpu <= 1
    )


def read(raws: Iterable[bytes], *, now: int, ttl: float) -> tuple[Report, ...]:
    """The reports that count: of a release that this one can read, sound, and not too old.

    Args:
        raws: encoded reports.
        now: the server's time, in milliseconds.
        ttl: seconds after which a silent worker counts as gone that has not said so itself.
    """
    found = []
    for raw in raws:
        try:
            said = msgspec.msgpack.decode(raw, type=Report)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if said.at >= now - (said.ttl or ttl) * 1000 and said.slots > 0 and is_sound(said):
            found.append(said)
    return tuple(found)


def cores_of(workers: Collection[Report]) -> tuple[dict[str, float], float]:
    """The cores of one machine's workers: what those of each CPU group share, and what all of them do."""
    groups: dict[str, float] = {}
    for said in workers:
        groups[said.cpu_group] = max(groups.get(said.cpu_group, 0.0), said.cores)
    if all(said.cpu_set for said in workers):
        machine = float(len(set().union(*(said.cpu_set for said in workers))))
    else:
        machine = max(said.machine_cores for said in workers)
    together = sum(groups.values())
    return groups, min(together, machine) if machine else together


def memory_of(pids: Iterable[int]) -> dict[int, int]:
    """The memory that processes hold (RSS), without those that cannot be looked at, or of which no truth is told."""
    found = {}
    for pid in pids:
        try:
            held = int(psutil.Process(pid).memory_info().rss)
        except Exception:  # noqa: S112 - of whatever kind, and often: nobody's report fails of it
            continue
        if 0 < held < _MOST_HELD:
            found[pid] = held
    return found


def _measure() -> Machine:
    memory = psutil.virtual_memory()
    available, total = int(memory.available), int(memory.total)
    group = cgroup.memory()
    if group is not None and group.limit > total:
        group = None
    # A container that is shown its own limit for the machine's memory (lxcfs) does not see its machine.
    is_seen = group is None or group.limit < total
    cores, cpu_group, cpu_set, machine_cores = _cores()
    return Machine(
        host=host(),
        cores=cores,
        cpu_group=cpu_group,
        cpu_set=cpu_set,
        machine_cores=machine_cores if is_seen else 0.0,
        memory_available=available if group is None else min(available, group.available),
        memory_total=total if group is None else group.limit,
        memory_limit=0 if group is None else group.limit,
        group="" if group is None else group.group,
        machine_available=available if is_seen else 0,
        machine_total=total if is_seen else 0,
        load=float(psutil.getloadavg()[0]),
        cpu=psutil.cpu_percent(interval=None) / 100,
    )


def host() -> str:
    """The machine that this process is on."""
    # The boot id tells apart machines of one name, and containers of one machine share it.
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return socket.gethostname()


def _cores() -> tuple[float, str, tuple[int, ...], float]:
    # What may be used, what bounds it, which they are, and what the machine has.
    machine = psutil.cpu_count() or 1
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        allowed = set(range(machine))
    machine = max(machine, len(allowed))
    cpu_set = tuple(sorted(allowed))
    quota = cgroup.quota()
    if quota is not None and quota.cores < len(allowed):
        return max(0.1, quota.cores), quota.group, cpu_set, float(machine)
    # Also where they are all that there seem to be: a container may not see the others.
    return float(len(allowed)), f"cpus:{sum(1 << core for core in allowed):x}", cpu_set, float(machine)

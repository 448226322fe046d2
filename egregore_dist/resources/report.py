"""What a worker says about its machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import psutil

_CGROUP = Path("/sys/fs/cgroup")


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker's report; memory in bytes, times in seconds.

    Attributes:
        worker: the worker's node name.
        host: the machine: workers with one host share its cores and memory.
        pid: the worker's main process.
        cores: cores that the machine lets it use (affinity and cgroup quota).
        memory_available: bytes that can be had now (cgroup limit where there is one).
        memory_total: bytes that there are for it.
        slots: lanes that it serves at a time, its pool's size.
        pool: the kind of pool.
        queues: the queues that it consumes.
        modules: the modules that it was told to load.
        nodes: names of the nodes found in them.
        time: the worker's own clock.
        version: of this package.
        at: when, in milliseconds of the server's clock.
        lanes: the ids of the lanes that it had then, running or received.
        dead: its processes that ended lately.
    """

    worker: str
    host: str
    pid: int
    cores: float
    memory_available: int
    memory_total: int
    slots: int
    pool: str = "prefork"
    queues: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    time: float = 0.0
    version: str = ""
    at: int = 0
    lanes: tuple[str, ...] = ()
    dead: tuple[int, ...] = ()


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What this process may use of its machine."""

    host: str
    cores: float
    memory_available: int
    memory_total: int


def measure() -> Machine:
    """Measure this machine: psutil for the host, the cgroup's own files where they say less."""
    memory = psutil.virtual_memory()
    available, total = memory.available, memory.total
    limit, used = _cgroup_memory()
    if limit is not None and limit < total:
        total = limit
        available = min(available, max(0, limit - used))
    return Machine(host=_host(), cores=_cores(), memory_available=available, memory_total=total)


def _host() -> str:
    # The boot id tells apart machines of one name, and containers of one machine share it.
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return socket.gethostname()


def _cores() -> float:
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:
        cores = float(os.cpu_count() or 1)
    quota = _cgroup_cores()
    return cores if quota is None else max(0.1, min(cores, quota))


def _cgroup_cores() -> float | None:
    text = _read(_CGROUP / "cpu.max")
    if text:
        quota, _, period = text.partition(" ")
    else:
        quota, period = _read(_CGROUP / "cpu/cpu.cfs_quota_us"), _read(_CGROUP / "cpu/cpu.cfs_period_us")
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _cgroup_memory() -> tuple[int | None, int]:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return int(_read(_CGROUP / limit)), int(_read(_CGROUP / used))
        except ValueError:
            continue
    return None, 0


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return ""

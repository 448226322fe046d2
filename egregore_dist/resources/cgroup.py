"""What the control groups of this process allow: the few files that psutil does not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")

# Where no limit is set, version 1 says the largest number of pages; no machine has so much. Bytes.
_NO_LIMIT = 2**60


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The smallest limit of a process's groups, and what is left of all of them, in bytes.

    Of several groups with the same limit it is that of the outermost, which bounds them together.

    Attributes:
        limit: what all processes of the group may take together.
        available: what can be had until then; file caches that can be dropped count as free.
        group: tells apart the groups of one machine.
    """

    limit: int
    available: int
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The smallest quota of a process's groups; of equal ones that of the outermost, which bounds them together.

    Attributes:
        cores: what all processes of the group may use together.
        group: tells apart the groups of one machine.
    """

    cores: float
    group: str


def quota() -> Quota | None:
    """The smallest quota of this process's groups and of those around them, and the group; None for no quota."""
    found = [(_quota(folder / "cpu.max"), folder) for folder in _groups("")]
    found += [(_share(_read(at / "cpu.cfs_quota_us"), _read(at / "cpu.cfs_period_us")), at) for at in _groups("cpu")]
    quotas = [(cores, folder) for cores, folder in found if cores is not None]
    if not quotas:
        return None
    cores, folder = min(reversed(quotas), key=lambda each: each[0])
    return Quota(cores=cores, group=_name(folder))


def memory() -> Memory | None:
    """What the memory limits of this process's groups leave, and the smallest with its group; None for no limit.

    Of nested groups that is always the same one, whatever their neighbours use.
    """
    found = [_memory(folder, "memory.max", "memory.current", "inactive_file") for folder in _groups("")]
    found += [
        _memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for folder in _groups("memory")
    ]
    limits = [each for each in found if each is not None]
    if not limits:
        return None
    return replace(min(reversed(limits), key=lambda each: each.limit), available=min(each.available for each in limits))


def oom_kills() -> int | None:
    """How many of this process's group the kernel has killed for want of memory; None where nobody counts."""
    for controller, name in (("", "memory.events"), ("memory", "memory.oom_control")):
        for folder in _groups(controller):
            count = _value(folder / name, "oom_kill")
            if count is not None:
                return count
    return None


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's group and of all around it; "" is the one hierarchy of version 2."""
    for line in _read(_SELF).splitlines() or [f"0:{controller}:/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        for base in (_ROOT / controllers, _ROOT / controller):
            if base.is_dir():
                yield from _upwards(base, path)
                break


def _upwards(base: Path, path: str) -> Iterator[Path]:
    # A container may see its own group as the root, and its path as it is outside.
    inside = PurePosixPath(path).relative_to("/") if path.startswith("/") and ".." not in path else PurePosixPath()
    for part in (inside, *inside.parents) if inside.parts else (inside,):
        if (base / part).is_dir():
            yield base / part


def _quota(path: Path) -> float | None:
    quota, _, period = _read(path).partition(" ")
    return _share(quota, period)


def _share(quota: str, period: str) -> float | None:
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _memory(folder: Path, limit_name: str, used_name: str, cache_name: str) -> Memory | None:
    try:
        limit, used = int(_read(folder / limit_name)), int(_read(folder / used_name))
    except ValueError:
        return None
    if not 0 < limit < _NO_LIMIT or used < 0:
        return None
    kept = used - min(used, _value(folder / "memory.stat", cache_name) or 0)
    return Memory(limit=limit, available=max(0, limit - kept), group=_name(folder))


def _name(folder: Path) -> str:
    return str(folder.stat().st_ino)


def _value(path: Path, name: str) -> int | None:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""

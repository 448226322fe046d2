"""How many processes the kernel has killed for want of memory, as this process's cgroup counts them."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def kills() -> int | None:
    """The count, or None where nobody counts."""
    for path in _counters():
        try:
            lines = path.read_text("ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _counters() -> list[Path]:
    # In a container the path may be the host's, and what is mounted is its own: its root then.
    found = []
    try:
        groups = Path("/proc/self/cgroup").read_text("ascii").splitlines()
    except OSError:
        return []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "memory":
            roots, name = [_CGROUP / "memory"], "memory.oom_control"
        elif controllers == "":
            roots, name = [_CGROUP, _CGROUP / "unified"], "memory.events"
        else:
            continue
        found += [root / place / name for root in roots for place in (path.lstrip("/"), "")]
    return found

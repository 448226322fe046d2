"""What the figures were measured on."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import redis

from egregore_dist.resources import report

PACKAGES = ("egregore-dist", "celery", "kombu", "redis", "hiredis", "msgspec")


def describe(server: redis.Redis) -> dict[str, str]:
    """The machine and the versions, by what they are of."""
    machine = report.measure()
    info: Any = server.info("server")
    return {
        "system": platform.platform(),
        "cores": f"{machine.cores:g}",
        "memory": f"{machine.memory_total / 2**30:.1f} GiB",
        "python": platform.python_version(),
        "server": f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}",
        **{name: metadata.version(name) for name in PACKAGES},
    }

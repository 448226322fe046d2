"""What the results were measured on, and when."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers.processes import ROOT
from egregore_dist.client import server
from egregore_dist.resources import report


def describe(command: Sequence[str], rounds: str) -> dict[str, Any]:
    """Machine, versions, commit, date and how to repeat; no names of machines, and no paths."""
    machine = report.measure()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": _processor(),
        "cores": f"{machine.cores:g}",
        "memory": f"{machine.memory_total / 2**30:.1f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "server": _server_version(),
        "rounds": rounds,
        "repeat": f"`{_repeat(command)}`",
    }


def commit() -> str:
    """What of the project is measured, as git has it: with ``-dirty`` where files differ from that."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return "not known: there is no git"
    return done.stdout.strip() or f"not known: {done.stderr.strip()}"


def _repeat(command: Sequence[str]) -> str:
    first, *arguments = command
    # Where the results went is nobody else's business.
    kept = [each for number, each in enumerate(arguments) if not _is_output(arguments, number)]
    return f"{first} ARGS='{' '.join(kept)}'" if kept else first


def _is_output(arguments: Sequence[str], number: int) -> bool:
    return arguments[number].startswith("--output") or (number > 0 and arguments[number - 1] == "--output")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _server_version() -> str:
    program = server.binary()
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(word for word in said.split() if not word.startswith(("sha=", "malloc=", "bits=", "build=")))

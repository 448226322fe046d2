"""Where the time goes: what each process computes, how often it wakes, and which part of the package is at work."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import redis

# Seconds: the system counts CPU time in hundredths, so that less is not worth reading.
_ROUND = 2.0
# Seconds to sample for, and samples a second: coprime to what the package does at intervals.
_SAMPLE_FOR, _RATE = 8, 487
_PACKAGE = "egregore_dist"
#: Samples of what no frame of the package is part of: Celery's own, between two tasks.
OUTSIDE = "celery"
# Modules with less than this share are told together.
_LEAST, REST = 0.02, "all others"


#: The parts of a cluster, as its accounts name them.
CLIENT, MAIN, POOL, SERVER = "client", "worker, its main process", "worker, its pool", "server"
SCRIPTS, WALL = "server, in scripts", "wall time"


class NoProfiler(Exception):
    """Raised where py-spy is not installed, or may not look at a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes of one cluster, by pid."""

    client: int
    server: int
    workers: tuple[int, ...]

    def by_role(self) -> dict[str, list[int]]:
        """The processes of each part."""
        pool = [child.pid for worker in self.workers for child in psutil.Process(worker).children()]
        return {CLIENT: [self.client], MAIN: [*self.workers], POOL: pool, SERVER: [self.server]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one unit of some work costs, once for each time it was measured.

    Attributes:
        seconds: of CPU time by part, of the server's scripts, and on the wall.
        wakes: how often each part had waited and went on.
        sent: how often the server was sent something.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    wakes: dict[str, list[float]] = field(default_factory=dict)
    sent: list[float] = field(default_factory=list)


def cost(
    processes: Processes,
    server: redis.Redis,
    work: Callable[[], object],
    *,
    units: int,
    rounds: int,
    least: float = _ROUND,
) -> Cost:
    """What a unit of the work costs each part of the cluster.

    Args:
        work: does all units once.
        units: how many those are: branches, or runs.
        rounds: how many values.
        least: seconds of each; as many repetitions as fit, and one at the least.
    """
    work()
    found = Cost()
    for _ in range(rounds):
        before, started, times = _used(processes, server), time.perf_counter(), 0
        while not times or time.perf_counter() - started < least:
            work()
            times += 1
        wall, after = time.perf_counter() - started, _used(processes, server)
        done = times * units
        for name, seconds in after.seconds.items():
            found.seconds.setdefault(name, []).append((seconds - before.seconds[name]) / done)
        found.seconds.setdefault(WALL, []).append(wall / done)
        for name, wakes in after.wakes.items():
            found.wakes.setdefault(name, []).append((wakes - before.wakes[name]) / done)
        found.sent.append((after.sent - before.sent) / done)
    return found


def by_module(
    processes: Processes,
    work: Callable[[], object],
    *,
    units: int,
    spy: Sequence[str] | None = None,
    seconds: int = _SAMPLE_FOR,
) -> dict[str, list[tuple[str, float]]]:
    """What a unit costs client, main process and pool, by the module of the package that was at work: seconds.

    Only what computes is sampled. Time in a library counts for the module that called it.

    Args:
        work: does all units once.
        units: how many those are.
        spy: the command of py-spy; absent, the one that is installed.
        seconds: for how long.

    Raises:
        NoProfiler: py-spy is not installed, or may not look.
    """
    command = list(spy or _spy())
    work()
    roles = {role: pids for role, pids in processes.by_role().items() if role != SERVER}
    with tempfile.TemporaryDirectory() as folder:
        # `--gil`: only who holds it; a call that waits for the server has let it go.
        options = ["--gil", "--format=raw", f"--rate={_RATE}", f"--duration={seconds}"]
        spies = [
            subprocess.Popen(
                [*command, "record", *options, f"--output={Path(folder, str(pid))}", f"--pid={pid}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for pids in roles.values()
            for pid in pids
        ]
        done, before = 0, {role: sum(map(_seconds, pids)) for role, pids in roles.items()}
        while any(each.poll() is None for each in spies):
            work()
            done += units
        used = {role: sum(map(_seconds, pids)) - before[role] for role, pids in roles.items()}
        for each in spies:
            _, said = each.communicate()
            if each.returncode:
                raise NoProfiler(f"py-spy could not look at a process: {said.strip()}")
        found = {}
        for role, pids in roles.items():
            # Who never computed has no file.
            files = [file for pid in pids if (file := Path(folder, str(pid))).exists()]
            sampled = shares(line for file in files for line in file.read_text().splitlines())
            found[role] = [(module, share * used[role] / done) for module, share in _told(sampled)]
    return found


def _told(sampled: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    told = [(module, share) for module, share in sampled if share >= _LEAST]
    rest = 1 - sum(share for _, share in told)
    return [*told, (REST, rest)] if sampled and len(told) < len(sampled) else told


def shares(stacks: Iterable[str]) -> list[tuple[str, float]]:
    """How the samples are shared out among modules, the largest part first.

    Args:
        stacks: lines as py-spy writes them: frames from the outermost, ``function (file:line)``, joined by ``;``, and
            after a space how often that was seen.
    """
    seen: Counter[str] = Counter()
    for line in stacks:
        stack, _, times = line.rpartition(" ")
        seen[_module(stack.split(";"))] += int(times)
    return [(module, times / seen.total()) for module, times in seen.most_common()]


def _module(frames: list[str]) -> str:
    for frame in reversed(frames):
        path = PurePosixPath(frame.rpartition(" (")[2].partition(":")[0])
        if _PACKAGE in path.parts[:-1]:
            parts = path.with_suffix("").parts
            return ".".join(parts[len(parts) - parts[::-1].index(_PACKAGE) :])
    return OUTSIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Used:
    seconds: dict[str, float]
    wakes: dict[str, int]
    sent: int


def _used(processes: Processes, server: redis.Redis) -> _Used:
    roles = processes.by_role()
    seconds = {role: sum(map(_seconds, pids)) for role, pids in roles.items()}
    info: Any = server.info("stats")
    return _Used(
        seconds=seconds | {SCRIPTS: _scripts(server)},
        wakes={role: sum(map(_wakes, pids)) for role, pids in roles.items()},
        sent=info.get("total_reads_processed", 0),
    )


def _wakes(pid: int) -> int:
    """How often threads of a process gave up the processor to wait; 0 where the system does not tell."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        # A thread may have ended since.
        with suppress(OSError):
            found = [line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches")]
            total += sum(int(line.partition(":")[2]) for line in found)
    return total


def _seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _scripts(server: redis.Redis) -> float:
    info: Any = server.info("commandstats")
    return float(sum(info.get(f"cmdstat_{name}", {"usec": 0})["usec"] for name in ("evalsha", "eval"))) / 1e6


def _spy() -> list[str]:
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise NoProfiler("py-spy is not installed: pip install py-spy")
    return [found]

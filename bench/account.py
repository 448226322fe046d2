"""Where the time goes: what each process computes for a branch, and in which part of the package its worker does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import redis

from bench.figures import Figure
from bench.measure import Sample

# Seconds: the system counts CPU time in hundredths, so that less is not worth reading.
_ROUND = 2.0
# Seconds to sample for, and samples a second: coprime to what the package does at intervals.
_SAMPLE_FOR, _RATE = 8, 487
_PACKAGE = "egregore_dist"
#: Samples of what no frame of the package is part of: Celery's own, between two tasks.
OUTSIDE = "celery"
# Modules with less than this share are told together.
_LEAST, REST = 0.02, "all others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes of one cluster, by pid."""

    client: int
    server: int
    worker: int

    def pool(self) -> list[psutil.Process]:
        """The worker's pool."""
        return psutil.Process(self.worker).children()


def by_process(
    processes: Processes, server: redis.Redis, work: Callable[[], object], *, branches: int, rounds: int
) -> Iterator[Figure]:
    """What a branch costs each process in CPU time, what the server's scripts take of that, and the wall time.

    Args:
        work: runs all branches once.
        branches: how many those are.
        rounds: how many values; each is of as many runs as make two seconds.
    """
    work()
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        before, scripts, started, runs = _cpu(processes), _scripts(server), time.perf_counter(), 0
        while time.perf_counter() - started < _ROUND:
            work()
            runs += 1
        wall = time.perf_counter() - started
        used = {name: after - before[name] for name, after in _cpu(processes).items()}
        used |= {"server, in scripts": _scripts(server) - scripts, "wall time": wall}
        for name, seconds in used.items():
            taken.setdefault(name, []).append(seconds / (runs * branches))
    for name, values in taken.items():
        yield Figure(name=f"a branch of {branches}: {name}", sample=Sample.of(values), unit="s")


def by_module(processes: Processes, work: Callable[[], object], *, branches: int) -> Iterator[Figure]:
    """What a branch costs the worker's pool, by the module of the package that was at work, as py-spy samples it.

    Only what computes is sampled. Time in a library counts for the module that called it.

    Raises:
        RuntimeError: py-spy is not installed, or may not look at the worker.
    """
    spy = _spy()
    work()
    pool = processes.pool()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(process.pid)) for process in pool]
        # `--gil`: only who holds it; a call that waits for the server has let it go.
        options = ["--gil", "--format=raw", f"--rate={_RATE}", f"--duration={_SAMPLE_FOR}"]
        spies = [
            subprocess.Popen(
                [*spy, "record", *options, f"--output={file}", f"--pid={process.pid}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process, file in zip(pool, files, strict=True)
        ]
        done, before = 0, sum(_seconds(process.pid) for process in pool)
        while any(each.poll() is None for each in spies):
            work()
            done += branches
        used = sum(_seconds(process.pid) for process in pool) - before
        for each in spies:
            if each.returncode:
                assert each.stderr is not None
                raise RuntimeError(f"py-spy could not look at a worker: {each.stderr.read().strip()}")
        sampled = shares(line for file in files for line in file.read_text().splitlines())
    told = [(module, share) for module, share in sampled if share >= _LEAST]
    for module, share in [*told, (REST, 1 - sum(share for _, share in told))]:
        yield Figure(name=f"a branch of {branches}: pool, {module}", sample=Sample.of([share * used / done]), unit="s")


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


def _cpu(processes: Processes) -> dict[str, float]:
    return {
        "client": _seconds(processes.client),
        "worker, its main process": _seconds(processes.worker),
        "worker, its pool": sum(_seconds(process.pid) for process in processes.pool()),
        "server": _seconds(processes.server),
    }


def _seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _scripts(server: redis.Redis) -> float:
    info: Any = server.info("commandstats")
    return float(sum(info.get(f"cmdstat_{name}", {"usec": 0})["usec"] for name in ("evalsha", "eval"))) / 1e6


def _spy() -> list[str]:
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise RuntimeError("py-spy is not installed: pip install py-spy")
    return [found]

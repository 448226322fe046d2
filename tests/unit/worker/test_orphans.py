"""Which processes are those of a pool process that has died."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from egregore_dist.engine import boards
from egregore_dist.worker import orphans
from tests.support import strays
from tests.support.waiting import until

# A pool process that is killed in its second lane. Its first line names what it started for no branch: before a lane,
# after one, and as a module was imported. The second names what its branches have started.
PROGRAM = """
import os, signal, subprocess, time
from billiard import process
from egregore_dist.engine import leftovers
from tests.support import strays

process.current_process()._config["daemon"] = True

def fork():
    pid = os.fork()
    if pid == 0:
        {stubborn}
        time.sleep(3600)
        os._exit(0)
    return pid

others = [*strays.start(), fork()]
with leftovers.allowed():
    pass
others += [*strays.start(), fork()]
with leftovers.allowed():
    with leftovers.kept():
        others += [*strays.start(), fork()]
    print(*others, flush=True)
    print(*strays.start(), fork(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_the_branches_of_a_dead_process_left(tmp_path: Path, stubborn: bool) -> None:
    """All that branches have started is ended, whatever environment and session it has; nothing else is."""
    program = PROGRAM.format(stubborn="signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else "pass")
    watch = orphans.Orphans()

    def are_gone(pids: list[int]) -> bool:
        watch.round()
        return not any(map(strays.runs, pids))

    with _killed(program, tmp_path) as (pool, others, left), _killed(program, tmp_path) as (_, *of_another):
        watch.died(tmp_path / str(pool))
        until(lambda: are_gone(left), what="the end of what was left")
        until(lambda: watch.round() is None and not watch._searches, what="the last look")

        assert all(map(strays.runs, itertools.chain(others, *of_another)))


@contextmanager
def _killed(program: str, folder: Path) -> Iterator[tuple[int, list[int], list[int]]]:
    # Its pid, and those that it names.
    env = {**os.environ, boards.FOLDER: str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env) as pool:
        assert pool.stdout is not None
        others, left = ([int(pid) for pid in pool.stdout.readline().split()] for _ in range(2))
    assert pool.returncode == -signal.SIGKILL
    try:
        yield pool.pid, others, left
    finally:
        strays.end(others + left)

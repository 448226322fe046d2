"""Which processes are those of a pool process that has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from egregore_dist.engine import boards, leftovers
from egregore_dist.worker import orphans
from tests.support.waiting import until

# A pool process that is killed while its branch has a program and a fork; it names them, and one of before the lane.
PROGRAM = """
import os, signal, subprocess, sys, time
from billiard import process
from egregore_dist.engine import leftovers

process.current_process()._config["daemon"] = True

def fork():
    pid = os.fork()
    if pid == 0:
        {stubborn}
        time.sleep(3600)
        os._exit(0)
    return pid

before = [subprocess.Popen(["sleep", "3600"]).pid, fork()]
with leftovers.allowed():
    left = [subprocess.Popen(["sleep", "3600"]).pid, fork()]
    time.sleep(0.2)
    print(*before, *left, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_the_branches_of_a_dead_process_left(tmp_path: Path, stubborn: bool) -> None:
    """All that was started in the lane is ended, and what was started before it is not."""
    program = PROGRAM.format(stubborn="signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else "pass")
    pool = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, boards.FOLDER: str(tmp_path)},
    )
    with pool:
        assert pool.stdout is not None
        # Another's pid that begins with this one's digits has other branches.
        pids = [int(pid) for pid in pool.stdout.readline().split()]
        assert pool.wait() == -signal.SIGKILL
        others = subprocess.Popen(["sleep", "3600"], env={leftovers.MARK: leftovers.mark_of(tmp_path / f"{pool.pid}1")})
    try:
        before, left = pids[:2], pids[2:]
        watch = orphans.Orphans()
        watch.died(tmp_path / str(pool.pid))

        def are_gone() -> bool:
            watch.round()
            return not any(map(_runs, left))

        until(are_gone, what="the end of what was left")
        until(lambda: watch.round() is None and not watch._marks, what="the last look")
        assert all(map(_runs, before))
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()
        for pid in pids:
            if _runs(pid):
                os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

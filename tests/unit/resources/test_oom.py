"""Which process the kernel ends first."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from egregore_dist.resources import oom

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/oom_score_adj").exists(), reason="this kernel cannot be told which process to end first"
)


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits."""
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def adjusted(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_a_process_is_ended_before_the_one_that_started_it(child: int) -> None:
    """By a fifth of the memory that there is, and never by more than the kernel takes."""
    before = adjusted(child)
    oom.end_first(child)
    assert adjusted(child) == before + 200
    for _ in range(10):
        oom.end_first(child)
    assert adjusted(child) == 1000


def test_a_process_that_has_ended_is_no_error() -> None:
    """It died at once."""
    oom.end_first(2**22 + 1)

"""The keeper's independence."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

from egregore_dist.client import processes
from egregore_dist.client.processes import Process
from tests.support.waiting import until


def test_the_keeper_needs_the_standard_library_only() -> None:
    """keeper.py runs by path without this package: it imports nothing but the standard library."""
    tree = ast.parse(processes.KEEPER.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_a_process_that_has_ended_holds_nothing(tmp_path: Path) -> None:
    """Who sees that it has ended has let go of its keeper too, without waiting for it or stopping it."""
    process = Process.spawn([sys.executable, "-c", ""], env=os.environ, log=tmp_path / "log")
    until(lambda: not process.alive, what="the end")

    assert process._keeper.stdin is not None
    assert process._keeper.stdin.closed


def test_whoever_asked_has_gone_before_the_command_began(tmp_path: Path) -> None:
    """The command is stopped, and what goes with it removed, where nobody reads its pid any more."""
    folder = tmp_path / "folder"
    folder.mkdir()
    reading, writing = os.pipe()
    os.close(reading)
    keeper = subprocess.Popen(
        [sys.executable, "-I", str(processes.KEEPER), "--remove", str(folder), "--", "sleep", "60"],
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writing)
    try:
        assert keeper.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        keeper.kill()
        if keeper.stdin is not None:
            keeper.stdin.close()
    assert not folder.exists()

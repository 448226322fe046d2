"""Programs that end before their runs do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from egregore_dist import LocalCluster, node

#: A node that says when it has begun, waits for a gate, and says when it is through.
HEAD = """
import os, sys, time
from pathlib import Path
from egregore_dist import LocalCluster, Run, node, parallel

folder = Path(sys.argv[1])

@node
def gated(folder: str) -> str:
    Path(folder, "begun").touch()
    try:
        while not Path(folder, "gate").exists():
            time.sleep(0.01)
        Path(folder, "through").touch()
        return "through"
    finally:
        Path(folder, "finally").touch()

@node
def failing(folder: str) -> None:
    while not Path(folder, "gate").exists():
        time.sleep(0.01)
    raise ValueError("it broke")

def begun():
    while not (folder / "begun").exists():
        time.sleep(0.01)
"""


@node
def double(value: int) -> int:
    return 2 * value


def program(folder: Path, body: str, *options: str) -> subprocess.Popen[str]:
    """A script with this body."""
    script = folder / "script.py"
    script.write_text(HEAD + textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, *options, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": os.getcwd(), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def waiting(started: subprocess.Popen[str]) -> str:
    """The line that says for which run a program waits at its end; returns the run's id."""
    assert started.stderr is not None
    for line in started.stderr:
        if told := re.match(r"egregore-dist: waiting for run (\w+) of workflow 'gated'.* Press Ctrl-C", line):
            return told[1]
    raise AssertionError(f"it ended with {started.wait()} and did not wait")


def test_a_program_waits_for_what_it_has_submitted(tmp_path: Path) -> None:
    """The run is not lost with the program's cluster; the exit code is the program's own."""
    started = program(tmp_path, "gated.submit(str(folder))\nsys.exit(7)")
    waiting(started)
    assert not (tmp_path / "through").exists()
    (tmp_path / "gate").touch()
    _, err = started.communicate(timeout=60)

    assert (started.returncode, err) == (7, "")
    assert (tmp_path / "through").exists()


def test_ctrl_c_leaves_it(tmp_path: Path) -> None:
    """Ctrl-C at the end names the run and how to keep such runs; what runs is stopped, not killed."""
    started = program(tmp_path, "gated.submit(str(folder))\nbegun()")
    run = waiting(started)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)

    assert (started.returncode, "Traceback" in err) == (0, False)
    assert f"the cluster ends before run {run} of workflow 'gated', and what has not ended is lost" in err
    assert "LocalCluster(data_dir=...)" in err
    assert (tmp_path / "finally").exists()
    assert not (tmp_path / "through").exists()


def test_a_run_that_nobody_can_serve_is_named(tmp_path: Path) -> None:
    """A run with no prospect of an end is not waited for; the one beside it is, and one that fails is told."""
    body = """
    from egregore_dist.client import unfinished
    unfinished._PATIENCE = 0.2
    paused = gated.alias("paused").submit("x", id="idle")
    paused.pause()
    failing.submit(str(folder), id="broken")
    """
    started = program(tmp_path, body)
    assert started.stderr is not None
    assert "waiting for 2 runs (idle, broken)" in started.stderr.readline()
    (tmp_path / "gate").touch()
    _, err = started.communicate(timeout=60)

    assert re.search(r"run broken has failed: .*it broke", err)
    assert "the cluster ends before run idle of workflow 'paused', and what has not ended is lost" in err
    assert "run idle: the run is paused" in err


def test_a_run_that_fails_while_its_wait_is_told_is_told_too(tmp_path: Path) -> None:
    """However short its wait: the program has said that it waits for it."""
    body = """
    from egregore_dist.client import unfinished
    say = unfinished._say
    def say_late(text):
        say(text)
        while text.startswith("waiting") and broken.status != "failed":
            time.sleep(0.01)
    unfinished._say = say_late
    gated.submit(str(folder), id="gated")
    begun()
    broken = failing.submit(str(folder), id="broken")
    """
    started = program(tmp_path, body)
    assert started.stderr is not None
    assert "waiting for 2 runs (gated, broken)" in started.stderr.readline()
    (tmp_path / "gate").touch()
    _, err = started.communicate(timeout=60)

    assert re.search(r"run broken has failed: .*it broke", err)


@pytest.mark.parametrize("how", ["raises", "interactive"])
def test_a_program_that_fails_does_not_wait(tmp_path: Path, how: str) -> None:
    """An uncaught exception ends the program, and so does the end of an interactive session; the run is named."""
    options = ("-i",) if how == "interactive" else ()
    end = "raise RuntimeError('the script broke')" if how == "raises" else ""
    started = program(tmp_path, f"gated.submit(str(folder))\nbegun()\n{end}", *options)
    _, err = started.communicate(timeout=60)

    assert started.returncode == (1 if how == "raises" else 0)
    assert re.search(r"the cluster ends before run \w+ of workflow 'gated', and what has not ended is lost", err)
    assert "waiting for" not in err


def test_a_forked_copy_does_not_wait(tmp_path: Path) -> None:
    """The program's copy ends at once; the program itself waits for its run."""
    started = program(
        tmp_path,
        """
        gated.submit(str(folder))
        pid = os.fork()
        if pid == 0:
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        """,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "3\n"
    waiting(started)
    (tmp_path / "gate").touch()
    _, err = started.communicate(timeout=60)

    assert (started.returncode, err) == (0, "")


def test_the_end_of_a_with_block_names_what_it_leaves(tmp_path: Path) -> None:
    """With a ``data_dir`` the run goes on in the next cluster that is started with it, code by value included."""
    body = """
    with LocalCluster(workers=1, data_dir=folder / "data"):
        gated.submit(str(folder), id="kept")
        begun()
    """
    _, first = program(tmp_path, body).communicate(timeout=60)
    (tmp_path / "gate").touch()
    again = """
    with LocalCluster(workers=1, data_dir=folder / "data"):
        print(Run("kept").result(timeout=60))
    """
    out, second = program(tmp_path, again).communicate(timeout=90)

    assert f"before run kept of workflow 'gated'. LocalCluster(data_dir='{tmp_path}/data') starts it again" in first
    assert (out, second) == ("through\n", "")


def test_the_end_of_a_with_block_without_a_data_dir(capsys: pytest.CaptureFixture[str]) -> None:
    """The run ends with the cluster, as the program asks for, and is named; one that has ended is not."""
    with LocalCluster(workers=0):
        double.submit(1, id="gone")
        double.submit(1, id="over").cancel()

    said = capsys.readouterr().err
    assert "the cluster ends before run gone of workflow 'double', and what has not ended is lost" in said
    assert "over" not in said

"""What runs the parts of the tests that `make test` leaves out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from tests import all as parts
from tests.all import Part
from tests.support.waiting import until


def python(program: str) -> Part:
    return Part("a program", lambda seconds: [sys.executable, "-c", program, str(seconds)], is_long=True)


def test_each_part_runs_and_the_summary_names_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that fails, hangs or cannot be started keeps no other from running; the exit code tells of it."""
    monkeypatch.setattr(parts, "GRACE", 0)
    monkeypatch.setattr(
        parts,
        "PARTS",
        {
            "fails": python("import sys; sys.exit(3)"),
            "missing": Part("nothing", lambda _seconds: ["no-such-program"]),
            "hangs": python("import signal; signal.sigwait([signal.SIGINT])"),
            "passes": python("import os, sys; assert sys.argv[1] == '1' and os.environ['EGREGORE_TEST_LONG'] == '1'"),
        },
    )
    ended = CliRunner().invoke(parts.main, ["--seconds", "1"])

    assert ended.exit_code == 1
    summary = ended.output.partition("== summary\n")[2].splitlines()
    assert [line.split()[0] for line in summary] == ["fails", "missing", "hangs", "passes"]
    outcomes = [line.partition(" s  ")[2] for line in summary]
    assert outcomes == [
        "FAILED: code 3",
        "NOT RUN: no-such-program is not installed",
        "FAILED: not done within 1 s (--seconds)",
        "passed",
    ]


def test_a_part_ends_with_what_runs_it(tmp_path: Path) -> None:
    """SIGTERM, as make hands it on, leaves no tests behind."""
    program = f"""
import sys
from tests import all as parts
wait = "import os, signal; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); signal.pause()"
parts.PARTS = {{"waits": parts.Part("", lambda _: [sys.executable, "-c", wait])}}
parts.main([])
"""
    running = subprocess.Popen([sys.executable, "-c", program])
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", what="the part")

    running.terminate()

    assert running.wait(20) == 143
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_parts_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that are named run, and success is exit code 0."""
    monkeypatch.setattr(parts, "PARTS", {name: python("") for name in ("long", "soak")})

    ended = CliRunner().invoke(parts.main, ["soak"])

    assert ended.exit_code == 0
    assert "== long" not in ended.output
    assert ended.output.splitlines()[-1].endswith("passed")

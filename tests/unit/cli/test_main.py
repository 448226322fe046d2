"""The command line without a cluster."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from egregore_dist.cli import codes, main, runs
from egregore_dist.cli.failing import Quit
from egregore_dist.cli.main import COMMANDS
from egregore_dist.cli.run import read_input
from egregore_dist.ledger.records import RunState

LOOKING = ("list", "show", "report", "watch")
LIMITS = ("limits list", "limits show x", "limits set x --concurrent 1", "limits clear x")
CHANGING = ("cancel", "pause", "resume", "retry")
HEAVY = ("billiard", "celery", "kombu", "psutil", "pydantic", "redis", "rich")


def test_help_is_quick() -> None:
    """``--help`` loads no large library."""
    code = (
        "import sys; from egregore_dist.cli import main; main(['--help'], standalone_mode=False); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "name", [*COMMANDS, *(f"runs {verb}" for verb in LOOKING), *(f"runs {verb}" for verb in CHANGING), *LIMITS]
)
def test_every_command_has_help(name: str) -> None:
    """Every command describes itself, and takes the URLs of the cluster, unless it needs none."""
    result = CliRunner().invoke(main, [*name.split(), "--help"])

    assert result.exit_code == 0
    assert ("--broker-url" in result.stdout) == (name != "secret")


@pytest.mark.parametrize(
    "name",
    [
        *("plan x:y", "runs list", "workers", "nodes", "top", "doctor", *LIMITS),
        *(f"runs {verb} x" for verb in ("show", "report", "watch", *CHANGING)),
    ],
)
def test_verbs_take_json(name: str) -> None:
    """Every verb that reads or changes has ``--json``, and its help lists the keys."""
    result = CliRunner().invoke(main, [*name.split(), "--help"])

    assert "--json" in result.stdout
    assert "JSON keys:" in result.stdout


@pytest.mark.parametrize(
    "name",
    [
        *("runs list", "workers", "nodes", "top", "doctor", "run json:x --no-wait", *LIMITS),
        *(f"runs {verb} x" for verb in ("show", "report", "watch", *CHANGING)),
    ],
)
def test_without_a_cluster(name: str) -> None:
    """What needs a cluster that stays says in one line how to configure one, and ends with 2."""
    result = CliRunner().invoke(main, name.split())

    assert result.exit_code == codes.USAGE
    assert len(result.stderr.splitlines()) == 1
    if not name.startswith("run "):
        assert "set EGREGORE_BROKER_URL" in result.stderr


def test_doctor_checks_this_machine_without_a_cluster() -> None:
    """The doctor tells what it can without a cluster."""
    result = CliRunner().invoke(main, ["doctor", "--json"])

    said = json.loads(result.stdout)
    assert result.exit_code == codes.USAGE
    assert said["configured"] is False
    assert [check["name"] for check in said["checks"]] == ["python", "versions", "embedded server", "secret"]


def test_an_empty_variable_configures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """EGREGORE_BROKER_URL without a value is as if it were not there."""
    monkeypatch.setenv("EGREGORE_BROKER_URL", "")

    assert "no cluster is configured" in CliRunner().invoke(main, ["workers"]).stderr


@pytest.mark.parametrize(
    "arguments",
    [["--broker-url", "redis://127.0.0.1:1", "workers"], ["workers", "--broker-url", "redis://127.0.0.1:1"]],
)
def test_a_server_that_does_not_answer(arguments: list[str]) -> None:
    """The URL is taken before and after a command; a server that does not answer ends with 3."""
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == codes.UNREACHABLE
    assert "cannot be reached" in result.stderr


def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that cannot be read is named."""
    monkeypatch.setenv("EGREGORE_RETENTION", "soon")

    result = CliRunner().invoke(main, ["workers"])

    assert result.exit_code == codes.USAGE
    assert "EGREGORE_RETENTION" in result.stderr


def test_states_are_those_of_the_ledger() -> None:
    """``runs list --state`` takes the states that a run can have."""
    assert get_args(RunState) == runs.STATES


def test_an_unknown_command() -> None:
    """A command that does not exist is a usage error."""
    result = CliRunner().invoke(main, ["nothing"])

    assert isinstance(main, click.Group)
    assert result.exit_code == codes.USAGE


@pytest.mark.parametrize("given", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_numbers_that_json_has_not_are_refused(given: str) -> None:
    """An input with NaN or an infinity is no JSON."""
    with pytest.raises(Quit, match=r"is not JSON: .* is no JSON number"):
        read_input(given)


def test_a_terminal_without_the_letters_is_no_error() -> None:
    """What the terminal's encoding cannot show is shown as an escape."""
    done = subprocess.run(
        [sys.executable, "-m", "egregore_dist", "doctor"],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )

    assert b"UnicodeEncodeError" not in done.stderr
    assert b"\\u2713" in done.stdout


def test_the_version_names_the_command() -> None:
    """``--version`` says the command's name, however it was started."""
    done = subprocess.run(
        [sys.executable, "-m", "egregore_dist", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("egregore-dist, version ")

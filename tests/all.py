"""``python -m tests.all``: run what `make test` leaves out, part by part, and end with a summary."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

#: Seconds from which tests take their longest versions.
HOURS = 3600

#: Seconds that a part may take beyond its time, to finish its last mutant or the end of its soak.
GRACE = 120

_PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "4", "--dist", "loadfile")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the tests.

    Attributes:
        about: what it tests, for the help.
        command: makes the command for so many seconds.
        is_long: whether its tests run in their long versions.
    """

    about: str
    command: Callable[[int], list[str]]
    is_long: bool = False


def _tests(*chosen: str) -> Callable[[int], list[str]]:
    return lambda _seconds: [*_PYTEST, *chosen]


def _module(name: str, *options: str) -> Callable[[int], list[str]]:
    return lambda seconds: [sys.executable, "-m", name, *[option.format(seconds) for option in options]]


def _versions(env: str) -> Callable[[int], list[str]]:
    return lambda _seconds: ["make", "--no-print-directory", "test-versions", f"ARGS=-e {env}"]


PARTS = {
    "long": Part("tests that are marked as long", _tests("-m", "long"), is_long=True),
    "units": Part("unit tests with more examples", _tests("-m", "not long", "tests/unit"), is_long=True),
    "ledger": Part("ledger tests with more examples", _tests("-m", "not long", "tests/cluster/ledger"), is_long=True),
    "faults": Part("fault tests in which workers also stop", _tests("-m", "not long", "tests/faults"), is_long=True),
    "lowest": Part("unit tests on the oldest dependencies", _versions("lowest")),
    "newer": Part("unit tests on each newer Python that is installed", _versions("py312,py313,py314")),
    "celery": Part("Celery's own integration tests", _module("tests.celery_suite")),
    "torch": Part(
        "PyTorch's DataLoader in nodes", lambda _seconds: ["make", "--no-print-directory", "test-torch", "ARGS="]
    ),
    "fuzz": Part("every decoder, fuzzed", _module("tests.fuzz", "--seconds={}")),
    "mutants": Part("mutants, in random order", _module("tests.mutants", "--seconds={}")),
    "soak": Part("workflows under faults", _module("tests.soak", "--seconds={}")),
}


def run(part: Part, seconds: int) -> str:
    """Run one part: how it ended."""
    command = part.command(seconds)
    if shutil.which(command[0]) is None:
        return f"NOT RUN: {command[0]} is not installed"
    length = {"EGREGORE_TEST_LONG": "hours" if seconds >= HOURS else "1"} if part.is_long else {}
    process = subprocess.Popen(command, env={**os.environ, **length}, start_new_session=True)
    try:
        code = process.wait(seconds + GRACE)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"FAILED: not done within {seconds + GRACE} s (--seconds)"
    except BaseException:
        _end(process)
        raise
    return "passed" if code == 0 else f"FAILED: code {code}"


def _end(process: subprocess.Popen[Any]) -> None:
    # Pytest ends the servers and workers that its tests have started.
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@click.command(
    epilog="\b\nParts:\n" + "\n".join(f"  {name:8} {part.about}" for name, part in PARTS.items()),
)
@click.option("--seconds", type=click.IntRange(1), default=480, show_default=True, help="The time for each part.")
@click.argument("names", metavar="[PART]...", nargs=-1, type=click.Choice(list(PARTS)))
def main(seconds: int, names: tuple[str, ...]) -> None:
    """Run parts of the tests that `make test` leaves out: those that are named, or all.

    A part that fails does not keep the next from running. Exits with 1 if one has failed.
    """
    # To end the part that runs, which has a session of its own.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    outcomes = {}
    for name in names or tuple(PARTS):
        click.secho(f"== {name}: {PARTS[name].about}", bold=True)
        began = time.monotonic()
        outcomes[name] = run(PARTS[name], seconds), time.monotonic() - began
    click.secho("== summary", bold=True)
    for name, (outcome, took) in outcomes.items():
        click.echo(f"{name:8} {took:6.0f} s  {outcome}")
    sys.exit(any(outcome != "passed" for outcome, _ in outcomes.values()))


if __name__ == "__main__":
    main()

"""``python -m tests.mutants``: break the code in each of these ways, and see that a test fails.

The mutants run in random order, until there are none left or the time is over.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tests.mutants.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]

# Pytest's exit codes where tests ran, and none or some failed; any other is a mistake in the list.
PASSED, FAILED = 0, 1


def copy_to(folder: Path) -> None:
    """A copy of the checkout's own files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def mutate(folder: Path, mutation: Mutation) -> None:
    """Make the change. Raises `click.ClickException` where the text is not there once."""
    path = folder / mutation.file
    text = path.read_text("utf-8")
    if text.count(mutation.old) != 1:
        raise click.ClickException(
            f"{mutation.name}: {mutation.old!r} is {text.count(mutation.old)} times in {path.name}"
        )
    path.write_text(text.replace(mutation.old, mutation.new), "utf-8")


def test(folder: Path, arguments: tuple[str, ...]) -> tuple[int, str]:
    """Run tests of a copy until one fails: pytest's exit code, and the name of the test that failed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return done.returncode, failed[0] if failed else done.stdout[-2000:]


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the checkout, for a while."""
    with tempfile.TemporaryDirectory(prefix="egregore-mutant-") as temporary:
        copy_to(Path(temporary))
        yield Path(temporary)


def check(mutation: Mutation, passed: set[tuple[str, ...]]) -> bool:
    """Whether the mutant is noticed by its tests, which pass without it; prints a line for each.

    Args:
        mutation: the change.
        passed: the tests that passed without a mutation so far.
    """
    with copied() as folder:
        if mutation.tests not in passed:
            code, last = test(folder, mutation.tests)
            if code != PASSED:
                # They would notice whatever is changed.
                click.echo(f"without any, {' '.join(mutation.tests)}\n    FAILS (pytest ended with {code}): {last}")
                return False
            passed.add(mutation.tests)
        mutate(folder, mutation)
        started = time.monotonic()
        code, last = test(folder, mutation.tests)
    verdict = "noticed by" if code == FAILED else f"NOT NOTICED (pytest ended with {code}):"
    click.echo(f"{mutation.name}\n    {verdict} {last} ({time.monotonic() - started:.0f} s)")
    return code == FAILED


@click.command()
@click.option("-k", "wanted", default="", help="Only those with this in their name.")
@click.option("--seconds", type=float, default=float("inf"), help="Begin no other mutant after this time.")
@click.option("--seed", type=int, help="The seed of the order, as an earlier call printed it.")
def main(wanted: str, seconds: float, seed: int | None) -> None:
    """Make each mutation in a copy of the checkout, and run the tests that have to notice, which pass without it."""
    seed = random.randrange(10**6) if seed is None else seed
    mutations = [mutation for mutation in MUTATIONS if wanted in mutation.name]
    random.Random(seed).shuffle(mutations)
    passed: set[tuple[str, ...]] = set()
    survivors, done, began = 0, 0, time.monotonic()
    for mutation in mutations:
        if time.monotonic() - began > seconds:
            break
        survivors += not check(mutation, passed)
        done += 1
    click.echo(f"{done} of {len(mutations)} mutants, {done - survivors} noticed (--seed {seed})")
    if survivors:
        raise click.ClickException(f"{survivors} mutants were not noticed")


if __name__ == "__main__":
    main()

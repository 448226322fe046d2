"""``python -m tests.mutants``: break the code in each of these ways, and see that a test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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


def refuse_failing(mutations: Sequence[Mutation]) -> None:
    """Raise `click.ClickException` where tests fail without any mutation: they would notice whatever is changed."""
    failing = 0
    with copied() as folder:
        for tests in dict.fromkeys(mutation.tests for mutation in mutations):
            started = time.monotonic()
            code, said = test(folder, tests)
            verdict = "passes" if code == PASSED else f"FAILS (pytest ended with {code}): {said}"
            click.echo(f"without any, {' '.join(tests)}\n    {verdict} ({time.monotonic() - started:.0f} s)")
            failing += code != PASSED
    if failing:
        raise click.ClickException(f"{failing} of the tests fail without a mutation")


@click.command()
@click.option("-k", "wanted", default="", help="Only those with this in their name.")
def main(wanted: str) -> None:
    """Make each mutation in a copy of the checkout, and run the tests that have to notice, which pass without it."""
    mutations = [mutation for mutation in MUTATIONS if wanted in mutation.name]
    refuse_failing(mutations)
    survivors = 0
    for mutation in mutations:
        with copied() as folder:
            mutate(folder, mutation)
            started = time.monotonic()
            code, said = test(folder, mutation.tests)
        noticed = code == FAILED
        survivors += not noticed
        verdict = "noticed by" if noticed else f"NOT NOTICED (pytest ended with {code}):"
        click.echo(f"{mutation.name}\n    {verdict} {said} ({time.monotonic() - started:.0f} s)")
    if survivors:
        raise click.ClickException(f"{survivors} mutations were not noticed")


if __name__ == "__main__":
    main()

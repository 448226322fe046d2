"""Fuzz every decoder: ``python -m tests.fuzz --seconds 3600``. Needs atheris, which is made for Linux on x86-64."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.fuzz.targets import TARGETS

#: MB that a process may take: the interpreter and libFuzzer take some 150 of them.
MEMORY = 600
#: Bytes of the longest input.
LENGTH = 65536
#: Findings after which a target is left.
FINDINGS = 5

_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def fuzz(name: str, seconds: float, folder: Path) -> tuple[int, int, list[Path]]:
    """Fuzz one target; returns how many inputs were executed, how many are in its corpus, and the findings."""
    corpus, findings = folder / name / "corpus", folder / name / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    for at, seed in enumerate(TARGETS[name].seeds):
        (corpus / f"seed{at}").write_bytes(seed)
    executed, ends = 0, time.monotonic() + seconds
    while (left := int(ends - time.monotonic())) > 0 and len(list(findings.iterdir())) < FINDINGS:
        options = [f"-max_total_time={left}", f"-rss_limit_mb={MEMORY}", f"-max_len={LENGTH}", "-timeout=20"]
        options += ["-print_final_stats=1", f"-artifact_prefix={findings}/"]
        command = [sys.executable, "-m", "tests.fuzz.one", name, *options, str(corpus)]
        # To a file: the peak of this process's memory counts for the one that it starts.
        with (folder / name / "output").open("wb") as output:
            code = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
        tail = _tail(folder / name / "output")
        counted = _EXECUTED.search(tail)
        executed += int(counted[1]) if counted else 0
        if code:
            click.echo(tail, err=True)
            if not list(findings.iterdir()):
                (findings / "exit").write_text(tail)
    return executed, len(list(corpus.iterdir())), sorted(findings.iterdir())


def _tail(file: Path) -> str:
    with file.open("rb") as reading:
        reading.seek(max(0, file.stat().st_size - 6000))
        return reading.read().decode(errors="replace")


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=60.0, help="For all targets together.")
@click.option("--target", "names", multiple=True, type=click.Choice(sorted(TARGETS)), help="May be repeated.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps corpora and findings; by default a new one.")
def main(seconds: float, names: tuple[str, ...], folder: Path | None) -> None:
    """Fuzz decoders, one after the other. Exits with 1 if an input broke a rule."""
    if importlib.util.find_spec("atheris") is None:
        raise click.ClickException("atheris is not installed: its packages are for Linux on x86-64")
    folder = folder or Path(tempfile.mkdtemp(prefix="egregore-fuzz-"))
    names = names or tuple(TARGETS)
    click.echo(f"{'target':12} {'executions':>12} {'corpus':>8} {'findings':>9}")
    total, found = 0, 0
    for name in names:
        executed, corpus, findings = fuzz(name, max(1.0, seconds / len(names)), folder)
        total, found = total + executed, found + len(findings)
        click.echo(f"{name:12} {executed:12,} {corpus:8,} {len(findings):9}")
        for finding in findings:
            click.echo(f"  {finding}")
    click.echo(f"{'together':12} {total:12,} {'':8} {found:9}   in {folder}")
    sys.exit(1 if found else 0)


main()

"""``python -m bench``: measure, and print the figures."""

from __future__ import annotations

import json
import time

import click
import redis
from rich.console import Console

from bench import figures, machine, plain, suite
from egregore_dist import LocalCluster

# One worker with as many processes as the plain one has.
PROCESSES = 2
SIZES, MORE_SIZES = (3, 1000), (1, 3, 10, 100, 1000, 10_000)


@click.command()
@click.option("--quick", is_flag=True, help="Measure less often: sooner done, and less sure.")
@click.option("--all-sizes", is_flag=True, help=f"Blocks of {', '.join(map(str, MORE_SIZES))} branches.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures for a program to read.")
def main(quick: bool, all_sizes: bool, as_json: bool) -> None:
    """Measure egregore-dist beside a plain Celery chord: one server, one worker of two processes each."""
    console, progress = Console(), Console(stderr=True)
    started = time.monotonic()
    with (
        LocalCluster(workers=1, concurrency=PROCESSES) as cluster,
        redis.Redis.from_url(cluster.url) as server,
        # A database of its own, so that neither side sees what the other has not acknowledged.
        plain.running(cluster.url.removesuffix("/0") + "/1", processes=PROCESSES) as celery,
    ):
        about = machine.describe(server)
        bench = suite.Bench(celery=celery, server=server, queue=cluster.settings.queue, quick=quick)
        measured = []
        with progress.status("measuring") as status:
            for figure in suite.everything(bench, MORE_SIZES if all_sizes else SIZES):
                measured.append(figure)
                status.update(f"measured {figure.name}")
    if as_json:
        document = {"machine": about, "figures": [figure.as_dict() for figure in measured]}
        click.echo(json.dumps(document, indent=2))
        return
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), style="dim")
    console.print(figures.table(measured))
    missed = [figure.name for figure in measured if figure.reached is False]
    seconds = time.monotonic() - started
    console.print(f"{len(missed)} of the targets missed: {'; '.join(missed)}" if missed else "Every target reached.")
    console.print(f"Measured in {seconds:.0f} s.", style="dim")


if __name__ == "__main__":
    main()

"""``python -m bench``: measure, and print the figures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import click
import redis
from rich.console import Console

from bench import account, figures, machine, monitor, plain, suite, workloads
from bench.figures import Figure
from bench.measure import Sample
from egregore_dist import LocalCluster

# One worker with as many processes as the plain one has.
PROCESSES = 2
SIZES, MORE_SIZES = (3, 1000), (1, 3, 10, 100, 1000, 10_000)
# Of a small block, most is what there is once; of a large one, what there is for each branch.
ACCOUNTED = (3, 1000, 100_000)


@click.command()
@click.option("--quick", is_flag=True, help="Measure less often: sooner done, and less sure.")
@click.option("--all-sizes", is_flag=True, help=f"Blocks of {', '.join(map(str, MORE_SIZES))} branches.")
@click.option("--account", "accounting", is_flag=True, help="Say instead where the time of a branch goes.")
@click.option(
    "--monitor", "monitoring", is_flag=True, help="Say instead what the monitor costs, and how fast its pages are."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures for a program to read.")
def main(quick: bool, all_sizes: bool, accounting: bool, monitoring: bool, as_json: bool) -> None:
    """Measure egregore-dist beside a plain Celery chord: one server, one worker of two processes each."""
    console, progress = Console(), Console(stderr=True)
    started = time.monotonic()
    with (
        LocalCluster(workers=1, concurrency=PROCESSES) as cluster,
        redis.Redis.from_url(cluster.url) as server,
        # A database of its own, so that neither side sees what the other has not acknowledged.
        plain.running(cluster.url.removesuffix("0") + "1", processes=PROCESSES) as celery,
    ):
        about = machine.describe(server)
        bench = suite.Bench(celery=celery, server=server, queue=cluster.settings.queue, quick=quick)
        measured = []
        sizes = MORE_SIZES if all_sizes else SIZES
        if monitoring:
            told = monitor.everything(cluster, quick=quick)
        elif accounting:
            told = _account(bench, cluster)
        else:
            told = suite.everything(bench, sizes)
        with progress.status("measuring") as status:
            for figure in told:
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


def _account(bench: suite.Bench, cluster: LocalCluster) -> Iterator[Figure]:
    info: Any = bench.server.info("server")
    workers = tuple(worker.pid for worker in cluster.workers if worker.pid is not None)
    processes = account.Processes(client=os.getpid(), server=info["process_id"], workers=workers)
    for count in ACCOUNTED:
        work = partial(workloads.branches(count), 1)
        cost = account.cost(processes, bench.server, work, units=count, rounds=bench.rounds(8))
        for name, values in cost.seconds.items():
            yield Figure(name=f"a branch of {count}: {name}", sample=Sample.of(values), unit="s")
        for role, modules in account.by_module(processes, work, units=count).items():
            for module, seconds in modules:
                yield Figure(name=f"a branch of {count}: {role}, {module}", sample=Sample.of([seconds]), unit="s")


if __name__ == "__main__":
    main()

"""``egregore-dist workers``: who is alive, and what they serve."""

from __future__ import annotations

from typing import Any

import click

from egregore_dist.cli import probe, show, target


@click.command()
@show.as_json
@target.options
def workers(wants_json: bool) -> None:
    """List the live workers.

    JSON keys: workers, a list of name, host, pid, slots, pool, prefetch, lanes (how many it has), cores, load, cpu (the
    share of its machine's cores that is busy), memory_available, memory_total, memory_limit (of its control group, 0
    for none), processes (the memory of each of its pool, by pid), all in bytes, queues, labels, gpus (their names),
    modules, nodes (with a hash of the code of each), version, skew (seconds that its clock is ahead of the server's),
    reported (ISO 8601, UTC).
    """
    found = probe.workers(target.ledger())
    if wants_json:
        show.print_json({"workers": [as_json(worker) for worker in found]})
        return
    if not found:
        click.echo("no worker is alive: start one with `egregore-dist worker -m MODULE`", err=True)
        return
    right = ("SLOTS", "CORES", "FREE MEMORY", "NODES", "SEEN")
    columns = ("WORKER", "SLOTS", "POOL", "CORES", "FREE MEMORY", "QUEUES", "HAS", "MODULES", "NODES", "SEEN")
    table = show.table(*columns, right=right)
    for worker in found:
        said = worker.report
        table.add_row(
            show.text(said.worker),
            str(said.slots),
            show.text(said.pool),
            f"{said.cores:g}",
            f"{show.size(said.memory_available)} of {show.size(said.memory_total)}",
            show.text(", ".join(said.queues)),
            show.text(", ".join((*said.labels, *_gpus(said.gpus))) or "-"),
            show.text(", ".join("any" if name == "*" else name for name in said.modules) or "-"),
            str(len(said.nodes)),
            f"{max(0.0, worker.age):.0f} s ago",
        )
    show.console().print(table)


def _gpus(names: tuple[str, ...]) -> list[str]:
    from egregore_dist.client import amounts

    return [amounts.count(len(names), "GPU")] if names else []


def as_json(worker: probe.Worker) -> dict[str, Any]:
    """A worker as JSON."""
    said = worker.report
    return {
        "name": said.worker,
        "host": said.host,
        "pid": said.pid,
        "slots": said.slots,
        "pool": said.pool,
        "prefetch": said.prefetch,
        "lanes": len(said.lanes),
        "cores": said.cores,
        "load": said.load,
        "cpu": said.cpu,
        "memory_available": said.memory_available,
        "memory_total": said.memory_total,
        "memory_limit": said.memory_limit,
        "processes": said.children,
        "queues": said.queues,
        "labels": said.labels,
        "gpus": said.gpus,
        "modules": said.modules,
        "nodes": dict(zip(said.nodes, said.code, strict=False)),
        "version": said.version,
        "skew": said.skew,
        "reported": show.moment(worker.reported),
    }

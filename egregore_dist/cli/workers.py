"""``egregore-dist workers``: who is alive, what they serve, and what one of them is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from egregore_dist.cli import codes, probe, redact, show, target
from egregore_dist.cli.failing import Quit

if TYPE_CHECKING:
    from rich.text import Text

    from egregore_dist.ledger.lanes import AtBlock
    from egregore_dist.resources.report import Report

# What leaves the number of lanes to the worker's tuner.
_AUTO = "auto"
# Letters of a line from which on all columns are shown, and those that are shown on any.
_WIDE = 130
_NARROW = ("WORKER", "SLOTS", "TAKES", "FREE MEMORY", "QUEUES", "HAS", "SEEN")
_RIGHT = ("SLOTS", "CORES", "FREE MEMORY", "NODES", "SEEN")


@click.group(invoke_without_command=True)
@show.as_json
@target.options
@click.pass_context
def workers(ctx: click.Context, wants_json: bool) -> None:
    """List the live workers; with a command, ask something of one.

    JSON keys: workers, a list of name, host, pid, slots, concurrency_by (hand or tuner), concurrency_why, pool,
    prefetch, prefetch_why, holds (why it takes no lanes now, with what is to be said of each reason; empty where it
    takes them), short (derived queues whose lanes its machine has no room for now, with why), lane_memory (what one
    lane is taken to need), lanes (how many it has), widths (how many branches each running one may run at a time, by
    the lane's id), work (what its lanes are at: a list of run, workflow, block, name (of the
    block), branch (its number in the block, null where the lane is at many), attempt, node, held (branches), since
    (ISO 8601, UTC)), cores, load, cpu (the share of its machine's cores that is busy), memory_available, memory_total,
    memory_limit (of its control group, 0 for none), processes (the memory of each of its pool, by pid), all in bytes,
    queues, labels, gpus (their names), modules, nodes (with a hash of the code of each), version, skew (seconds that
    its clock is ahead of the server's), reported (ISO 8601, UTC).
    """
    if ctx.invoked_subcommand is not None:
        if wants_json:
            raise Quit(codes.USAGE, f"give --json after the command: workers {ctx.invoked_subcommand} ... --json")
        return
    from egregore_dist.ledger import lanes

    ledger = target.ledger()
    found = probe.workers(ledger)
    at_work = lanes.at_work(ledger, [worker.report for worker in found])
    if wants_json:
        show.print_json({"workers": [as_json(worker, at_work.get(worker.report.worker, ())) for worker in found]})
        return
    if not found:
        click.echo("no worker is alive: start one with `egregore-dist worker -m MODULE`", err=True)
        return
    width = show.console().width
    rows = [_row(worker, at_work.get(worker.report.worker, ())) for worker in found]
    columns = [column for column in rows[0] if column in _NARROW or width >= _WIDE]
    table = show.table(*columns, right=_RIGHT)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    show.print_table(table)


def _row(worker: probe.Worker, lanes: Sequence[AtBlock]) -> dict[str, Text]:
    said = worker.report
    return {
        "WORKER": show.text(said.worker),
        "SLOTS": show.text(said.slots),
        "SET BY": show.text(said.concurrency_by or "-"),
        "TAKES": show.text(", ".join(said.holds) or "lanes", "yellow" if said.holds else ""),
        "AT WORK": show.text(told(lanes)),
        "POOL": show.text(said.pool),
        "CORES": show.text(f"{said.cores:g}"),
        "FREE MEMORY": show.text(f"{show.size(said.memory_available)} of {show.size(said.memory_total)}"),
        "QUEUES": show.text(", ".join(said.queues)),
        "HAS": show.text(", ".join((*said.labels, *_gpus(said.gpus))) or "-"),
        "MODULES": show.text(", ".join(said.modules) or "-"),
        "NODES": show.text(len(said.nodes)),
        "SEEN": show.text(f"{max(0.0, worker.age):.0f} s ago"),
    }


@workers.command()
@click.argument("name")
@show.as_json
@target.options
def drain(name: str, wants_json: bool) -> None:
    """Have a worker take no more lanes: what runs there ends, what waits goes to other workers.

    Its lanes leave after the branches that they are at. NAME is as `workers` lists it, or the part before the @. It
    lasts until `resume`, or until the worker is started anew.

    JSON keys: name, slots, lanes, holds, concurrency_by, concurrency_why.
    """
    said = target.session().workers.drain(name)
    _print(said, wants_json, f"is drained: {len(said.lanes)} lanes are still to end")


@workers.command()
@click.argument("name")
@show.as_json
@target.options
def resume(name: str, wants_json: bool) -> None:
    """Have a worker that was drained take lanes again.

    JSON keys: those of `workers drain`.
    """
    said = target.session().workers.resume(name)
    left = "; ".join(f"{reason}: {why}" for reason, why in said.holds.items())
    _print(said, wants_json, f"still takes no lanes: {left}" if left else "takes lanes")


@workers.command()
@click.argument("name")
@show.as_json
@target.options
def stop(name: str, wants_json: bool) -> None:
    """Have a worker stop once what runs there has ended, as SIGTERM does.

    What starts workers anew, such as systemd or Kubernetes, may do so with this one.

    JSON keys: those of `workers drain`.
    """
    said = target.session().workers.stop(name)
    _print(said, wants_json, f"stops: {len(said.lanes)} lanes are still to end")


@workers.command()
@click.argument("name")
@click.argument("number")
@show.as_json
@target.options
def concurrency(name: str, number: str, wants_json: bool) -> None:
    """Set how many lanes a worker runs at a time, from now on; `auto` leaves it to the worker again.

    What runs goes on: of fewer lanes the last ones end first.

    JSON keys: those of `workers drain`.
    """
    if number != _AUTO and not (number.isascii() and number.isdecimal() and int(number) > 0):
        raise Quit(codes.USAGE, f"the number of lanes is a whole number of at least 1, or {_AUTO!r}, not {number!r}")
    said = target.session().workers.concurrency(name, None if number == _AUTO else int(number))
    _print(said, wants_json, f"runs {said.slots} lanes at a time ({said.concurrency_why})")


def _print(said: Report, wants_json: bool, text: str) -> None:
    if wants_json:
        show.print_json(
            {
                "name": said.worker,
                "slots": said.slots,
                "lanes": len(said.lanes),
                "holds": said.holds,
                "concurrency_by": said.concurrency_by,
                "concurrency_why": said.concurrency_why,
            }
        )
    else:
        click.echo(redact.clean(f"worker {said.worker} {text}"))


def _gpus(names: tuple[str, ...]) -> list[str]:
    from egregore_dist.client import amounts

    return [amounts.count(len(names), "GPU")] if names else []


def told(lanes: Sequence[AtBlock], each: int = 2) -> str:
    """What the lanes of a worker are at, for people: so many of them, and how many more there are."""
    more = [f"{len(lanes) - each} more"] if len(lanes) > each else []
    return "; ".join([*map(_lane, lanes[:each]), *more]) or "-"


def _lane(lane: AtBlock) -> str:
    from egregore_dist.client import amounts

    what = f"{lane.node or 'branch'} #{lane.branch}" if lane.branch is not None else ""
    what = what or (amounts.count(lane.held, "branch") if lane.held else "branches")
    return f"{what} of {lane.name} in {lane.run}"


def lanes_as_json(lanes: Sequence[AtBlock]) -> list[dict[str, Any]]:
    """What the lanes of a worker are at as JSON."""
    return [
        {
            "run": lane.run,
            "workflow": lane.workflow,
            "block": lane.block,
            "name": lane.name,
            "branch": lane.branch,
            "attempt": lane.attempt,
            "node": lane.node or None,
            "held": lane.held,
            "since": show.moment(lane.since),
        }
        for lane in lanes
    ]


def as_json(worker: probe.Worker, lanes: Sequence[AtBlock] = ()) -> dict[str, Any]:
    """A worker as JSON."""
    said = worker.report
    return {
        "name": said.worker,
        "host": said.host,
        "pid": said.pid,
        "slots": said.slots,
        "concurrency_by": said.concurrency_by,
        "concurrency_why": said.concurrency_why,
        "pool": said.pool,
        "prefetch": said.prefetch,
        "prefetch_why": said.prefetch_why,
        "holds": said.holds,
        "short": said.short,
        "lane_memory": said.lane_memory,
        "lanes": len(said.lanes),
        "work": lanes_as_json(lanes),
        "widths": said.widths,
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

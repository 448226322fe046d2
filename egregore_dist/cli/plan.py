"""``egregore-dist plan``: how the blocks of a workflow would be served now, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from egregore_dist.cli import redact, show, target
from egregore_dist.cli.run import load

if TYPE_CHECKING:
    from egregore_dist.client.plans import BlockPlan


@click.command()
@click.argument("workflow", metavar="MODULE:WORKFLOW")
@click.option(
    "--items", type=click.IntRange(1), default=1000, show_default=True, help="Items that each map is assumed to get."
)
@show.as_json
@target.options
def plan(workflow: str, items: int, wants_json: bool) -> None:
    """Show how the blocks of WORKFLOW of MODULE would be served now, with every number that decided on it.

    Nothing is run. Without a configured cluster this is about the one that would be started. A node that needs what
    no worker of its queue has is refused.

    JSON keys: workflow, blocks: a list of name, path, kind, branches, max_concurrent, lanes, workers, slots, tracks: a
    list of queue, branches, lanes, width, width_of (what that is the least of: on, setting, waiting, share, devices,
    memory; null where one branch runs at a time), lease, bound (what keeps the lanes from being more), wanted, workers,
    slots, cores (how many of those have the cores and GPUs), room (lanes that memory has room for), fitting (lanes
    that have all of these, machine by machine), memory_available, memory_per_node (bytes), memory_from, cpus, gpus,
    labels, learned: executions, wall, cpu, waits (for others; seconds), memory, reserved (bytes); and advice: a list of
    what io=True would do for nodes that mostly wait.
    """
    from egregore_dist.client import plans
    from egregore_dist.workflow.describe import describe

    step = load(workflow)
    with target.submitting() as session:
        found = plans.of_workflow(step, items, session)
    name = describe(step).spec.name
    if wants_json:
        show.print_json({"workflow": name, "blocks": [_block(each) for each in found]})
    elif not found:
        click.echo(redact.clean(f"workflow {name} has no blocks: it runs on one slot"))
    else:
        click.echo(redact.clean("\n".join(map(str, found))))


def _block(found: BlockPlan) -> dict[str, Any]:
    return {
        "name": found.name,
        "path": found.path,
        "kind": found.kind,
        "branches": found.branches,
        "max_concurrent": found.plan.max_concurrent,
        "lanes": found.lanes,
        "workers": found.plan.workers,
        "slots": found.plan.slots,
        "tracks": found.plan.tracks,
        "advice": found.advice,
    }

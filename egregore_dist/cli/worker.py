"""``egregore-dist worker``."""

from __future__ import annotations

import click

from egregore_dist.cli import target


@click.command()
@click.option("-m", "--module", "modules", multiple=True, help="A module with nodes to load; may be repeated.")
@click.option("-c", "--concurrency", type=click.IntRange(1), help="Lanes at a time. [default: usable cores]")
@click.option("-q", "--queues", default="", help="Celery queues to consume, separated by commas.")
@click.option("--label", "labels", multiple=True, help="KEY=VALUE that nodes may ask for; may be repeated.")
@click.option("--gpus", type=click.IntRange(0, 1024), help="GPUs that it has. [default: those that it finds]")
@click.option("-n", "--name", help="The worker's name, unique in the cluster.")
@click.option("--pool", type=click.Choice(["prefork", "threads"]), default="prefork", show_default=True)
@click.option("-l", "--loglevel", default="WARNING", show_default=True)
@click.option("-E", "--task-events", is_flag=True, help="Send Celery's events of lanes and branches, for Flower.")
@target.options
def worker(
    modules: tuple[str, ...],
    concurrency: int | None,
    queues: str,
    labels: tuple[str, ...],
    gpus: int | None,
    name: str | None,
    pool: str,
    loglevel: str,
    task_events: bool,
) -> None:
    """Run a worker until it is told to stop."""
    from egregore_dist.worker import service

    target.import_from_here()
    settings = target.settings()
    if modules:
        settings = settings.model_copy(update={"modules": (*settings.modules, *modules)})
    if labels:
        settings = settings.model_copy(update={"labels": _labels((*settings.labels, *labels))})
    if gpus is not None:
        settings = settings.model_copy(update={"gpus": gpus})
    names = [queue.strip() for queue in queues.split(",") if queue.strip()]
    service.run(
        settings, concurrency=concurrency, queues=names, name=name, pool=pool, loglevel=loglevel, events=task_events
    )


def _labels(said: tuple[str, ...]) -> tuple[str, ...]:
    from egregore_dist.workflow.labels import of_worker

    try:
        return of_worker(said)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--label") from None

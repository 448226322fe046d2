"""``egregore-dist doctor``: what works, what does not, and the cure."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from egregore_dist import errors
from egregore_dist.cli import codes, examine, hooks, probe, redact, show, target, workers
from egregore_dist.cli.examine import Check
from egregore_dist.cli.failing import Quit, line_of
from egregore_dist.client import amounts
from egregore_dist.settings import Settings

if TYPE_CHECKING:
    from egregore_dist.ledger import Aside

#: Messages that were set aside, at most so many are listed.
_LISTED = 100

_SIGNS = {"ok": "✓", "warning": "!", "problem": "✗"}


@click.command()
@show.as_json
@target.options
def doctor(wants_json: bool) -> None:
    """Check this machine, the broker, the ledger and the workers; each problem comes with its cure.

    Ends with code 1 where there is a problem, and with 2 where no cluster is configured.

    JSON keys: ok, configured, checks: a list of name, status (ok, warning or problem), detail, cure; workers: as the
    command `workers` gives them; aside: the newest messages that could not be served, each with reason, queue, worker,
    excerpt and at (milliseconds since the epoch).
    """
    settings = target.settings()
    configured = settings.broker_url is not None
    checks = examine.here(settings)
    alive: list[probe.Worker] = []
    aside: list[Aside] = []
    if configured:
        checks.append(examine.broker(settings))
        more, alive, aside = _cluster(settings)
        checks += more
    problems = sum(check.status == "problem" for check in checks)
    if wants_json:
        listed = [
            {"name": check.name, "status": check.status, "detail": redact.clean(check.detail), "cure": check.cure}
            for check in checks
        ]
        said: list[dict[str, Any]] = [workers.as_json(worker) for worker in alive]
        left = [
            {
                **dataclasses.asdict(it),
                "reason": redact.clean(it.reason),
                "excerpt": hooks.text("message", it.excerpt),
            }
            for it in aside[:_LISTED]
        ]
        show.print_json(
            {"ok": not problems, "configured": configured, "checks": listed, "workers": said, "aside": left}
        )
    else:
        _print(checks)
    if not configured:
        raise Quit(codes.USAGE, target.NOT_CONFIGURED)
    if problems:
        click.get_current_context().exit(codes.FAILED)


def _cluster(settings: Settings) -> tuple[list[Check], list[probe.Worker], list[Aside]]:
    from redis.exceptions import RedisError

    from egregore_dist.engine import access
    from egregore_dist.engine import app as apps
    from egregore_dist.ledger import Ledger

    try:
        ledger = target.readable(lambda: Ledger(apps.ledger_url(settings), prefix=settings.prefix, retries=1))
        server = probe.server(ledger)
        if server.is_cluster:
            return examine.judge_server(server), [], []
        lacks = access.missing_rights(ledger.redis, access.CLIENT, access.needed(settings, access.CLIENT))
        if lacks:
            return [*examine.judge_server(server), examine.rights(lacks, access.CLIENT)], [], []
        alive, aside, now = probe.workers(ledger), ledger.aside(), ledger.now()
    except (errors.EgregoreError, RedisError) as error:
        cure = "see that the server is up, and that EGREGORE_LEDGER_URL (else EGREGORE_BROKER_URL) names it"
        return [Check("ledger", "problem", f"it does not answer: {line_of(error)}", cure)], [], []
    version = metadata.version("egregore-dist")
    checks = [*examine.judge_server(server), examine.rights([], access.CLIENT), examine.judge_messages(aside, now)]
    return checks + examine.judge_workers(alive, settings, version), alive, aside


def _print(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for check in checks:
        says = show.text(check.detail)
        if check.cure:
            says.append_text(Text("\n→ ", "bold")).append_text(show.text(check.cure))
        sign = show.state(check.status)
        sign.plain = _SIGNS[check.status]
        table.add_row(sign, show.text(check.name, "bold"), says)
    console = show.console()
    console.print(table)
    problems, warnings = (sum(check.status == status for check in checks) for status in ("problem", "warning"))
    console.print(f"\n{amounts.count(problems, 'problem')}, {amounts.count(warnings, 'warning')}")

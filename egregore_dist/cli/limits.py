"""``egregore-dist limits``: look at limits of nodes by name, and change them while runs go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from egregore_dist.cli import codes, hooks, redact, show, target
from egregore_dist.cli.failing import Quit

if TYPE_CHECKING:
    from egregore_dist.ledger.limits import Bucket, Known
    from egregore_dist.workflow.limits import Rule

# What lifts one part of a limit.
_NONE = "none"


@click.group()
@target.options
def limits() -> None:
    """Look at limits of nodes by name, and change them while runs go on."""


@limits.command("list")
@show.as_json
@target.options
def list_(wants_json: bool) -> None:
    """List the limits that code has declared or somebody has set.

    JSON keys: limits, a list of what `limits show` prints of each.
    """
    found = target.session().limits.list()
    if wants_json:
        show.print_json({"limits": [as_json(known) for known in found]})
        return
    if not found:
        click.echo("no limits: one comes with the first run of a node that has one", err=True)
        return
    table = show.table(
        "LIMIT", "CONCURRENT", "PER", "KEY", "HELD", "BLOCKS WAIT", "SET BY", right=("HELD", "BLOCKS WAIT")
    )
    for known in found:
        table.add_row(
            show.text(known.name),
            _concurrent(known.rule),
            known.rule.per or "-",
            show.text(known.key or "-"),
            str(known.held),
            str(known.waiting),
            "hand" if known.is_set else "code",
        )
    show.print_table(table)


@limits.command("show")
@click.argument("name")
@show.as_json
@target.options
def show_(name: str, wants_json: bool) -> None:
    """Show a limit: what it lets run, what the code declares, and where places are held or waited for.

    JSON keys: name, concurrent, per, declared (concurrent, per, or null), set (whether it was, by hand), key, held
    (branches), waiting (blocks), buckets: a list of value (of the key, or null), held, waiting, starts_in (seconds);
    more.
    """
    _print(_found(target.session().limits.show(name), name), wants_json)


@limits.command("set")
@click.argument("name")
@click.option("--concurrent", metavar="N|none", help="How many at a time, over all runs.")
@click.option("--per", metavar="N/TIME|none", help="How many may start in a time: 20/s, 100/min, 1000/h.")
@show.as_json
@target.options
def set_(name: str, concurrent: str | None, per: str | None, wants_json: bool) -> None:
    """Change a limit for every run, from now on: what runs already is not stopped, and what is not given stays.

    JSON keys: those of `limits show`.
    """
    if concurrent is None and per is None:
        raise Quit(codes.USAGE, "give --concurrent, or --per, or both; `limits clear` forgets what was set")
    given: dict[str, Any] = {}
    if concurrent is not None:
        given["concurrent"] = None if concurrent == _NONE else _number(concurrent)
    if per is not None:
        given["per"] = None if per == _NONE else per
    known = target.session().limits.set(name, **given)
    _print(known, wants_json)
    if known.declared is None:
        click.echo(f"no run has used a limit {name!r} yet: this is kept for when one does", err=True)


@limits.command("clear")
@click.argument("name")
@show.as_json
@target.options
def clear(name: str, wants_json: bool) -> None:
    """Forget what was set by hand: what the code declares holds again. Of an idle limit that is forgotten too.

    JSON keys: name, limit (as `limits show`, or null where it is forgotten).
    """
    limits = target.session().limits
    _found(limits.show(name), name)
    known = limits.clear(name)
    if wants_json:
        show.print_json({"name": name, "limit": None if known is None else as_json(known)})
    elif known is None:
        click.echo(f"limit {name} is forgotten, until a run declares it")
    else:
        _print(known, wants_json)


def as_json(known: Known) -> dict[str, Any]:
    """A limit as JSON."""
    return {
        "name": known.name,
        **_rule(known.rule),
        "declared": None if known.declared is None else _rule(known.declared),
        "set": known.is_set,
        "key": known.key,
        "held": known.held,
        "waiting": known.waiting,
        "buckets": [
            {
                "value": None if one.value is None else hooks.text("limit", one.value),
                "held": one.held,
                "waiting": one.waiting,
                "starts_in": one.starts_in,
            }
            for one in known.buckets
        ],
        "more": known.more,
    }


def _print(known: Known, wants_json: bool) -> None:
    if wants_json:
        show.print_json(as_json(known))
        return
    lets = f"limit {known.name}: {said(known.rule)}"
    if known.is_set:
        lets += f", set by hand (code: {said(known.declared) if known.declared is not None else 'not known'})"
    click.echo(lets)
    for bucket in known.buckets:
        click.echo(f"  {_where(known, bucket)}: {bucket.held} held, {_wait(bucket)}{_next(bucket)}")
    if known.more:
        click.echo(f"  and {known.more} more values of {known.key}")


def _where(known: Known, bucket: Bucket) -> str:
    from egregore_dist.ledger.limits import OTHERS

    if bucket.value is None:
        return "now"
    return (
        f"{known.key}, values that are too many"
        if bucket.value == OTHERS
        else redact.clean(hooks.text("limit", bucket.value))
    )


def _wait(bucket: Bucket) -> str:
    from egregore_dist.client import amounts

    return f"{amounts.count(bucket.waiting, 'block')} {'waits' if bucket.waiting == 1 else 'wait'}"


def _next(bucket: Bucket) -> str:
    return f", the next start in {show.duration(bucket.starts_in)}" if bucket.starts_in else ""


def said(rule: Rule) -> str:
    """What a rule lets run, in words."""
    parts = [f"{rule.concurrent} at a time"] if rule.concurrent else []
    parts += [f"{rule.per}, {rule.burst} of them at once"] if rule.per is not None else []
    return " and ".join(parts) or "no limit"


def _concurrent(rule: Rule) -> str:
    return str(rule.concurrent) if rule.concurrent else "-"


def _rule(rule: Rule) -> dict[str, Any]:
    return {"concurrent": rule.concurrent or None, "per": rule.per}


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Quit(codes.USAGE, f"--concurrent takes a number or {_NONE!r}, not {text!r}") from None


def _found(known: Known | None, name: str) -> Known:
    if known is None:
        raise Quit(codes.NOT_FOUND, f"there is no limit {name!r}: no code has declared it, and nobody has set it")
    return known

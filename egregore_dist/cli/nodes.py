"""``egregore-dist nodes``: what is learned of nodes from their executions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from egregore_dist.cli import show, target

if TYPE_CHECKING:
    from egregore_dist.ledger import Ledger, Work
    from egregore_dist.resources.profile import Histogram, Profile

#: Runs whose workflows are looked at for the names of nodes.
RUNS_READ = 200
# Letters of the digest of a function that travels by value.
_DIGEST = 12
# Names of a function's nodes that the table has.
_SHOWN = 3


@click.command()
@show.as_json
@target.options
def nodes(wants_json: bool) -> None:
    """List what is learned of nodes, by the function that each calls: those that take longest in all first.

    What is old counts less, and p50 and p95 are at most 19 % too high. CPU, memory and results are told where they
    could be measured.

    JSON keys: nodes, a list of names (of the nodes that call it, in the newest runs), function, executions (aged),
    wall, cpu (seconds), memory, result (bytes), each with mean, p50, p95, or null; reserved (bytes,
    where it ran out of memory, else 0), learned (ISO 8601, UTC).
    """
    from egregore_dist.ledger.profiles import Profiles

    ledger = target.ledger()
    known = Profiles(ledger).everything()
    names = _names(ledger) if known else {}
    found = sorted(known.items(), key=lambda entry: (-entry[1].seconds, entry[0]))
    if wants_json:
        now = ledger.now()
        show.print_json({"nodes": [as_json(function, profile, names, now) for function, profile in found]})
        return
    if not found:
        click.echo("nothing is learned yet: it comes with the first executions", err=True)
        return
    numbers = ("EXECUTIONS", "p50", "p95", "CPU p95", "MEMORY p95", "RESULT p95")
    table = show.table("FUNCTION", *numbers, "LEARNED", "NODES", right=numbers)
    seconds = ledger.now() / 1000
    for function, profile in found:
        table.add_row(
            show.text(function_name(function)),
            f"{profile.count:.0f}",
            _quantile(profile.wall, 0.5, show.duration),
            _quantile(profile.wall, 0.95, show.duration),
            _quantile(profile.cpu, 0.95, show.duration),
            _quantile(profile.memory, 0.95, show.size),
            _quantile(profile.size, 0.95, show.size),
            f"{show.duration(max(0.0, seconds - profile.at / 1000))} ago",
            show.text(_some(sorted(names.get(function, ())))),
        )
    show.print_table(table)


def as_json(function: str, profile: Profile, names: Mapping[str, Iterable[str]], now: int) -> dict[str, Any]:
    """What is learned of a function as JSON.

    Args:
        names: those of nodes, by function.
        now: the server's time, in milliseconds.
    """
    return {
        "names": sorted(names.get(function, ())),
        "function": function_name(function),
        "executions": profile.count,
        "wall": _amounts(profile.wall),
        "cpu": _amounts(profile.cpu),
        "memory": _amounts(profile.memory),
        "result": _amounts(profile.size),
        "reserved": profile.reserved_at(now),
        "learned": show.moment(profile.at / 1000),
    }


def function_name(reference: str) -> str:
    """A function's reference as people write it: its module and name, or the beginning of its digest."""
    kind, _, rest = reference.partition(":")
    return rest if kind == "m" else f"by value, {rest[:_DIGEST]}"


def functions_of(work: Work) -> set[tuple[str, str]]:
    """The names of a run's nodes, each with the function that it calls.

    Raises:
        msgspec.MsgspecError: another release wrote it.
        IndexError: the same.
    """
    from egregore_dist.engine.interpret import nodes as nodes_of
    from egregore_dist.wire import code
    from egregore_dist.workflow import spec

    functions = code.decode_references(work.functions)
    return {(node.name, functions[node.function]) for node in nodes_of(spec.decode(work.spec).root)}


def _names(ledger: Ledger) -> dict[str, set[str]]:
    """The names of the nodes that call a function, by its reference, as the newest runs have them."""
    import msgspec

    found: dict[str, set[str]] = {}
    seen: set[bytes] = set()
    for work in ledger.works([record.id for record in ledger.runs(RUNS_READ)]).values():
        if (known := work.spec + work.functions) in seen:
            continue
        seen.add(known)
        try:
            for name, function in functions_of(work):
                found.setdefault(function, set()).add(name)
        except (msgspec.MsgspecError, IndexError):
            # Another release wrote it.
            continue
    return found


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "-") + more


def _quantile(histogram: Histogram, share: float, form: Any) -> str:
    return str(form(histogram.quantile(share))) if histogram.buckets else "-"


def _amounts(histogram: Histogram) -> dict[str, float] | None:
    if not histogram.buckets:
        return None
    return {"mean": histogram.mean, "p50": histogram.quantile(0.5), "p95": histogram.quantile(0.95)}

"""``egregore-dist nodes``: what is learned of nodes from their executions."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from egregore_dist.cli import redact, show, target

if TYPE_CHECKING:
    from egregore_dist.ledger import Ledger, Work
    from egregore_dist.resources.profile import Histogram, Profile

#: Runs whose workflows are looked at for the names of nodes.
RUNS_READ = 200
# Letters of the digest of a function that travels by value.
_DIGEST = 12
# Names of a function's nodes that the table has.
_SHOWN = 3


class Called(NamedTuple):
    """A node of a workflow, and the function that it calls.

    Attributes:
        name: of the node.
        function: the reference of its function.
        may_share: whether it could run on threads if it declared ``io=True``.
    """

    name: str
    function: str
    may_share: bool


@click.command()
@show.as_json
@target.options
def nodes(wants_json: bool) -> None:
    """List what is learned of nodes, by the function that each calls: those that take longest in all first.

    Recent executions count more. p50 and p95 are within 3 % of what was measured. CPU, memory and results are shown
    where they could be measured. Below the table: the nodes that mostly wait, and what io=True would do for them.

    JSON keys: nodes, a list of names (of the nodes that call it, in the newest runs), function, executions (aged),
    wall, cpu (seconds), memory, result (bytes), each with mean, p50, p95, or null; reserved (bytes,
    where it ran out of memory, else 0), learned (ISO 8601, UTC), advice (what io=True would do for it, or null).
    """
    from egregore_dist.ledger.profiles import Profiles

    session = target.session()
    ledger, most = session.ledger, session.settings.thread_width
    known = Profiles(ledger).everything()
    called = _called(ledger) if known else {}
    found = sorted(known.items(), key=lambda entry: (-entry[1].seconds, entry[0]))
    if wants_json:
        now = ledger.now()
        rows = [as_json(function, profile, called.get(function, ()), now, most) for function, profile in found]
        show.print_json({"nodes": rows})
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
            show.text(_some(sorted({node.name for node in called.get(function, ())}))),
        )
    show.print_table(table)
    for function, profile in found:
        if (sentence := advised(called.get(function, ()), profile, most)) is not None:
            click.echo(redact.clean(f"{function_name(function)}: {sentence}"))


def as_json(function: str, profile: Profile, called: Collection[Called], now: int, most: int) -> dict[str, Any]:
    """What is learned of a function as JSON.

    Args:
        called: the nodes that call it.
        now: the server's time, in milliseconds.
        most: how many branches a lane may run at a time on threads.
    """
    return {
        "names": sorted({node.name for node in called}),
        "function": function_name(function),
        "executions": profile.count,
        "wall": _amounts(profile.wall),
        "cpu": _amounts(profile.cpu),
        "memory": _amounts(profile.memory),
        "result": _amounts(profile.size),
        "reserved": profile.reserved_at(now),
        "learned": show.moment(profile.at / 1000),
        "advice": advised(called, profile, most),
    }


def advised(called: Collection[Called], profile: Profile, most: int) -> str | None:
    """What ``io=True`` would do for the nodes that call a function, or None.

    Args:
        called: these nodes.
        profile: what is learned of the function.
        most: how many branches a lane may run at a time on threads.
    """
    from egregore_dist.client import advice

    names = sorted({node.name for node in called if node.may_share})
    return advice.of_function(names, profile, most) if names else None


def function_name(reference: str) -> str:
    """A function's reference as people write it: its module and name, or the beginning of its digest."""
    kind, _, rest = reference.partition(":")
    return rest if kind == "m" else f"by value, {rest[:_DIGEST]}"


def functions_of(work: Work) -> set[Called]:
    """The nodes of a run.

    Raises:
        msgspec.MsgspecError: another release wrote it.
        IndexError: the same.
    """
    from egregore_dist.client import advice
    from egregore_dist.engine.interpret import nodes as nodes_of
    from egregore_dist.wire import code
    from egregore_dist.workflow import spec

    functions = code.decode_references(work.functions)
    root = spec.decode(work.spec).root
    candidates = [each for _, block in spec.blocks(root) for each in advice.candidates(block, work.queue)]
    may_share = {name for each in candidates for name in each.names}
    return {Called(node.name, functions[node.function], node.name in may_share) for node in nodes_of(root)}


def _called(ledger: Ledger) -> dict[str, set[Called]]:
    """The nodes that call a function, by its reference, as the newest runs have them."""
    import msgspec

    found: dict[str, set[Called]] = {}
    seen: set[bytes] = set()
    for work in ledger.works([record.id for record in ledger.runs(RUNS_READ)]).values():
        if (known := work.spec + work.functions) in seen:
            continue
        seen.add(known)
        try:
            for node in functions_of(work):
                found.setdefault(node.function, set()).add(node)
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

"""The page that says where the time goes, and what stands in the way of each figure that is not reached."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from typing import Any

from bench import account, figures
from bench.peers import cases as catalogue
from bench.peers import makespan, processes, tables
from bench.peers.peers import OURS
from bench.peers.results import SECONDS, Results
from bench.peers.targets import Target, targets

_PACKAGE = "egregore_dist"
_PARTS = (account.CLIENT, account.MAIN, account.POOL, account.SERVER)
_LOCAL = "pool"
_INTRODUCTION = """\
Written by `make bench-peers` from `results.json`, like [results.md](results.md); no figure in it is typed by hand. The
workloads are the published ones, measured again on the same machine in the same run, with the CPU time of every process
beside the wall time. `make bench ARGS=--account` prints the same for this package alone."""
_PROFILED = """\
By module of the package, as [py-spy](https://github.com/benfred/py-spy) samples it. Time in a library counts for the
module that called it: what Celery does for itself stands with `worker.service`, which starts it, and with
`worker.guard`, through which its messages come; `celery` is what no module of the package is part of. Parts below a
fiftieth are told together."""
_SLOTS = """\
The wall time as a sum, from the times that the ledger has of each branch, to the millisecond. *Longer than asked* is
what waits for a core: a branch computes or sleeps for as long as asked, and then has to be let on."""


def page(results: Results) -> str:
    """The whole page."""
    found = list(targets(results))
    missed = [target for target in found if target.reached is False]
    unknown = [target for target in found if target.reached is None]
    parts = ["# Where the time goes", _INTRODUCTION, _about(results), "## The figures that are not reached"]
    if not found or len(unknown) == len(found):
        parts.append("None was measured.")
    elif not missed:
        parts.append("All that were measured are reached.")
    parts += [_missed(results, target) for target in missed]
    if unknown:
        lines = [f"- {target.line.name}: {target.missing}" for target in unknown]
        parts += ["### Not measured", "\n".join(lines)]
    parts.append("## What each part of the cluster takes")
    parts += _accounts(results)
    return "\n\n".join(parts) + "\n"


def _about(results: Results) -> str:
    names = ("date", "commit", "system", "processor", "cores", "Python", "server", "repeat")
    return "\n".join(f"- {name}: {results.about[name]}" for name in names if name in results.about)


def _missed(results: Results, target: Target) -> str:
    lines = [_how_far(target), *_budget(results, target), *_in_the_way(results, target), *_limits(results, target)]
    return f"### {target.line.name}\n\n" + "\n".join(f"- {line}" for line in lines)


def _how_far(target: Target) -> str:
    assert target.value is not None
    spread = f", from {min(target.values):.3g} to {max(target.values):.3g}" if len(target.values) > 1 else ""
    return (
        f"**How far**: {tables.shown(target, target.value)} where {tables.shown(target, target.line.most)} is asked: "
        f"{target.value / target.line.most:.2f} of what it may be ({_rounds(len(target.values))}{spread})."
    )


def _rounds(number: int) -> str:
    return f"median of {number} rounds" if number != 1 else "one round"


def _budget(results: Results, target: Target) -> Iterator[str]:
    """What the peer's own time leaves for one unit."""
    line = target.line
    if line.peer is None:
        return
    theirs, mine = results.median(line.case, line.peer), results.median(line.case, OURS)
    if theirs is None or mine is None:
        return
    unit, units = _unit(results, line.case)
    yield (
        f"**What that leaves**: {results.peers[line.peer]['title']} takes {_short(theirs / units)} a {unit}, so that "
        f"{_short(line.most * theirs / units)} are left; this package takes {_short(mine / units)}."
    )


def _in_the_way(results: Results, target: Target) -> Iterator[str]:
    made = _cases(results).get(target.line.case)
    if made is None:
        yield f"**What stands in the way**: no account was made. {results.account.get('missing', '')}".strip()
        return
    if "makespan" in made:
        found = _sum(made)
        work, *others = found.items()
        lost = sorted(others, key=lambda part: -part[1])
        shown = "; ".join(f"{name} {_short(seconds)}" for name, seconds in lost if seconds > 0)
        whole = _short(sum(found.values()))
        yield f"**What stands in the way**, of {whole} with {_short(work[1])} for {work[0]}: {shown}."
    seconds, cores = _middle(made["seconds"]), results.account["cores"]
    wall = seconds[account.WALL]
    taken = sorted(((part, seconds[part]) for part in _PARTS), key=lambda one: -one[1])
    shown = ", ".join(f"{part} {_short(value)} ({value / (cores * wall):.0%})" for part, value in taken)
    idle = max(0.0, 1 - sum(value for _, value in taken) / (cores * wall))
    yield (
        f"**What computes**, of the {_short(cores * wall)} that {cores:g} cores have in the {_short(wall)} of a "
        f"{made['unit']}: {shown}; {idle:.0%} of it nobody computes."
    )
    heavy = _modules(made)[:3]
    if heavy:
        said = ", ".join(f"`{module}` in the {part} {_short(value)}" for value, part, module in heavy)
        yield f"**The largest parts by module**: {said}; [all of them](#{_anchor(target.line.case)})."


def _limits(results: Results, target: Target) -> Iterator[str]:
    """How near the figure is to what cannot be beaten."""
    line, made = target.line, _cases(results).get(target.line.case)
    if line.is_makespan:
        durations = catalogue.durations()
        share = makespan.sliding(durations, catalogue.CAP) / makespan.bound(durations, catalogue.CAP)
        yield f"**The limit**: a window that slides without any delay takes {share:.3f} of the ideal."
    if made is None:
        return
    seconds, unit = _middle(made["seconds"]), made["unit"]
    wall = seconds[account.WALL]
    cores, units = results.account["cores"], _unit(results, line.case)[1]
    least = sum(seconds[part] for part in _PARTS) / cores
    yield (
        f"**The limit of the cores**: were all {cores:g} at work all the time, what a {unit} computes would take "
        f"{_short(least)}; it takes {wall / least:.2f} times that.{_were(results, target, least * units)}"
    )
    limits = results.account.get("limits", {})
    if made["units"] == 1 and limits and "makespan" not in made:
        handed, task = (statistics.median(limits[name][SECONDS]) for name in ("relay", "task"))
        wakes = sum(limits["relay"]["wakes"].values())
        yield (
            f"**The limit of a run**: one that is handed over {wakes} times, as the least needs, with "
            f"{limits['relay']['sent']} messages to the server and nothing done on the way, takes {_short(handed)}. "
            f"One task of a plain Celery worker, which carries a run here, takes {_short(task)} from the call to its "
            f"result. A run takes {_short(wall)}: {wall / handed:.1f} times the former, {wall / task:.2f} the latter. "
            f"What all parts compute for it, most of it one after the other, is {_short(cores * least)}."
        )
        yield _woken(made, limits["relay"])
    local = results.median(line.case, _LOCAL)
    mine = results.median(line.case, OURS)
    if local is not None and mine is not None and line.peer != _LOCAL and not line.is_makespan:
        yield (
            f"**The limit of the machine**: {results.peers[_LOCAL]['title']}, with no broker and no record, takes "
            f"{_short(local / units)} a {unit}; this package takes {mine / local:.2f} times that."
        )


def _were(results: Results, target: Target, seconds: float) -> str:
    """What the figure would be, were the run as short as that."""
    theirs = None if target.line.peer is None else results.median(target.line.case, target.line.peer)
    if theirs is None:
        return ""
    return f" The figure would be {seconds / theirs:.3g} where {target.line.most:.3g} is asked."


def _woken(made: dict[str, Any], least: dict[str, Any]) -> str:
    wakes = _middle(made["wakes"])
    parts = ", ".join(f"{part} {wakes[part]:.1f} of {least['wakes'][part]}" for part in _PARTS if part in wakes)
    sent = statistics.median(made["sent"])
    return (
        f"**What is handed over**, measured and at the least: the server is sent {sent:.1f} messages of "
        f"{least['sent']}; a part has waited and goes on: {parts}."
    )


def _accounts(results: Results) -> Iterator[str]:
    made = _cases(results)
    if not made:
        yield f"No account was made. {results.account.get('missing', '')}".strip()
        return
    header = ["", *[f"`{case}`, a {one['unit']}" for case, one in made.items()]]
    medians = {case: _middle(one["seconds"]) for case, one in made.items()}
    rows = [
        [name.capitalize(), *[_short(medians[case][name]) for case in made]]
        for name in (account.WALL, *_PARTS, account.SCRIPTS)
    ]
    busy = {case: sum(medians[case][part] for part in _PARTS) for case in made}
    rows.append(["*all that compute*", *[_short(busy[case]) for case in made]])
    cores = results.account["cores"]
    rows.append(
        [f"*share of {cores:g} cores*", *[f"{busy[case] / (cores * medians[case][account.WALL]):.0%}" for case in made]]
    )
    rows.append(["messages to the server", *[f"{statistics.median(one['sent']):.3g}" for one in made.values()]])
    rows += [
        [f"waits of the {part}", *[f"{_middle(one['wakes'])[part]:.3g}" for one in made.values()]] for part in _PARTS
    ]
    yield tables.table(header, rows)
    if reason := results.account.get("profiler"):
        yield f"By module nothing is known: {reason}."
    elif any(one.get("modules") for one in made.values()):
        yield _PROFILED
    yield from _by_case(results, made)


def _by_case(results: Results, made: dict[str, Any]) -> Iterator[str]:
    explained = False
    for case, one in made.items():
        if "makespan" not in one and not one.get("modules"):
            continue
        yield f"### `{case}`"
        yield f"{results.cases.get(case, {}).get('title', case)}, a {one['unit']}:"
        if "makespan" in one:
            rows = [[name, _short(seconds)] for name, seconds in _sum(one).items()]
            yield tables.table(["of the wall time", ""], [*rows, ["*together*", _short(sum(_sum(one).values()))]])
            if not explained:
                yield _SLOTS
                explained = True
        if modules := _modules(one):
            yield _as_text(
                [[_short(value), part, f"`{module}`", _about_module(module)] for value, part, module in modules]
            )


def _as_text(rows: list[list[str]]) -> str:
    head, _, *body = tables.table(["time", "part", "module", "what it is"], rows).splitlines()
    return "\n".join([head, "| ---: | --- | --- | --- |", *body])


def _cases(results: Results) -> dict[str, Any]:
    found: dict[str, Any] = results.account.get("cases", {})
    return found


def _unit(results: Results, case: str) -> tuple[str, int]:
    """What a case's account is of, and how many of those its time is; the run where there is no account."""
    made = _cases(results).get(case)
    return (made["unit"], made["units"]) if made is not None and made["unit"] == "branch" else ("run", 1)


def _modules(made: dict[str, Any]) -> list[tuple[float, str, str]]:
    """Seconds, part and module, the largest first; what is told together comes last."""
    found = [
        (seconds, part, module) for part, modules in made.get("modules", {}).items() for module, seconds in modules
    ]
    return sorted(found, key=lambda one: (one[2] == account.REST, -one[0]))


def _sum(made: dict[str, Any]) -> dict[str, float]:
    """The parts of a makespan, the run that took the median time."""
    ordered: list[dict[str, float]] = sorted(made["makespan"], key=lambda one: sum(one.values()))
    return ordered[len(ordered) // 2]


def _middle(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(several) for name, several in values.items()}


def _about_module(module: str) -> str:
    """The first line of its docstring."""
    if module in (account.OUTSIDE, account.REST):
        return ""
    path = processes.ROOT.joinpath(_PACKAGE, *module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.exists():
            said = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
            return said.partition("\n")[0].replace("|", "\\|")
    return ""


def _anchor(case: str) -> str:
    """The link to a heading, as GitHub makes it."""
    return case.lower()


def _short(seconds: float) -> str:
    return figures.shown(seconds, "s")

"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from bench import figures
from bench.peers import results as kept
from bench.peers.results import SECONDS, Results
from bench.peers.targets import Target, targets

_HEADINGS = {
    "trivial": "Trivial branches",
    "cpu": "Computing",
    "waiting": "Waiting",
    "skewed": "Skewed durations under a cap",
    "input": "Large inputs",
    "result": "Large results",
    "nested": "Blocks in blocks",
    "workers": "One to four workers",
    "runs": "Many small runs at once",
    "beside": "A small block beside a large one",
    "memory": "Memory",
}


def page(results: Results) -> str:
    """The whole page."""
    parts = [_about(results), _targets(list(targets(results)))]
    for workload, heading in _HEADINGS.items():
        cases = [name for name, case in results.cases.items() if case["workload"] == workload and _known(results, name)]
        if cases:
            parts.append(f"## {heading}\n\n" + "\n\n".join(_workload(results, workload, cases)))
    parts.append(_peers(results))
    return "\n\n".join(parts) + "\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(rounds: kept.Rounds, unit: figures.Unit = "s") -> str:
    """Median, spread, and how many rounds they are of."""
    middle = kept.middle(rounds)
    if middle is None:
        return ""
    least, most = kept.spread(rounds)
    shown = figures.shown(middle, unit)
    spread = f" ({figures.shown(least, unit)} to {figures.shown(most, unit)})" if least != most else ""
    return f"{shown}{spread}, n={len(rounds)}"


def _known(results: Results, case: str) -> bool:
    return case in results.values or case in results.skipped


def _about(results: Results) -> str:
    lines = [
        "# Benchmark against the peers",
        "",
        "Written by `make bench-peers`; [README.md](README.md) says how to read it. In the tables, `n` is in how many",
        "rounds a value was measured.",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in results.about.items()]
    return "\n".join(lines)


def _targets(found: list[Target]) -> str:
    rows = [
        [
            target.line.name,
            target.missing if target.value is None else shown(target, target.value),
            _range(target),
            str(len(target.values)),
            shown(target, target.line.most),
            {None: "", True: "yes", False: "**no**"}[target.reached],
        ]
        for target in found
    ]
    said = "A factor is the median of the rounds that have both sides, one measured right after the other."
    missed = "" if all(target.reached for target in found) else " [account.md](account.md) says what stands in the way."
    header = ["figure", "measured", "least and most", "rounds", "at most", "reached"]
    return f"## Figures to reach\n\n{said}{missed}\n\n{table(header, rows)}"


def shown(target: Target, value: float) -> str:
    """A value of a figure to reach, with its unit."""
    return figures.shown(value, "s") if target.line.unit == "s" else f"{value:.3g} times"


def _range(target: Target) -> str:
    values = target.values
    return f"{shown(target, min(values))} to {shown(target, max(values))}" if len(values) > 1 else ""


def _workload(results: Results, workload: str, cases: list[str]) -> Iterator[str]:
    yield "\n".join(f"- `{case}`: {results.cases[case]['title']}" for case in cases)
    if workload == "memory":
        metrics: dict[str, figures.Unit] = {"client": "B", "workers": "B", "server": "B"}
        yield _by_metric(results, cases[0], metrics)
    elif workload == "runs":
        yield _by_metric(results, cases[0], {SECONDS: "s", "per_second": "ratio", "p50": "s", "p99": "s"})
    else:
        yield _by_case(results, cases)
    if workload == "beside":
        for case in cases:
            if case not in results.values:
                continue
            yield f"`{case}`, and how much of the large one was left when the small ones began:"
            yield _by_metric(results, case, {"idle": "s", SECONDS: "s", "left": "ratio"})
    if reasons := list(_reasons(results, cases)):
        yield "Not measured, or not in every round:"
        yield "\n".join(reasons)
    yield f"![{_HEADINGS[workload]}]({workload}.svg)"


def _by_case(results: Results, cases: list[str]) -> str:
    rows = [
        [results.peers[peer]["title"], *[cell(results.rounds(case, peer)) or "-" for case in cases]]
        for peer in results.peers
        if any(results.rounds(case, peer) for case in cases)
    ]
    ideals = [results.cases[case]["ideal"] for case in cases]
    if any(ideals):
        rows.append(["*nobody can be faster than*", *[figures.shown(ideal, "s") if ideal else "" for ideal in ideals]])
    return table(["", *[f"`{case}`" for case in cases]], rows)


def _by_metric(results: Results, case: str, metrics: dict[str, figures.Unit]) -> str:
    titles = {SECONDS: "time a run", "per_second": "runs a second", "idle": "on an idle cluster", "left": "left"}
    rows = [
        [
            results.peers[peer]["title"],
            *[cell(results.rounds(case, peer, metric), unit) or "-" for metric, unit in metrics.items()],
        ]
        for peer in results.peers
        if any(results.rounds(case, peer, metric) for metric in metrics)
    ]
    return table(["", *[titles.get(metric, metric) for metric in metrics]], rows)


def _reasons(results: Results, cases: list[str]) -> Iterator[str]:
    """Why a peer is missing, one line for each peer and reason."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for peer, reason in results.skipped.get(case, {}).items():
            grouped.setdefault((peer, reason), []).append(f"`{case}`")
    for (peer, reason), names in grouped.items():
        yield f"- {results.peers[peer]['title']}, {', '.join(names)}: {reason}"


def _peers(results: Results) -> str:
    rows = []
    for peer in results.peers.values():
        versions = ", ".join(f"{name} {version}" for name, version in peer["versions"].items())
        missing = f"**could not be installed**: {peer['missing']}" if peer["missing"] else ""
        rows.append([peer["title"], versions or missing or "Python's own", peer["note"]])
    head, *body = table(["peer", "versions", "how it is run"], rows).splitlines()
    return "## The peers\n\n" + "\n".join([head, "| --- | --- | --- |", *body[1:]])

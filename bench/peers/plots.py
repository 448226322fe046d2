"""``python -m bench.peers.plots RESULTS FOLDER``: the results as PNG and SVG, in an environment that has matplotlib."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.peers.results import SECONDS, Results, middle, spread

mpl.use("Agg")

import matplotlib.pyplot as plt

#: Workloads with an axis: what it is, and whether what is shown is the time of one branch.
_AXES = {
    "trivial": ("branches", True),
    "cpu": ("ms of computing in each branch", False),
    "input": ("bytes of input", False),
    "result": ("bytes of each result", False),
    "nested": ("depth", False),
    "workers": ("workers", False),
}
_LINEAR = {"nested", "workers"}
_MARKERS = "osD^vP*X<>"
_INCH = 0.32
_FAR = 8


def draw(results: Results, folder: Path) -> Iterator[str]:
    """Draw every workload that has values; the names of the files without their suffix."""
    workloads = dict.fromkeys(case["workload"] for name, case in results.cases.items() if name in results.values)
    for workload in workloads:
        cases = [
            name for name, case in results.cases.items() if case["workload"] == workload and name in results.values
        ]
        figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
        if workload in _AXES and len({results.cases[case]["x"] for case in cases}) > 1:
            _lines(results, workload, cases, axes)
        elif workload in ("memory", "runs"):
            names = ("client", "workers", "server") if workload == "memory" else ("p50", "p99")
            _bars(results, {name: (cases[0], name) for name in names}, axes, memory=workload == "memory")
        else:
            _bars(results, {case: (case, SECONDS) for case in cases}, axes)
        axes.grid(axis="x" if axes.get_ylabel() == "" else "both", alpha=0.3)
        axes.set_axisbelow(True)
        for suffix in ("png", "svg"):
            figure.savefig(
                folder / f"{workload}.{suffix}", dpi=150, metadata={"Date": None} if suffix == "svg" else None
            )
        plt.close(figure)
        yield workload


def _lines(results: Results, workload: str, cases: list[str], axes: Any) -> None:
    title, a_branch = _AXES[workload]
    for number, peer in enumerate(results.peers):
        points = []
        for case in cases:
            if rounds := results.rounds(case, peer):
                x = results.cases[case]["x"]
                by = x if a_branch else 1.0
                points.append((x, (middle(rounds) or 0.0) / by, *[value / by for value in spread(rounds)]))
        if not points:
            continue
        points.sort()
        xs, ys, least, most = (list(column) for column in zip(*points, strict=True))
        (line,) = axes.plot(
            xs, ys, marker=_MARKERS[number % len(_MARKERS)], label=results.peers[peer]["title"], color=_colour(number)
        )
        axes.fill_between(xs, least, most, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_yscale("log")
    if workload not in _LINEAR:
        axes.set_xscale("log")
    axes.set_xlabel(title)
    axes.set_ylabel("seconds a branch" if a_branch else "seconds")
    axes.legend(fontsize="small")


def _bars(results: Results, shown: dict[str, tuple[str, str]], axes: Any, *, memory: bool = False) -> None:
    """Horizontal bars, a group for each peer; what is taken of the memory adds up."""
    peers = [peer for peer in results.peers if any(results.rounds(case, peer, what) for case, what in shown.values())]
    height = 0.8 if memory else 0.8 / len(shown)
    left = [0.0] * len(peers)
    for number, (label, (case, metric)) in enumerate(shown.items()):
        rounds = [results.rounds(case, peer, metric) for peer in peers]
        values = [(middle(each) or 0.0) / (1e6 if memory else 1.0) for each in rounds]
        places = [place + (0.0 if memory else (number - (len(shown) - 1) / 2) * height) for place in range(len(peers))]
        axes.barh(places, values, height * 0.92, left=left if memory else 0, label=label, color=_colour(number))
        if memory:
            left = [one + other for one, other in zip(left, values, strict=True)]
        else:
            for place, each, value in zip(places, rounds, values, strict=True):
                if each:
                    least, most = spread(each)
                    axes.plot([least, most], [place, place], color="black", linewidth=1)
                    axes.annotate(f" {value:.3g}", (most, place), va="center", fontsize="x-small")
    axes.set_yticks(range(len(peers)), [results.peers[peer]["title"] for peer in peers])
    axes.invert_yaxis()
    axes.set_xlabel("MB" if memory else "seconds")
    if not memory:
        _scale(results, shown, peers, axes)
    axes.figure.set_size_inches(8, 1.6 + _INCH * len(peers) * (1 if memory else max(1.0, len(shown) * 0.7)))
    axes.legend(fontsize="small")


def _scale(results: Results, shown: dict[str, tuple[str, str]], peers: list[str], axes: Any) -> None:
    """What nobody can beat as a line, and a logarithmic axis where the values are far apart."""
    ideals = {results.cases[case]["ideal"] for case, metric in shown.values() if metric == SECONDS} - {None}
    for ideal in ideals:
        axes.axvline(ideal, color="black", linestyle="--", linewidth=1, label="nobody can be faster")
    found = [middle(results.rounds(case, peer, what)) for case, what in shown.values() for peer in peers]
    values = [value for value in found if value]
    if max(values) > _FAR * min(values):
        axes.set_xscale("log")
    axes.margins(x=0.1)


def _colour(number: int) -> Any:
    return plt.get_cmap("tab10")(number % 10)


if __name__ == "__main__":
    for name in draw(Results.read(Path(sys.argv[1])), Path(sys.argv[2])):
        print(name)

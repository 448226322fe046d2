"""``python -m bench.peers``: measure this package beside its peers."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click

from bench.peers import account_page, accounts, cases, estimate, host, peers, plan, processes, tables, venvs
from bench.peers.cases import ANSWER_AFTER, PAGE, Case
from bench.peers.harness import Harness
from bench.peers.peers import OURS, Peer
from bench.peers.results import Results

RESULTS, TABLES, ACCOUNT = "results.json", "results.md", "account.md"
_DOCS = processes.ROOT / "docs" / "benchmarks"
_QUICK = processes.ROOT / "build" / "bench-peers"
_FOLDER: Any = click.Path(file_okay=False, path_type=Path)
_DEFAULT_CAP, _CHOSEN_CAP = 12.0, 60.0
_MINUTES = 35.0
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure, and how long."""

    peer: tuple[str, ...]
    workload: tuple[str, ...]
    rounds: int
    wide: int
    minutes: float | None
    cap: float | None
    quick: bool
    install_only: bool
    add: bool
    draw: bool
    list: bool
    output: Path | None

    @property
    def folder(self) -> Path:
        """Where the results go; what means nothing does not go into the docs."""
        return self.output or (_QUICK if self.quick else _DOCS)

    @property
    def chosen(self) -> bool:
        """Whether somebody has said what to measure: then it takes what it takes."""
        return bool(self.workload)

    @property
    def figures(self) -> int:
        """How often each figure to reach is measured."""
        return min(1, self.rounds) if self.quick else self.rounds

    @property
    def seconds(self) -> float:
        """After which nothing new is begun."""
        if self.minutes is not None:
            return 60.0 * self.minutes
        return float("inf") if self.chosen else 60.0 * _MINUTES

    @property
    def longest(self) -> float:
        """Seconds that one piece of work may take."""
        if self.cap is not None:
            return self.cap
        return _CHOSEN_CAP if self.chosen else _DEFAULT_CAP

    @property
    def limit(self) -> str:
        """What is over when nothing new is begun."""
        return f"the time of {self.seconds / 60:g} minutes"

    def wants(self, case: Case) -> bool:
        """Whether the case is to be measured."""
        return not self.chosen or case.workload in self.workload or case.name in self.workload


@click.command(context_settings={"show_default": True})
@click.option("--peer", multiple=True, help="Only these peers.")
@click.option("--workload", multiple=True, help="Only these workloads, or single cases.")
@click.option("--rounds", default=5, type=click.IntRange(min=0), help="How often the figures to reach are measured.")
@click.option("--wide", default=1, type=click.IntRange(min=0), help="How often all else is measured.")
@click.option("--minutes", type=float, help=f"Begin nothing after that long: {_MINUTES:g} where nothing is chosen.")
@click.option("--cap", type=float, help=f"Seconds a piece of work may take: {_DEFAULT_CAP:g}, or {_CHOSEN_CAP:g}.")
@click.option("--quick", is_flag=True, help="Tiny work, one round: to see that all works; the figures mean nothing.")
@click.option("--install-only", is_flag=True, help="Make the peers' environments, and measure nothing.")
@click.option("--add", is_flag=True, help="Keep what was measured before, and add to it, or replace it.")
@click.option("--draw", is_flag=True, help="Make tables and plots anew from what was measured before.")
@click.option("--list", is_flag=True, help="Show peers and workloads.")
@click.option("--output", type=_FOLDER, help="Where the results go: docs/benchmarks, or build/bench-peers if quick.")
def main(**given: Any) -> None:
    """Measure this package beside its peers: the same work, two processes each, in turn.

    First come the figures to reach, each beside the one peer that it is held against, then the account of where the
    time goes, and then every other case of every peer.
    """
    options = Options(**given)
    known, every = peers.load(), cases.every(quick=options.quick)
    if options.list:
        show(known, every)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.draw:
        write(Results.read(options.folder / RESULTS), options.folder)
        return
    _check("peer", options.peer, known)
    _check("workload", options.workload, [name for case in every for name in (case.workload, case.name)])
    # As Ctrl-C, so that all that runs is stopped.
    signal.signal(signal.SIGTERM, _interrupted)
    results = begin(options)
    chosen = [peer for name, peer in known.items() if not options.peer or name in options.peer]
    try:
        interpreters = install(chosen, results)
        if not options.install_only:
            measure([peer for peer in chosen if peer.name in interpreters], every, interpreters, results, options)
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
        say("interrupted: what was measured is kept")
    if results.values:
        write(results, options.folder)
    if interrupted:
        sys.exit(_INTERRUPTED)


def begin(options: Options) -> Results:
    """Results to fill: new ones, or those that were measured before."""
    rounds = f"{options.figures} of each figure to reach, {options.wide} of all else"
    about = host.describe(["make bench-peers", *sys.argv[1:]], rounds)
    if options.quick:
        about = {"**tiny work**": "to see that all works; the figures and their titles mean nothing", **about}
    file = options.folder / RESULTS
    if not options.add or not file.exists():
        return Results(about, file)
    found = Results.read(file)
    found.about["added"] = f"{about['date']}, commit {about['commit']}, {about['repeat']}"
    return found


def before(options: Options) -> Results:
    """What was measured last, to estimate by; empty where nothing was, or nothing that can be read."""
    for folder in (options.folder, _DOCS):
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            return Results.read(folder / RESULTS)
    return Results({})


def measure(
    chosen: Sequence[Peer],
    every: Sequence[Case],
    interpreters: dict[str, Path],
    results: Results,
    options: Options,
) -> None:
    """Measure what was chosen, and stop all that was started for it."""
    known = {peer.name: peer for peer in chosen}
    first = results.last_round() + 1
    figures = list(plan.figures(known, every, options.wants, times=options.figures, first=first))
    wide = list(plan.wide(known, every, options.wants, times=options.wide, first=first + len(figures)))
    planned = [(case, peer) for each in (*figures, *wide) for peer, found in each.turns for case in found]
    every_known = results.cases | {case.name: case.as_dict() for case, _ in planned}
    # In the order of the catalogue, whatever was measured first.
    results.cases = {case.name: every_known[case.name] for case in cases.every() if case.name in every_known}
    for case, peer in planned:
        results.forget(case.name, peer.name)
    told = estimate.seconds([*figures, *wide], before(options), cap=options.longest)
    accounted = {case.name for each in figures for peer, found in each.turns if peer.name == OURS for case in found}
    told += accounts.SECONDS if accounted.intersection(accounts.ALWAYS) else 0.0
    most = "" if options.seconds == float("inf") else f"; after {options.limit} nothing new is begun"
    say(f"{len(planned)} measurements: about {told / 60:.0f} minutes{most}")
    mark, started = uuid.uuid4().hex, time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="egb-", ignore_cleanup_errors=True) as folder, _web(mark) as page:
            try:
                harness = Harness(
                    results=results,
                    interpreters=interpreters,
                    folder=Path(folder),
                    mark=mark,
                    page=page,
                    cap=options.longest,
                    until=started + options.seconds,
                    limit=options.limit,
                    say=say,
                )
                harness.run(figures)
                if time.monotonic() < harness.until:
                    explain(results, accounted, mark, quick=options.quick)
                else:
                    results.account = {"missing": f"{options.limit} was over."}
                harness.run(wide)
            finally:
                processes.sweep(mark)
    finally:
        took(results, time.monotonic() - started)
        results.keep()


def took(results: Results, seconds: float) -> None:
    """Note how long it took to measure: of what was added, beside what is said of that."""
    told = f"{seconds / 60:.1f} minutes"
    if "added" in results.about:
        results.about["added"] += f", {told}"
    else:
        results.about["took"] = told


def explain(results: Results, among: Collection[str], mark: str, *, quick: bool) -> None:
    """Make the account of where the time goes, of some of these cases."""
    names = accounts.wanted(results, among)
    if not names:
        return
    say(f"where the time goes: {', '.join(names)}")
    try:
        spy = str(venvs.python(venvs.SPY, venvs.SPY_PACKAGES).with_name("py-spy"))
    except venvs.NotInstalled as error:
        say(f"    py-spy cannot be installed: {error}")
        spy = ""
    try:
        results.account = accounts.ask(names, spy=spy, mark=mark, quick=quick)
    except accounts.NoAccount as error:
        say(f"    no account: {error}")
        results.account = {"missing": str(error)}
    results.keep()


def show(known: dict[str, Peer], every: Sequence[Case]) -> None:
    """Print what there is to choose from."""
    for peer in known.values():
        click.echo(f"--peer {peer.name:20} {peer.title}: {peer.note}")
    for case in every:
        click.echo(f"--workload {case.workload:10} or {case.name:16} {case.title}")


def _check(what: str, chosen: Sequence[str], known: Collection[str]) -> None:
    for name in chosen:
        if name not in known:
            raise click.BadParameter(f"there is no {what} {name!r}: see --list")


def install(chosen: Sequence[Peer], results: Results) -> dict[str, Path]:
    """The interpreters of the peers that can be installed; what cannot is in the results, with the reason."""
    interpreters = {}
    for peer in chosen:
        missing, versions = "", {}
        say(f"{peer.title}: {', '.join(peer.packages) or 'nothing to install'}")
        try:
            interpreters[peer.name] = venvs.python(peer.venv, peer.packages)
            versions = venvs.versions(interpreters[peer.name], peer.report)
        except (venvs.NotInstalled, subprocess.SubprocessError) as error:
            missing = str(error)
            interpreters.pop(peer.name, None)
            say(f"    cannot be installed: {missing}")
        results.peers[peer.name] = {
            "title": peer.title,
            "note": peer.note,
            "versions": versions,
            "missing": missing,
        }
    # In the order of the catalogue, so that each keeps its place and colour.
    results.peers = {name: results.peers[name] for name in peers.load() if name in results.peers}
    return interpreters


@contextlib.contextmanager
def _web(mark: str) -> Iterator[str]:
    """The web server; its address."""
    # A mark of its own: it stays when what a peer has left is killed.
    server = processes.background([sys.executable, "-m", "bench.peers.web", str(ANSWER_AFTER)], mark=f"{mark}-web")
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}{PAGE}"
    finally:
        server.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(5.0)
        server.kill()
        server.wait()
        server.stdout.close()


def write(results: Results, output: Path) -> None:
    """The pages, and the plots where matplotlib can be installed."""
    for name, page in ((TABLES, tables.page(results)), (ACCOUNT, account_page.page(results))):
        (output / name).write_text(page, "utf-8")
        say(f"written: {output / name}")
    try:
        python = venvs.python(venvs.PLOTS, venvs.PLOT_PACKAGES)
    except venvs.NotInstalled as error:
        say(f"no plots: matplotlib cannot be installed: {error}")
        return
    command = [str(python), "-m", "bench.peers.plots", str(output / RESULTS), str(output)]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, check=False)
    say(f"plots: {', '.join(done.stdout.split())}" if done.returncode == 0 else f"no plots:\n{done.stderr}")


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def say(what: str) -> None:
    """Tell what is done, on the standard error output."""
    click.echo(f"{datetime.now().astimezone():%H:%M:%S} {what}", err=True)


if __name__ == "__main__":
    main()

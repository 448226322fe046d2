"""The measurements: peers in turn, each on a cluster of its own that is stopped before the next one's starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.peers import makespan, processes
from bench.peers.cases import PAGE, Case, shortest
from bench.peers.peers import OURS, Peer
from bench.peers.plan import Round
from bench.peers.processes import DriverFailed, DriverProcess
from bench.peers.protocol import Setup
from bench.peers.results import NOT_BEGUN, Results
from bench.peers.visit import Visit
from egregore_dist.client.server import Server

_START_TIMEOUT = 120.0
_MARGIN = 30.0


class OutOfTime(Exception):
    """Raised when the time for all is over."""


class NotStarted(Exception):
    """Raised when a cluster does not start."""


@dataclass(kw_only=True)
class Harness:
    """What measures.

    Attributes:
        results: where the values go.
        interpreters: the Python of each peer's environment, by the peer's name.
        folder: for temporary files.
        mark: of all processes.
        page: the address of the web server.
        cap: seconds that one piece of work may take.
        until: the moment after which nothing new is begun.
        limit: what that moment is, in words.
        say: tells what is done.
    """

    results: Results
    interpreters: dict[str, Path]
    folder: Path
    mark: str
    page: str
    cap: float
    until: float
    say: Callable[[str], None]
    limit: str = "the time"
    _visits: int = field(default=0, init=False)
    _round: int = field(default=0, init=False)

    def run(self, plan: Sequence[Round]) -> None:
        """Measure all of the plan, round by round; what is not begun in time is in the results with that reason."""
        try:
            for each in plan:
                self.say(f"round {each.number}: {each.title}")
                self._round = each.number
                for peer, cases in each.turns:
                    self.say(f"  {peer.title}")
                    once = each.is_brief and peer.seldom
                    for group in grouped([brief(case) for case in cases] if once else cases):
                        self._group(peer, group[0].setup, group)
        except OutOfTime:
            self.say(f"{self.limit} is over: what was measured is kept")
            for peer, cases in (turn for each in plan for turn in each.turns):
                for case in cases:
                    known = {**self.results.values.get(case.name, {}), **self.results.skipped.get(case.name, {})}
                    if peer.name not in known:
                        self.results.skip(case.name, peer.name, f"{NOT_BEGUN}{self.limit} was over")

    def _group(self, peer: Peer, setup: Setup, cases: Sequence[Case]) -> None:
        """Measure the cases of one setup, with a new cluster after each that did not end."""
        left = list(cases)
        while left := [case for case in left if self._wanted(peer, case)]:
            try:
                with self._cluster(peer, setup) as visit:
                    while left:
                        case = left.pop(0)
                        if self._wanted(peer, case):
                            self._case(visit, case)
            except NotStarted as error:
                for case in left:
                    self.results.skip(case.name, peer.name, str(error))
                self.say(f"    {error}")
                return
            except DriverFailed as error:
                self.say(f"    {error}; what is left gets a new cluster")

    def _wanted(self, peer: Peer, case: Case) -> bool:
        """Whether the case is to be begun: it has not been given up, and would not take too long."""
        if time.monotonic() > self.until:
            raise OutOfTime
        if peer.name in self.results.skipped.get(case.name, {}):
            return False
        least = max(self._at_least(peer, case), self._scaled_up(peer, case))
        # Without this package's own there is nothing to hold a peer against.
        if least > self.cap and peer.name != OURS:
            self.results.skip(
                case.name, peer.name, f"would take {least:.0f} s or more, and the cap is {self.cap:.0f} s"
            )
            return False
        return True

    def _at_least(self, peer: Peer, case: Case) -> float:
        work = case.large or case.work
        return shortest(work, case.setup.slots, width=peer.width, async_width=peer.async_width)

    def _scaled_up(self, peer: Peer, case: Case) -> float:
        """What the case would take, going by smaller ones: of its own workload, and as many trivial branches."""
        work = case.large or case.work
        least = self._extrapolated(peer, "trivial", float(work.expected)) if work.kind == "each" else 0.0
        if case.workload in ("input", "result", "nested"):
            least = max(least, self._extrapolated(peer, case.workload, case.amount))
        return least

    def _extrapolated(self, peer: Peer, workload: str, amount: float) -> float:
        known = {
            seen["amount"]: seconds
            for name, seen in self.results.cases.items()
            if seen["workload"] == workload and seen["amount"] < amount
            if (seconds := self.results.median(name, peer.name)) is not None
        }
        return makespan.extrapolated(list(known.items()), amount)

    @contextmanager
    def _cluster(self, peer: Peer, setup: Setup) -> Iterator[Visit]:
        self._visits += 1
        folder = self.folder / str(self._visits)
        with ExitStack() as stack:
            server = stack.enter_context(Server.start(tcp=True)) if peer.server else None
            driver = DriverProcess(self.interpreters[peer.name], peer.driver, mark=self.mark, folder=folder)
            stack.callback(self._sweep, peer)
            stack.callback(driver.stop)
            given = replace(setup, server=server.tcp_url if server else "", folder=str(folder), options=peer.options)
            started = time.monotonic()
            try:
                answer = driver.ask({"do": "start", **asdict(given)}, timeout=_START_TIMEOUT)
            except DriverFailed as error:
                answer = {"ok": False, "error": str(error)}
            if not answer["ok"]:
                self.say(driver.tail())
                raise NotStarted(f"its cluster did not start: {answer['error']}")
            took = time.monotonic() - started
            self.results.peers[peer.name]["start"] = round(took, 2)
            self.say(f"    started in {took:.1f} s ({setup.workers} x {setup.processes})")
            yield Visit(peer=peer, driver=driver, mark=self.mark, server=server)

    def _sweep(self, peer: Peer) -> None:
        if left := processes.sweep(self.mark):
            self.say(
                f"    {peer.title} left {len(left)} processes behind, which are killed: {', '.join(sorted(set(left)))}"
            )

    def _case(self, visit: Visit, case: Case) -> None:
        peer = visit.peer
        work = replace(case.work, item=self.page) if case.work.item == PAGE else case.work
        started = time.monotonic()
        try:
            answer, metrics = visit.measure(case, work, timeout=(case.warm + 1) * self.cap + _MARGIN)
        except DriverFailed as error:
            self.results.skip(case.name, peer.name, f"did not end: {error}")
            raise
        if not answer["ok"]:
            reason = answer.get("unsupported") or f"failed: {answer['error']}"
            self.results.skip(case.name, peer.name, reason)
            self.say(f"    {case.name}: {reason}")
            return
        self.results.add(case.name, peer.name, self._round, metrics)
        shown = ", ".join(f"{name} {sorted(values)[len(values) // 2]:.4g}" for name, values in metrics.items())
        self.say(f"    {case.name}: {shown} ({time.monotonic() - started:.1f} s)")


def brief(case: Case) -> Case:
    """The case for a peer that is slow: once, without warming."""
    return replace(case, warm=min(case.warm, 1) if case.mode == "runs" else 0, repeats=1)


def grouped(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases by the cluster that they need, so that each is started once a round."""
    setups: list[Setup] = []
    for case in cases:
        if case.setup not in setups:
            setups.append(case.setup)
    return [[case for case in cases if case.setup == setup] for setup in setups]

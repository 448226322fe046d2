"""A running cluster of a peer, and what is measured with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from bench.peers.cases import CLIENTS, Case
from bench.peers.memory import Watch
from bench.peers.peers import Peer
from bench.peers.processes import DriverProcess
from bench.peers.protocol import Work
from bench.peers.results import SECONDS, percentile
from egregore_dist.client.server import Server

_MEMORY_SECONDS = 3.0


@dataclass(kw_only=True)
class Visit:
    """A running cluster of a peer."""

    peer: Peer
    driver: DriverProcess
    mark: str
    server: Server | None

    def measure(self, case: Case, work: Work, *, timeout: float) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """Measure one case; the driver's answer, and the values by metric."""
        request: dict[str, Any] = {"do": "measure", "work": work.as_dict()}
        timed = {"warm": case.warm, "repeats": case.repeats, "within": case.within}
        if case.mode == "runs":
            request |= {"do": "runs", "threads": CLIENTS, "warm": case.warm, "seconds": case.within}
            answer = self.driver.ask(request, timeout=timeout)
            return answer, _of_runs(answer) if answer["ok"] else {}
        if case.mode == "beside":
            assert case.large is not None
            request |= {"do": "beside", "large": case.large.as_dict(), "repeats": case.repeats}
            answer = self.driver.ask(request, timeout=timeout)
            return answer, {name: answer[name] for name in (SECONDS, "idle", "left") if answer.get(name)}
        if case.mode == "memory":
            return self._memory(request, timeout)
        before = self._written()
        answer = self.driver.ask(request | timed, timeout=timeout)
        if not answer["ok"]:
            return answer, {}
        metrics = {SECONDS: answer[SECONDS]}
        if work.kind == "share" and self.server is not None:
            metrics["written"] = [(self._written() - before) / answer["calls"] / work.size]
        return answer, metrics

    def _memory(self, request: dict[str, Any], timeout: float) -> tuple[dict[str, Any], dict[str, list[float]]]:
        watch = Watch(
            client=self.driver.pid,
            mark=self.mark,
            server=self.server.pid if self.server else None,
            servers=self.peer.servers,
        )
        with watch:
            often = {"warm": 0, "repeats": 1000, "within": _MEMORY_SECONDS}
            answer = self.driver.ask(request | often, timeout=timeout)
        return answer, {role: [float(most)] for role, most in watch.most.items()}

    def _written(self) -> int:
        if self.server is None:
            return 0
        with redis.Redis.from_url(self.server.url) as client:
            stats: Any = client.info("stats")
            return int(stats["total_net_input_bytes"])


def _of_runs(answer: dict[str, Any]) -> dict[str, list[float]]:
    latencies, elapsed = answer["latencies"], answer["elapsed"]
    return {
        SECONDS: [elapsed / len(latencies)],
        "per_second": [len(latencies) / elapsed],
        "p50": [percentile(latencies, 0.5)],
        "p99": [percentile(latencies, 0.99)],
    }

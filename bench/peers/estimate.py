"""How long a plan takes, going by what was measured before."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers.cases import Case, shortest
from bench.peers.harness import brief, grouped
from bench.peers.peers import Peer
from bench.peers.plan import Round
from bench.peers.results import NOT_BEGUN, Results

# Where nothing was measured before, in seconds: a cluster's start and end, a trivial branch, a byte that is passed on.
_START, _BRANCH, _BYTE = 4.0, 1e-3, 2e-8
# What comes with each case and each cluster besides, in seconds.
_A_CASE, _A_STOP = 0.3, 1.0
_MEMORY = 3.0


def seconds(plan: Sequence[Round], before: Results, *, cap: float) -> float:
    """How long the plan takes, without the time for installing.

    Args:
        plan: what is measured.
        before: what was measured at another time; empty where nothing was.
        cap: seconds that one piece of work may take: what takes longer is not begun.
    """
    total = 0.0
    for each in plan:
        for peer, cases in each.turns:
            for group in grouped([brief(case) for case in cases] if each.is_brief and peer.seldom else cases):
                total += before.peers.get(peer.name, {}).get("start", _START) + _A_STOP
                total += sum(of_case(case, peer, before, cap) for case in group)
    return total


def of_case(case: Case, peer: Peer, before: Results, cap: float) -> float:
    """How long a case takes once a cluster runs: warming, repetitions, and what is prepared."""
    once = _once(case, peer, before)
    if once > cap or _cannot(case, peer, before):
        return 0.0
    if case.mode == "memory":
        return _A_CASE + max(_MEMORY, once)
    if case.mode == "runs":
        return _A_CASE + case.warm * once + case.within
    if case.mode == "beside":
        large = case.large
        assert large is not None
        return _A_CASE + once + (1 + case.repeats) * _trivial(case.work.expected, peer, before)
    often = 1 + case.within / once
    return _A_CASE + (min(case.warm, often) + min(case.repeats, often)) * once


def _cannot(case: Case, peer: Peer, before: Results) -> bool:
    reason = before.skipped.get(case.name, {}).get(peer.name, NOT_BEGUN)
    return not reason.startswith(NOT_BEGUN) and before.median(case.name, peer.name) is None


def _once(case: Case, peer: Peer, before: Results) -> float:
    known = before.median(case.name, peer.name)
    if known is not None and case.mode == "measure":
        return max(known, 1e-6)
    work = case.large or case.work
    least = shortest(work, case.setup.slots, width=peer.width, async_width=peer.async_width)
    moved = case.amount * _BYTE if case.workload in ("input", "result") else 0.0
    return max(least, moved, _trivial(work.expected, peer, before))


def _trivial(count: int, peer: Peer, before: Results) -> float:
    known = [
        (case["amount"], value / case["amount"])
        for name, case in before.cases.items()
        if case["workload"] == "trivial" and (value := before.median(name, peer.name)) is not None
    ]
    # The size that is nearest tells most: a small block's branches are dear.
    a_branch = min(known, key=lambda one: abs(one[0] - count))[1] if known else _BRANCH
    return max(count * a_branch, 1e-6)

"""F25: calls of the ledger time out, are carried out and time out, or are refused by a full server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from egregore_dist import BranchError, Context, Run, Sequence, decision, node, parallel
from egregore_dist.client import session
from tests.support.inside import faulty
from tests.support.trial import Trial
from tests.support.work import anap, join, long_first, nap, quick


@node
def double(x: int) -> int:
    return 2 * x


@node
async def adouble(x: int) -> int:
    return 2 * x


@node
def total(values: list[int]) -> int:
    return sum(values)


@node
def add(doubled: dict[str, int]) -> int:
    return doubled["double"] + doubled["adouble"]


@node(retries=3)
def flaky(x: int, context: Context) -> int:
    if context.attempt < 3:
        raise ConnectionError("try again")
    return x


@node
def broken(x: int) -> int:
    raise ValueError(f"no {x}")


@decision("which")
def which(x: int) -> str:
    return "small" if x < 10 else "large"


SPINE = {
    "a block and a join": (Sequence(parallel(double, adouble), add), 5, 20),
    "a map": (Sequence(double.map(), total), list(range(200)), 2 * sum(range(200))),
    "an async map": (Sequence(adouble.map(max_concurrent=7), total), list(range(100)), 2 * sum(range(100))),
    "blocks in blocks": (
        parallel(double, Sequence(parallel(double, adouble), add, parallel(double, adouble), add).alias("in")),
        1,
        {"double": 2, "in": 16},
    ),
    "a decision": (Sequence(which.to(small=double, large=flaky), double), 3, 12),
    "retries": (parallel(flaky, double), 4, {"flaky": 4, "double": 8}),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("rate", "rounds"), [(0.01, 10), (0.05, 4)])
def test_the_spine_holds(
    trial_of: Callable[..., Trial],
    seed: str,
    rate: float,
    rounds: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Callable[[str], None],
) -> None:
    """With every hundredth or twentieth call of every ledger failing, each value is right and counts once."""
    faults = tmp_path / "faults"
    monkeypatch.setenv("EGDTEST_FAULTS", str(faults))
    monkeypatch.setenv("EGDTEST_SEED", seed)
    trial = trial_of(workers=0)
    for _ in range(2):
        trial.add(hooks=[f"store_faults={rate}"])
    with faulty(session.current().ledger, rate):
        wanted = []
        for _ in range(rounds):
            for flow, data, expected in SPINE.values():
                wanted.append((trial.submit(flow, data), expected))
            wanted.append((trial.submit(Sequence(quick.map(max_concurrent=3), join), list(range(20))), None))
            wanted.append((trial.submit(parallel(nap, anap, long_first, max_concurrent=2), 0.05), None))
        failing = trial.submit(parallel(broken, double, on_error="collect"), 7)
        for run, expected in wanted:
            found = trial.result(run, timeout=120)
            assert expected is None or found == expected
        found = trial.result(failing)
        assert isinstance(found["broken"], BranchError)
        assert (found["broken"].type, found["double"]) == ("ValueError", 14)
        assert Run(failing.id).status == "succeeded"
    had = Counter(faults.read_text().split())
    figure(", ".join(f"{count} {kind}" for kind, count in sorted(had.items())))
    assert had.total() >= 5

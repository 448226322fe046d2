"""The page's formula, against an independent statement of it."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from egregore_dist.resources import router
from egregore_dist.resources.report import Report

MIB = 2**20


def report(worker: str, host: str, memory: int, slots: int) -> Report:
    return Report(
        worker=worker, host=host, pid=1, cores=float(slots), memory_available=memory, memory_total=memory, slots=slots
    )


machines = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(st.integers(0, 10_000 * MIB), st.lists(st.integers(1, 64), min_size=1, max_size=4)),
    max_size=4,
)


def reports_of(cluster: dict[str, tuple[int, list[int]]]) -> list[Report]:
    """One report a worker, of machines given as memory and the slots of their workers."""
    return [
        report(f"w{number}@{host}", host, memory, slots)
        for host, (memory, workers) in cluster.items()
        for number, slots in enumerate(workers)
    ]


@hypothesis.given(
    branches=st.integers(1, 1000),
    limit=st.none() | st.integers(1, 1000),
    cluster=machines,
    memory=st.none() | st.integers(1, 20_000 * MIB),
    cpus=st.none() | st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 100.0]),
)
def test_lanes_are_the_least_of_three(
    branches: int,
    limit: int | None,
    cluster: dict[str, tuple[int, list[int]]],
    memory: int | None,
    cpus: float | None,
) -> None:
    """``min(limit or branches, cores, 0.70 x memory / memory per node)``, each machine's memory once, at least one."""
    plan = router.plan(branches, max_concurrent=limit, reports=reports_of(cluster), memory_per_node=memory, cpus=cpus)
    asked = branches if limit is None or limit > branches else limit
    slots = 0
    for _, workers in cluster.values():
        for each in workers:
            slots += max(1, each if cpus is None or cpus <= 1 else int(each // cpus))
    room = int(0.70 * sum(amount for amount, _ in cluster.values()) / (memory or 50 * MIB))

    assert plan.wanted == asked
    assert plan.lanes == (max(1, sorted([asked, slots, room])[0]) if cluster else asked)


@hypothesis.given(
    branches=st.integers(1, 1000), limit=st.none() | st.integers(1, 1000), cluster=machines, data=st.data()
)
def test_a_plan_does_not_depend_on_the_order_of_reports(
    branches: int, limit: int | None, cluster: dict[str, tuple[int, list[int]]], data: st.DataObject
) -> None:
    """Whoever reported first, the plan is the same."""
    reports = reports_of(cluster)
    shuffled = data.draw(st.permutations(reports))

    assert router.plan(branches, max_concurrent=limit, reports=reports) == router.plan(
        branches, max_concurrent=limit, reports=shuffled
    )


@hypothesis.given(branches=st.integers(1, 1000), limit=st.none() | st.integers(1, 1000), cluster=machines)
def test_more_workers_never_mean_fewer_lanes(
    branches: int, limit: int | None, cluster: dict[str, tuple[int, list[int]]]
) -> None:
    """Lanes stay between one and what is asked for, and one more machine never lowers them."""
    before = router.plan(branches, max_concurrent=limit, reports=reports_of(cluster))
    larger = router.plan(
        branches, max_concurrent=limit, reports=[*reports_of(cluster), report("new", "new", 1000 * MIB, 2)]
    )

    assert 1 <= before.lanes <= before.wanted <= branches
    assert larger.lanes >= before.lanes or not cluster


def test_a_plan_tells_its_numbers() -> None:
    """What a decision came from is part of it."""
    plan = router.plan(10, max_concurrent=8, reports=[report("w", "a", 1000 * MIB, 16)], memory_per_node=100 * MIB)

    assert plan == router.Plan(lanes=7, wanted=8, slots=16, memory_available=1000 * MIB, memory_per_node=100 * MIB)


def test_nothing_known_means_fifty_megabytes() -> None:
    """A node that declared nothing counts 50 MB."""
    assert router.plan(100, max_concurrent=None, reports=[report("w", "a", 500 * MIB, 64)]).lanes == 7

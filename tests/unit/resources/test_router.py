"""What a block gets of the cluster: the page's formula against an independent statement of it, and what goes beyond."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from egregore_dist.resources import needs, router
from egregore_dist.resources.profile import Learned
from egregore_dist.resources.report import Report
from egregore_dist.resources.router import Cluster, Demand, Plan, Widths

MIB = 2**20
GIB = 2**30
QUEUE = "home"


def report(worker: str, host: str, memory: int, slots: int, **more: Any) -> Report:
    values: dict[str, Any] = {"cores": float(slots), "memory_total": memory, "queues": (QUEUE,)}
    return Report(worker=worker, host=host, pid=1, memory_available=memory, slots=slots, **(values | more))


def learned(wall: float, cpu: float | None = None, memory: int | None = None, executions: float = 100.0) -> Learned:
    """Known of branches that wait for others whenever they do not compute."""
    return Learned(executions=executions, wall=wall, cpu=cpu, memory=memory, waits=wall - (cpu or 0.0))


def plan(branches: int, reports: Sequence[Report], limit: int | None = None, **demand: Any) -> Plan:
    return router.plan([Demand(queue=QUEUE, branches=branches, **demand)], Cluster(reports), max_concurrent=limit)


machines = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(st.integers(0, 10_000 * MIB), st.lists(st.integers(1, 64), min_size=1, max_size=4)),
    max_size=4,
)
limits = st.none() | st.integers(1, 1000)


def reports_of(cluster: dict[str, tuple[int, list[int]]], queues: Sequence[tuple[str, ...]] = ()) -> list[Report]:
    """One report a worker, of machines given as free memory and the slots of their workers."""
    found = [
        report(f"w{number}@{host}", host, memory, slots, memory_total=64 * GIB, cores=64.0)
        for host, (memory, workers) in cluster.items()
        for number, slots in enumerate(workers)
    ]
    if not queues:
        return found
    return [
        report(said.worker, said.host, said.memory_available, said.slots, queues=queues[number % len(queues)])
        for number, said in enumerate(found)
    ]


@hypothesis.given(
    branches=st.integers(1, 1000),
    limit=limits,
    cluster=machines,
    memory=st.none() | st.integers(1, 20_000 * MIB),
    cpus=st.none() | st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 64.0]),
)
def test_lanes_are_the_least_of_three(
    branches: int,
    limit: int | None,
    cluster: dict[str, tuple[int, list[int]]],
    memory: int | None,
    cpus: float | None,
) -> None:
    """``min(limit or branches, cores, 0.70 x memory / memory per node)`` machine by machine, at least one."""
    [track] = plan(branches, reports_of(cluster), limit, memory=memory, cpus=cpus).tracks
    asked = branches if limit is None or limit > branches else limit
    lanes = 0
    for free, workers in cluster.values():
        slots = sum(workers)
        if cpus is not None and cpus > 1:
            slots = min(slots, int(64 // cpus))
        lanes += min(slots, int(0.70 * free / (memory or 50 * MIB)))

    assert track.wanted == asked
    assert track.lanes == (max(1, min(asked, lanes)) if cluster else min(asked, router.UNSEEN))
    assert track.width == 1


placed = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(1, 16),
        st.frozensets(st.sampled_from(["zone=eu", "zone=us", "disk=ssd"])),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=6,
)


@hypothesis.given(
    branches=st.integers(1, 200),
    workers=placed,
    labels=st.frozensets(st.sampled_from(["zone=eu", "zone=us", "disk=ssd"])),
    gpus=st.integers(0, 5),
)
def test_only_workers_that_have_it_count(
    branches: int, workers: list[tuple[str, int, frozenset[str], int]], labels: frozenset[str], gpus: int
) -> None:
    """Lanes stay within the slots of workers with all labels and the GPUs, and within the GPUs of these."""
    reports = [
        report(f"w{number}@{host}", host, 64 * GIB, slots, labels=tuple(own), gpus=tuple(map(str, range(count))))
        for number, (host, slots, own, count) in enumerate(workers)
    ]
    queue = needs.queue(QUEUE, labels=labels, gpus=gpus)
    [track] = router.plan([Demand(queue=queue, branches=branches)], Cluster(reports)).tracks
    able = [said for said in reports if labels <= set(said.labels) and gpus <= len(said.gpus)]
    lanes = 0
    for host in {said.host for said in able}:
        here = [said for said in able if said.host == host]
        slots = sum(min(said.slots, len(said.gpus) // gpus) if gpus else said.slots for said in here)
        lanes += min(slots, max(len(said.gpus) for said in here) // gpus) if gpus else slots

    assert (track.workers, track.gpus, track.labels) == (len(able), gpus, tuple(sorted(labels)))
    assert track.lanes == (min(branches, lanes) if able else min(branches, router.UNSEEN))
    assert (router.misfit(Cluster(reports), queue, memory=None, cpus=None) is None) == bool(able)


sized = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 16), st.integers(100 * MIB, 64 * GIB), st.floats(0.5, 16.0)),
    min_size=1,
    max_size=6,
    unique_by=lambda worker: worker[0],
)


@hypothesis.given(
    branches=st.integers(1, 200),
    workers=sized,
    memory=st.none() | st.integers(1, 80 * GIB),
    cpus=st.none() | st.floats(0.1, 20.0).map(lambda cores: round(cores, 2)) | st.floats(0.1, 1.0),
)
def test_only_workers_that_are_large_enough_count(
    branches: int, workers: list[tuple[str, int, int, float]], memory: int | None, cpus: float | None
) -> None:
    """The queue of what is declared is served by the workers that it fits on alone, and only those are planned."""
    reports = [
        report(f"w{number}@{host}", host, size, slots, cores=cores)
        for number, (host, slots, size, cores) in enumerate(workers)
    ]
    least, most = needs.declared(memory, cpus)
    queue = needs.queue(QUEUE, memory=least, cpus=most)
    [track] = router.plan([Demand(queue=queue, branches=branches, memory=memory, cpus=cpus)], Cluster(reports)).tracks
    able = [said for said in reports if least <= int(0.70 * said.memory_total) and most <= said.cores]

    assert track.workers == len(able)
    assert track.slots <= sum(said.slots for said in able)
    assert all(router.serves(said, track.queue) for said in able)
    assert [said for said in reports if router.serves(said, track.queue)] == able
    refused = router.misfit(Cluster(reports), queue, memory=memory, cpus=cpus)
    assert (refused is None) == bool(able)


def test_tracks_share_the_gpus() -> None:
    """Of a machine with three GPUs two tracks have no more together; others have the slots that are left."""
    cluster = Cluster([report("w", "a", 64 * GIB, 8, gpus=("0", "1", "2"))])
    tracks = [
        Demand(queue=needs.queue(QUEUE, gpus=1), branches=9),
        Demand(queue=needs.queue(QUEUE, gpus=2), branches=9),
        Demand(queue=QUEUE, branches=9),
    ]

    assert [track.lanes for track in router.plan(tracks, cluster).tracks] == [1, 1, 6]


@pytest.mark.parametrize(
    ("gpus", "workers", "lanes"),
    [
        # Of another queue.
        (1, [(8, "0", QUEUE), (8, "1", "other")], 1),
        (1, [(8, "0", QUEUE), (8, "1", QUEUE)], 2),
        (1, [(8, "01", QUEUE), (8, "0", QUEUE)], 2),
        # Slots that have none, and GPUs that have no slots, or no others beside them.
        (1, [(1, "012", QUEUE), (8, "0", QUEUE)], 2),
        (2, [(8, "012", QUEUE), (8, "345", QUEUE)], 2),
    ],
)
def test_the_gpus_are_those_of_the_workers_that_serve_it(
    gpus: int, workers: list[tuple[int, str, str]], lanes: int
) -> None:
    """Those of others on their machine do not count, for one track and for several."""
    cluster = Cluster(
        report(f"w{number}", "a", 64 * GIB, slots, gpus=tuple(names), queues=(queue,))
        for number, (slots, names, queue) in enumerate(workers)
    )
    demand = Demand(queue=needs.queue(QUEUE, gpus=gpus), branches=9)
    [alone] = router.plan([demand], cluster).tracks

    assert (alone.lanes, alone.cores, alone.bound) == (lanes, lanes, "GPUs")
    assert router.plan([demand, demand], cluster).lanes == max(2, lanes)


@hypothesis.given(branches=st.integers(1, 1000), limit=limits, cluster=machines, data=st.data())
def test_a_plan_does_not_depend_on_the_order_of_reports(
    branches: int, limit: int | None, cluster: dict[str, tuple[int, list[int]]], data: st.DataObject
) -> None:
    """Whoever reported first, the plan is the same."""
    reports = reports_of(cluster, [(QUEUE,), (QUEUE, "gpu"), ("gpu",)])
    shuffled = data.draw(st.permutations(reports))
    demands = [Demand(queue=QUEUE, branches=branches), Demand(queue="gpu", branches=7, memory=GIB)]

    assert router.plan(demands, Cluster(reports), max_concurrent=limit) == router.plan(
        demands, Cluster(shuffled), max_concurrent=limit
    )


@hypothesis.given(branches=st.integers(1, 1000), limit=limits, cluster=machines)
def test_more_workers_never_mean_fewer_lanes(
    branches: int, limit: int | None, cluster: dict[str, tuple[int, list[int]]]
) -> None:
    """Lanes stay between one and what is asked for, and one more machine never lowers them."""
    before = plan(branches, reports_of(cluster), limit)
    larger = plan(branches, [*reports_of(cluster), report("new", "new", 1000 * MIB, 2)], limit)

    assert 1 <= before.lanes <= before.tracks[0].wanted <= branches
    assert larger.lanes >= before.lanes or not cluster


demands = st.lists(
    st.builds(
        Demand,
        queue=st.sampled_from([QUEUE, "gpu"]),
        branches=st.integers(1, 300),
        is_async=st.booleans(),
        batched=st.booleans(),
        memory=st.none() | st.integers(1, 2000 * MIB),
        cpus=st.none() | st.sampled_from([0.5, 1.0, 2.0, 8.0]),
        learned=st.none()
        | st.builds(
            learned,
            st.floats(1e-6, 100),
            st.none() | st.floats(0, 100),
            st.none() | st.integers(0, GIB),
            st.floats(1, 99),
        ),
    ),
    min_size=1,
    max_size=4,
)


@hypothesis.given(demands=demands, limit=limits, cluster=machines, threads=st.integers(1, 32), loop=st.integers(1, 500))
def test_tracks_share_what_there_is(
    demands: list[Demand],
    limit: int | None,
    cluster: dict[str, tuple[int, list[int]]],
    threads: int,
    loop: int,
) -> None:
    """All tracks together stay under the slots, the memory and the limit, except that each has a lane."""
    reports = reports_of(cluster, [(QUEUE,), (QUEUE, "gpu"), ("gpu",)])
    found = router.plan(demands, Cluster(reports), max_concurrent=limit, widths=Widths(loop=loop, threads=threads))
    seen = [track for track in found.tracks if track.workers]
    beyond = [track for track in seen if track.lanes > 1]

    assert len(found.tracks) == len(demands)
    for demand, track in zip(demands, found.tracks, strict=True):
        assert 1 <= track.lanes <= track.wanted == min(limit or demand.branches, demand.branches)
        assert 1 <= track.width <= max(loop, threads)
        assert track.width == 1 or track.width <= (loop if demand.is_async else threads)
        assert 1 <= track.lease <= 1024
        assert track.lanes <= max(1, track.slots) or not track.workers
    assert sum(track.lanes for track in beyond) <= found.slots
    if limit is not None:
        assert sum(track.lanes for track in beyond) <= limit
    machine = {said.host: said.memory_available for said in reports}
    for track in seen:
        if track.width > 1 and track.memory_from != "assumed":
            for host, memory in machine.items():
                slots = sum(said.slots for said in reports if said.host == host and router.serves(said, track.queue))
                assert min(found.lanes, slots) * track.width * track.memory_per_node <= 0.70 * memory
    if beyond:
        taken = sum((track.lanes - 1) * track.memory_per_node for track in beyond)
        assert taken <= 0.70 * sum(machine.values())


def test_each_track_has_a_slot_where_there_are_as_many() -> None:
    """Async and sync branches of one block share the slots, and none waits for all of the other."""
    both = [Demand(queue=QUEUE, branches=100), Demand(queue=QUEUE, branches=100, is_async=True)]

    two = router.plan(both, Cluster([report("w", "a", 64 * GIB, 2)]))
    eight = router.plan(both, Cluster([report("w", "a", 64 * GIB, 8)]))

    assert [track.lanes for track in two.tracks] == [1, 1]
    assert [track.bound for track in two.tracks] == ["other tracks", "other tracks"]
    assert [track.lanes for track in eight.tracks] == [7, 1]


def test_tracks_share_by_the_time_that_they_take() -> None:
    """Where it was learned how long branches take, the track with more to do gets more of the slots."""
    tracks = [
        Demand(queue=QUEUE, branches=10, learned=learned(9.0)),
        Demand(queue=QUEUE, branches=10, learned=learned(1.0), cpus=0.5),
    ]

    found = router.plan(tracks, Cluster([report("w", "a", 64 * GIB, 10)]))

    assert [track.lanes for track in found.tracks] == [9, 1]


def test_workers_that_can_serve_one_track_only_serve_that() -> None:
    """A worker of both queues is left to the track that no other worker serves."""
    reports = [report("both", "a", 64 * GIB, 2, queues=(QUEUE, "gpu")), report("one", "b", 64 * GIB, 4)]

    found = router.plan([Demand(queue=QUEUE, branches=4), Demand(queue="gpu", branches=4)], Cluster(reports))

    assert [track.lanes for track in found.tracks] == [4, 2]


def test_without_optimization_there_is_a_lane_a_branch() -> None:
    """``optimization_enabled=False``: as many lanes as branches, or as the limit; no width, leases of one."""
    demand = Demand(queue=QUEUE, branches=9, is_async=True, batched=True, learned=learned(1e-5))
    found = router.plan([demand], Cluster([report("w", "a", MIB, 1)]), max_concurrent=7, optimize=False)

    [track] = found.tracks
    assert (track.lanes, track.width, track.lease, track.bound) == (7, 1, 1, "not optimized")


def test_a_plan_tells_its_numbers() -> None:
    """What a decision came from is part of it."""
    found = plan(10, [report("w", "a", 1000 * MIB, 16)], 8, memory=100 * MIB, cpus=1.0)

    assert found == Plan(
        tracks=(
            router.Allocation(
                queue=QUEUE,
                branches=10,
                lanes=7,
                width=1,
                width_of=None,
                lease=1,
                bound="memory",
                wanted=8,
                workers=1,
                slots=16,
                cores=16,
                room=7,
                fitting=7,
                memory_available=1000 * MIB,
                memory_per_node=100 * MIB,
                memory_from="declared",
                cpus=1.0,
                gpus=0,
                labels=(),
                learned=None,
            ),
        ),
        max_concurrent=8,
        workers=1,
        slots=16,
    )
    assert found.lanes == 7


@pytest.mark.parametrize(
    ("branches", "limit", "slots", "memory", "bound"),
    [
        (3, None, 8, GIB, "branches"),
        (3, 3, 8, GIB, "branches"),
        (9, 2, 8, GIB, "max_concurrent"),
        (9, None, 4, GIB, "slots"),
        (9, 8, 4, GIB, "slots"),
        (9, None, 8, 200 * MIB, "memory"),
    ],
)
def test_a_plan_tells_what_bounds_it(branches: int, limit: int | None, slots: int, memory: int, bound: str) -> None:
    """Branches, the limit, the slots or the memory: what would have to be more for more lanes."""
    assert plan(branches, [report("w", "a", memory, slots)], limit).tracks[0].bound == bound


@pytest.mark.parametrize(
    ("branches", "memory", "cpus", "gpus", "bound", "numbers"),
    [
        (9, GIB, 4.0, 0, "cores", (8, 2, 14)),
        (9, GIB, 2.0, 1, "GPUs", (8, 3, 14)),
        (9, GIB, 3.0, 1, "cores", (8, 2, 14)),
        (2, GIB, 4.0, 0, "branches", (8, 2, 14)),
        (9, 80 * MIB, 4.0, 0, "memory", (8, 2, 1)),
        (9, 10 * MIB, 4.0, 0, "memory", (8, 2, 0)),
    ],
)
def test_cores_and_gpus_bound_a_plan(
    branches: int, memory: int, cpus: float, gpus: int, bound: str, numbers: tuple[int, int, int]
) -> None:
    """It says so, with how many slots have them."""
    worker = report("w", "a", memory, 8, gpus=("0", "1", "2"))
    [track] = router.plan(
        [Demand(queue=needs.queue(QUEUE, gpus=gpus), branches=branches, cpus=cpus)], Cluster([worker])
    ).tracks

    assert (track.bound, (track.slots, track.cores, track.room)) == (bound, numbers)
    assert track.fitting == min(track.cores, track.room)
    assert track.lanes == max(1, min(branches, track.fitting))


@hypothesis.given(
    branches=st.integers(1, 100),
    cluster=machines,
    memory=st.none() | st.integers(1, 5000 * MIB),
    seen=st.none() | st.integers(1, 50 * GIB),
    cpus=st.none() | st.sampled_from([0.5, 2.0, 40.0]),
)
def test_the_least_number_of_a_plan_is_its_lanes(
    branches: int,
    cluster: dict[str, tuple[int, list[int]]],
    memory: int | None,
    seen: int | None,
    cpus: float | None,
) -> None:
    """What is shown gives what was decided: lanes are the least of the numbers, which are of workers that serve it."""
    reports = reports_of(cluster)
    [track] = plan(branches, reports, memory=memory, cpus=cpus, learned=learned(1.0, memory=seen)).tracks
    serving = [said for said in reports if router.serves(said, track.queue)]

    assert track.slots >= track.cores >= track.fitting <= track.room
    if track.workers:
        assert track.lanes == max(1, min(track.wanted, track.fitting))
        assert (track.workers, track.slots) == (len(serving), sum(said.slots for said in serving))
        assert track.bound == "branches" or track.lanes < track.wanted


def test_a_plan_counts_who_can_serve_it() -> None:
    """Where what was learned leaves one of eleven workers, the slots and the memory are that one's."""
    small = [report(f"s{number}", f"s{number}", GIB, 4) for number in range(10)]
    large = report("large", "large", 64 * GIB, 4)

    found = plan(1000, [*small, large], learned=learned(1.0, memory=2 * GIB))
    [track] = found.tracks

    assert (track.lanes, track.workers, track.slots, track.room, track.bound) == (4, 1, 4, 22, "slots")
    assert (track.memory_available, found.workers, found.slots) == (64 * GIB, 1, 4)


def test_nothing_known_means_fifty_megabytes() -> None:
    """Memory per node is what was declared, else what was learned, else 50 MB."""
    reports = [report("w", "a", 500 * MIB, 64)]
    heavy = learned(1.0, memory=175 * MIB)

    assert (plan(100, reports).lanes, plan(100, reports).tracks[0].memory_from) == (7, "assumed")
    assert (plan(100, reports, learned=heavy).lanes, plan(100, reports, learned=heavy).tracks[0].memory_from) == (
        2,
        "learned",
    )
    assert plan(100, reports, learned=heavy, memory=35 * MIB).lanes == 10
    assert plan(100, reports, learned=learned(1.0, memory=0)).lanes == 64
    assert plan(100, reports, learned=learned(1.0, memory=10 * GIB)).lanes == 1


def test_containers_of_one_machine_have_their_own_memory() -> None:
    """Groups with limits of their own add up, to no more than their machine can give; a shared one counts once."""

    def pod(name: str, group: str, machine: int = 100 * GIB) -> Report:
        limit = 500 * MIB
        return report(name, "a", limit, 64, memory_limit=limit, group=group, machine_available=machine)

    assert plan(100, [pod("1", "x"), pod("2", "y")]).lanes == 14
    assert plan(100, [pod("1", "x"), pod("2", "x")]).lanes == 7
    assert plan(100, [pod("1", "x", 600 * MIB), pod("2", "y", 600 * MIB)]).lanes == 8


def test_containers_of_one_machine_have_their_own_cores() -> None:
    """Quotas of their own add up, to no more than their machine has; those of one group count once."""

    def pod(name: str, group: str, machine: float = 64.0) -> Report:
        return report(name, "a", 64 * GIB, 2, cores=2.0, cpu_group=group, machine_cores=machine)

    def lanes(pods: Sequence[Report]) -> int:
        demand = Demand(queue=needs.queue(QUEUE, cpus=2), branches=100, cpus=2.0)
        both = [demand, Demand(queue=needs.queue(QUEUE, cpus=1.5), branches=100, cpus=1.5)]
        [alone] = router.plan([demand], Cluster(pods)).tracks
        assert router.plan(both, Cluster(pods)).lanes == max(2, alone.lanes)
        return alone.lanes

    assert lanes([pod(str(number), str(number)) for number in range(10)]) == 10
    assert lanes([pod(str(number), str(number), 10.0) for number in range(10)]) == 5
    assert lanes([pod(str(number), "one") for number in range(10)]) == 1
    # Of a release that does not name its group.
    assert lanes([report(str(number), "a", 64 * GIB, 2, cores=2.0) for number in range(10)]) == 1


@pytest.mark.parametrize(("cores", "cpus", "lanes"), [(3.3, 1.1, 3), (6.6, 1.1, 6), (4.2, 1.4, 3), (3.2, 1.1, 2)])
def test_cores_are_divided_as_they_are_written(cores: float, cpus: float, lanes: int) -> None:
    """Three times 1.1 cores are 3.3 cores, for one track and for several."""
    cluster = Cluster([report("w", "a", 64 * GIB, 9, cores=cores, machine_cores=64.0, cpu_group="g")])
    demand = Demand(queue=needs.queue(QUEUE, cpus=cpus), branches=100, cpus=cpus)

    assert router.plan([demand], cluster).lanes == lanes
    assert router.plan([demand, demand], cluster).lanes == lanes


def test_memory_that_is_too_small_for_one_is_nothing() -> None:
    """What a group has left counts in whole lanes; that of a container that may not serve a track does not count."""

    def pod(name: str, memory: int) -> Report:
        return report(name, "a", memory, 8, group=name, memory_limit=memory, machine_available=99 * GIB)

    several = plan(100, [pod(str(number), GIB) for number in range(4)], memory=400 * MIB).tracks[0]
    beside = plan(100, [pod("large", 10 * GIB), *(pod(str(number), GIB) for number in range(9))], memory=GIB).tracks[0]

    assert (several.lanes, several.bound) == (4, "memory")
    assert (beside.lanes, beside.workers, beside.room, beside.memory_available) == (7, 1, 7, 10 * GIB)


def test_what_nobody_serves_yet_gets_some_lanes() -> None:
    """Where no worker of the queue has reported, lanes are bounded, and say so."""
    found = plan(1000, [report("w", "a", GIB, 4, queues=("other",))]).tracks[0]

    assert (found.lanes, found.bound, found.workers) == (router.UNSEEN, "no worker", 0)


def test_a_drained_worker_has_no_slots() -> None:
    """What takes no lanes now is not counted; where nobody takes any, it is as if nobody served the queue."""
    drained = report("d", "a", 10 * GIB, 8, holds={"drained": "by hand"})
    small = report("s", "a", GIB, 2)

    found = plan(100, [drained, small])
    nobody = plan(100, [drained])

    assert (found.lanes, found.workers, found.slots) == (2, 1, 2)
    assert (nobody.lanes, nobody.workers, nobody.tracks[0].bound) == (router.UNSEEN, 0, "no worker")
    several = [Demand(queue=QUEUE, branches=50), Demand(queue=QUEUE, branches=50, is_async=True)]
    assert router.plan(several, Cluster([drained, small])).lanes == 2
    # It comes back: what only it is large enough for is not refused.
    assert router.misfit(Cluster([drained, small]), QUEUE, memory=5 * GIB, cpus=None) is None
    assert router.misfit(Cluster([drained]), QUEUE, memory=50 * GIB, cpus=None) is None
    assert router.misfit(Cluster([drained, small]), QUEUE, memory=50 * GIB, cpus=None) is not None


@pytest.mark.parametrize(
    ("known", "threads", "width"),
    [
        (learned(0.1, 0.001), 32, 32),
        (learned(0.1, 0.02), 32, 5),
        (learned(0.1, 0.001), 1, 1),
        (learned(0.1, 0.09), 32, 1),
        (learned(0.1, None), 32, 32),
        (learned(0.1, 0.0), 8, 8),
        (learned(0.1, 5e-324), 8, 8),
        (None, 32, 32),
    ],
)
def test_what_declares_io_gets_width(known: Learned | None, threads: int, width: int) -> None:
    """Branches of ``io=True`` share a process: as many as keep it busy, where that is known."""
    demand = Demand(queue=QUEUE, branches=1000, batched=True, io=True, learned=known)
    found = router.plan([demand], Cluster([report("w", "a", 64 * GIB, 2)]), widths=Widths(threads=threads))

    assert (found.tracks[0].lanes, found.tracks[0].width) == (2, width)


@pytest.mark.parametrize(
    ("wall", "cpu", "waits", "width"),
    [(0.083, 0.02, 0.0, 1), (0.083, 0.02, 0.063, 4), (0.2, 0.02, 0.08, 5), (0.1, 0.02, 0.01, 1)],
)
def test_only_a_wait_for_others_gives_width(wall: float, cpu: float, waits: float, width: int) -> None:
    """What else a branch takes does not count as time in which its process could do other things."""
    known = Learned(executions=100.0, wall=wall, cpu=cpu, memory=None, waits=waits)
    demand = Demand(queue=QUEUE, branches=1000, batched=True, io=True, learned=known)
    found = router.plan([demand], Cluster([report("w", "a", 64 * GIB, 2)]), widths=Widths(threads=32))

    assert found.tracks[0].width == width


def test_what_declares_io_is_leased_one_at_a_time() -> None:
    """A lane whose threads run one branch at a time asks for each, as one of many does."""
    demand = Demand(queue=QUEUE, branches=5000, batched=True, io=True, learned=learned(1e-4, 1e-4))
    [track] = router.plan([demand], Cluster([report("w", "a", 64 * GIB, 2)]), widths=Widths(threads=32)).tracks

    assert (track.width, track.lease) == (1, 1)


seconds = st.floats(0, 1e6)


@hypothesis.given(
    known=st.none()
    | st.builds(
        Learned,
        executions=st.floats(0, 1e6),
        wall=seconds,
        cpu=st.none() | seconds,
        memory=st.none() | st.integers(0, GIB),
        reserved=st.integers(0, GIB),
        waits=seconds,
    ),
    branches=st.integers(1, 100_000),
    batched=st.booleans(),
    threads=st.integers(1, 1000),
    slots=st.integers(0, 64),
)
def test_no_sync_branch_shares_a_process_by_what_was_learned(
    known: Learned | None, branches: int, batched: bool, threads: int, slots: int
) -> None:
    """A lane runs one branch at a time of nodes that do not declare ``io=True``, whatever the profile."""
    demand = Demand(queue=QUEUE, branches=branches, batched=batched, learned=known)
    cluster = Cluster([report("w", "a", 64 * GIB, slots)] if slots else [])
    (track,) = router.plan([demand], cluster, widths=Widths(threads=threads)).tracks

    assert (track.width, track.width_of) == (1, None)


def test_width_takes_no_more_than_there_is() -> None:
    """Width is bounded by the branches and, where it is known what each takes, by the memory."""
    reports = [report("w", "a", 1000 * MIB, 2)]
    waits = learned(0.1, 0.001, memory=50 * MIB)
    few = router.plan(
        [Demand(queue=QUEUE, branches=6, batched=True, io=True, learned=learned(0.1, 0.0))],
        Cluster(reports),
        widths=Widths(threads=32),
    )
    heavy = router.plan(
        [Demand(queue=QUEUE, branches=600, batched=True, io=True, learned=waits)],
        Cluster(reports),
        widths=Widths(threads=32),
    )
    light = router.plan([Demand(queue=QUEUE, branches=600, is_async=True)], Cluster(reports))
    needy = router.plan([Demand(queue=QUEUE, branches=600, is_async=True, memory=10 * MIB)], Cluster(reports))

    assert [found.tracks[0].width for found in (few, heavy, light, needy)] == [3, 7, 500, 35]


def test_width_is_that_of_the_smallest_worker() -> None:
    """A lane may come to any of the workers: on none do those that run at a time take more than its memory."""
    large, small = report("large", "a", 256 * GIB, 8), report("small", "b", GIB, 2)
    limited = report("limited", "a", GIB, 4, group="one", machine_total=256 * GIB, machine_available=250 * GIB)
    crowd = [
        report(str(number), "a", 4 * GIB, 2, group=str(number), machine_total=10 * GIB, machine_available=9 * GIB)
        for number in range(8)
    ]

    def width(*reports: Report, **more: Any) -> int:
        demand = Demand(queue=QUEUE, branches=100_000, memory=40 * MIB, **more)
        return router.plan([demand], Cluster(reports), widths=Widths(threads=32)).tracks[0].width

    assert width(large, is_async=True) == 500
    assert width(large, small, is_async=True) == int(0.70 * 1024 / 2 / 40)
    assert width(large, small, batched=True, io=True) == int(0.70 * 1024 / 2 / 40)
    assert width(large, limited, is_async=True) == int(0.70 * 1024 / 4 / 40)
    assert width(*crowd, is_async=True) == int(0.70 * 9 * 1024 / 16 / 40)


@pytest.mark.parametrize(
    ("known", "batched", "lease"),
    [
        (learned(0.00095), True, 10),
        (learned(1e-7), True, 199),
        (learned(1.0), True, 1),
        (learned(0.001), False, 1),
        (learned(0.001, executions=1.0), True, 1),
        (learned(0.0), True, 200),
        (None, True, 1),
    ],
)
def test_a_first_lease_lasts_ten_milliseconds(known: Learned | None, batched: bool, lease: int) -> None:
    """Where branches may be leased many at a time and are known, the first lease is as large as later ones will be."""
    reports = [report("w", "a", GIB, 2)]

    assert plan(5000, reports, learned=known, batched=batched).tracks[0].lease == lease


@pytest.mark.parametrize(
    ("branches", "demand", "lease"),
    [
        (5000, {}, 200),
        (800, {}, 200),
        (100, {}, 25),
        (17, {}, 5),
        (16, {}, 1),
        (100, {"limited": True}, 1),
        (100, {"io": True}, 1),
        (100, {"is_async": True}, 1),
    ],
)
def test_a_lease_is_one_that_a_lane_takes(branches: int, demand: dict[str, Any], lease: int) -> None:
    """No more than its share of what is left; one where branches are few, have a limit, or run many at a time."""
    demands = [Demand(queue=QUEUE, branches=branches, batched=True, learned=learned(0.0), **demand)]
    found = router.plan(demands, Cluster([report("w", "a", GIB, 2)]), widths=Widths(threads=32))

    assert found.tracks[0].lease == lease


def test_branches_of_other_tracks_make_a_block_large() -> None:
    """Few branches beside many are leased many at a time, as a lane leases them."""
    few = Demand(queue=QUEUE, branches=12, batched=True, learned=learned(0.0))

    found = router.plan([few, few], Cluster([report("w", "a", GIB, 2)]))

    assert [(track.lanes, track.lease) for track in found.tracks] == [(1, 6), (1, 6)]


def test_what_fits_nowhere_says_why() -> None:
    """It says what is needed, and what the largest worker of the queue has; 70 % of a machine's memory may be used."""
    small = report("small@a", "a", 10 * GIB, 4)
    large = report("large@b", "b", 20 * GIB, 8)
    cluster = Cluster([small, large, report("other@c", "c", 900 * GIB, 64, queues=("other",))])

    assert router.misfit(cluster, QUEUE, memory=14 * GIB, cpus=8) is None
    assert router.misfit(cluster, "unseen", memory=999 * GIB, cpus=None) is None
    assert router.misfit(cluster, QUEUE, memory=15 * GIB, cpus=None) == (
        "needs 16.1 GB of memory, and the largest worker of queue 'home', 'large@b', has 15 GB of memory "
        "(70% of 21.5 GB): declare less, or start a larger worker"
    )
    why = router.misfit(cluster, QUEUE, memory=None, cpus=9.5)
    assert why is not None
    assert "needs 9.5 cores, and the largest worker of queue 'home', 'large@b', has 8 cores" in why


def test_what_no_worker_has_says_why() -> None:
    """It says what is needed, what the nearest worker of the queue has, and how one is started that has it."""
    eu = report("eu@a", "a", 10 * GIB, 4, labels=("disk=ssd", "zone=eu"), gpus=("0",))
    plain = report("plain@b", "b", 900 * GIB, 8)
    cluster = Cluster([eu, plain, report("other@c", "c", GIB, 1, queues=("other",), labels=("zone=us",))])

    def why(memory: int | None = None, **asked: Any) -> str | None:
        return router.misfit(cluster, needs.queue(QUEUE, **asked), memory=memory, cpus=None)

    assert why(labels=["zone=eu"], gpus=1, memory=7 * GIB) is None
    assert router.misfit(cluster, needs.queue("unseen", gpus=8), memory=None, cpus=None) is None
    assert why(labels=["zone=us"], gpus=2) == (
        "needs label zone=us and 2 GPUs, and the nearest worker of queue 'home', 'plain@b', has no label and no GPUs"
        ": start one that has it with `egregore-dist worker -q home --label zone=us --gpus 2`"
    )
    assert why(labels=["zone=eu", "disk=hdd"]) == (
        "needs labels disk=hdd, zone=eu, and the nearest worker of queue 'home', 'eu@a', has labels disk=ssd, zone=eu: "
        "start one that has it with `egregore-dist worker -q home --label disk=hdd --label zone=eu`"
    )
    heavy = why(labels=["zone=eu"], memory=8 * GIB)
    assert heavy is not None
    assert "has labels disk=ssd, zone=eu and 7.52 GB of memory (70% of 10.7 GB): declare less, or start" in heavy


@pytest.mark.parametrize(
    ("more", "lanes", "width"),
    [
        ({"is_async": True}, 2, 500),
        ({"is_async": True, "cpus": 1.0}, 2, 4),
        ({"is_async": True, "cpus": 4.0}, 2, 1),
        ({"io": True, "cpus": 0.5}, 2, 8),
        ({"is_async": True, "queue": needs.queue(QUEUE, gpus=1)}, 1, 1),
        ({"io": True, "queue": needs.queue(QUEUE, gpus=1)}, 1, 1),
    ],
)
def test_width_takes_no_more_cores_and_gpus_than_there_are(more: dict[str, Any], lanes: int, width: int) -> None:
    """Each of those that run side by side was declared to need them."""
    demand = Demand(**{"queue": QUEUE, "branches": 1000, "batched": True, **more})
    worker = report("w", "a", 640 * GIB, 2, cores=8.0, gpus=("0",))

    (track,) = router.plan([demand], Cluster([worker]), widths=Widths(loop=500, threads=32)).tracks

    assert (track.lanes, track.width) == (lanes, width)


def test_width_takes_no_more_memory_than_there_was() -> None:
    """What a process of many was killed for is known, though it is less than one process is taken to need."""
    known = Learned(executions=0.0, wall=0.0, cpu=None, memory=None, reserved=20 * MIB)
    demand = Demand(queue=QUEUE, branches=1000, is_async=True, learned=known)

    (track,) = router.plan([demand], Cluster([report("w", "a", 10 * GIB, 1)]), widths=Widths(loop=500)).tracks

    assert (track.memory_from, track.width) == ("after OOM", 358)


def test_what_ran_out_of_memory_is_planned_with_more() -> None:
    """What is reserved goes before what was declared or learned, where it is more; who has that serves it."""
    small = report("small", "a", 10 * GIB, 8)
    large = report("large", "b", 100 * GIB, 8)
    after = Learned(executions=0.0, wall=0.0, cpu=None, memory=None, reserved=20 * GIB)
    less = Learned(executions=9.0, wall=1.0, cpu=None, memory=None, reserved=GIB)

    [track] = plan(50, [small, large], learned=after, memory=2 * GIB).tracks
    [alike] = plan(50, [large, report("more", "c", 100 * GIB, 8)], learned=after).tracks
    [nowhere] = plan(50, [small], learned=after).tracks
    [declared] = plan(50, [small, large], learned=less, memory=2 * GIB).tracks

    assert (track.memory_per_node, track.memory_from, track.lanes) == (20 * GIB, "after OOM", 3)
    assert track.queue == needs.queue(QUEUE, learned=20 * GIB)
    assert (alike.queue, alike.lanes) == (track.queue, 6)
    assert (nowhere.queue, nowhere.lanes) == (needs.queue(QUEUE, learned=int(0.70 * 10 * GIB)), 1)
    assert (declared.queue, declared.memory_from) == (QUEUE, "declared")
    assert not router.serves(small, track.queue)
    assert router.serves(large, track.queue)


@hypothesis.given(
    seen=st.integers(1, 200 * GIB),
    sizes=st.lists(st.integers(100 * MIB, 100 * GIB), min_size=1, max_size=5),
    is_async=st.booleans(),
)
@hypothesis.example(seen=needs.MEMORY_PER_NODE, sizes=[100 * MIB], is_async=False)
def test_what_was_seen_is_asked_for(seen: int, sizes: list[int], is_async: bool) -> None:
    """Lanes go to workers that have what a branch was seen to need, a quarter more at most; or where there is most."""
    reports = [report(f"w{number}", f"h{number}", size, 4) for number, size in enumerate(sizes)]
    known = learned(1.0, memory=seen)
    [track] = plan(40, reports, learned=known, is_async=is_async).tracks
    serving = [said for said in reports if router.serves(said, track.queue)]
    asked = needs.of(track.queue).learned
    large = [said for said in reports if router.budget(said) >= seen]

    if seen <= needs.MEMORY_PER_NODE:
        assert asked == 0
    elif large:
        assert serving == large
        assert seen <= asked <= 1.25 * seen
    else:
        assert asked == max(map(router.budget, reports)) or asked == 0
        assert serving == [said for said in reports if router.budget(said) >= asked]
    if asked:
        assert track.width == 1 or track.width * seen <= min(map(router.budget, serving))


def test_planning_is_quick() -> None:
    """One plan on a known cluster costs micro-seconds, however many workers there are."""
    cluster = Cluster([report(f"w{number}", f"h{number}", 64 * GIB, 8) for number in range(500)])
    demand = Demand(queue=QUEUE, branches=10_000)
    router.plan([demand], cluster)
    started = time.process_time()
    for _ in range(200):
        router.plan([demand], cluster)

    assert (time.process_time() - started) / 200 < 0.001


@pytest.mark.parametrize("order", [(None, 1.0, 2.0), (2.0, 1.0, None)])
def test_demands_that_differ_have_each_their_own_answer(order: tuple[float | None, ...]) -> None:
    """Half a core serves who asks for one at most, which is asked of nobody, and no others, whoever asked before."""
    cluster = Cluster([report("w", "h", GIB, 1, cores=0.5)])
    found = {cpus: cluster.pool(Demand(queue=QUEUE, branches=1, cpus=cpus)).workers for cpus in order}

    assert found == {None: 1, 1.0: 1, 2.0: 0}


def test_little_is_asked_of_nobody() -> None:
    """One core and 50 MiB are no demand: a worker that has less is neither refused nor left out of the plan."""
    small = report("small", "a", 64 * MIB, 1, cores=0.5)

    found = plan(10, [small, report("other", "b", GIB, 1)], memory=50 * 10**6, cpus=1.0).tracks[0]

    assert router.misfit(Cluster([small]), QUEUE, memory=50 * MIB, cpus=1.0) is None
    assert router.misfit(Cluster([small]), QUEUE, memory=50 * MIB + 1, cpus=1.0) is not None
    assert router.misfit(Cluster([small]), QUEUE, memory=None, cpus=1.001) is not None
    assert found.workers == 2

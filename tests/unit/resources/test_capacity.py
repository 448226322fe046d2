"""What each worker gets of its machine."""

from __future__ import annotations

from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from egregore_dist.resources import capacity, router
from egregore_dist.resources.host import ROUNDED
from egregore_dist.resources.profile import HALF_LIFE, Profile, merge
from egregore_dist.resources.report import Report

MIB = 2**20
GIB = 2**30


def report(
    worker: str, host: str = "a", cores: float = 8.0, memory: int = 64 * GIB, lanes: int = 0, **more: Any
) -> Report:
    values: dict[str, Any] = {"memory_total": memory, "slots": 1, "queues": ("home",)}
    found = tuple(f"lane{number}" for number in range(lanes))
    return Report(worker=worker, host=host, pid=1, cores=cores, memory_available=memory, lanes=found, **(values | more))


def test_lanes_that_need_more_count_where_they_can_run() -> None:
    """What waits on a derived queue is wanted by the workers that serve it: one that is too small wants none of it."""
    small, large = report("small", "a", memory=GIB), report("large", "b")
    found = capacity.tune([small, large], {f"home@memory:{2 * GIB}": 3, "home@zone=eu": 5, "home": 4})

    assert (found["small"].wanted, found["large"].wanted) == (2, 5)


@hypothesis.given(
    machines=st.dictionaries(
        st.sampled_from("abc"),
        st.tuples(
            st.floats(0.1, 64),
            st.integers(0, 64 * GIB),
            st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["home", "gpu"])), min_size=1, max_size=5),
        ),
    ),
    waiting=st.dictionaries(st.sampled_from(["home", "gpu", "other"]), st.integers(0, 1000)),
    per_lane=st.integers(1, 4 * GIB),
)
def test_workers_of_one_machine_share_it(
    machines: dict[str, tuple[float, int, list[tuple[int, str]]]], waiting: dict[str, int], per_lane: int
) -> None:
    """Together they stay under its cores and 70 % of its memory; each has a lane, and nothing is left over."""
    reports = [
        report(f"{host}{number}", host, cores, memory, lanes, queues=(queue,), memory_total=64 * GIB)
        for host, (cores, memory, workers) in machines.items()
        for number, (lanes, queue) in enumerate(workers)
    ]
    needs = {said.worker: per_lane for said in reports}

    found = capacity.tune(reports, waiting, needs)

    assert found.keys() == {said.worker for said in reports}
    assert found == capacity.tune(reports[::-1], waiting, needs)
    for host, (cores, memory, workers) in machines.items():
        shares = [found[said.worker].concurrency for said in reports if said.host == host]
        room = max(0.0, 0.70 * 64 * GIB - (64 * GIB - memory)) // per_lane
        assert min(shares) >= 1
        assert sum(shares) == max(len(workers), min(int(cores + ROUNDED), int(room)))
    assert all(each.prefetch == each.concurrency for each in found.values())


@hypothesis.given(
    cores=st.floats(1, 32),
    memory=st.integers(0, 64 * GIB),
    workers=st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from(["hand", "tuner", ""]), st.booleans(), st.integers(0, 20)),
        min_size=1,
        max_size=5,
    ),
    per_lane=st.integers(MIB, 4 * GIB),
)
@hypothesis.example(cores=1.9999999999999964, memory=64 * GIB, workers=[(1, "tuner", False, 0)], per_lane=MIB)
def test_what_was_given_by_hand_stays(
    cores: float, memory: int, workers: list[tuple[int, str, bool, int]], per_lane: int
) -> None:
    """A number by hand stays and is taken off, as is what runs where no lanes are taken; the others share the rest."""
    reports = [
        report(
            f"w{number}",
            "a",
            cores,
            memory,
            lanes,
            memory_total=64 * GIB,
            slots=slots,
            concurrency_by=by,
            holds={"drained": ""} if is_held else {},
        )
        for number, (slots, by, is_held, lanes) in enumerate(workers)
    ]

    found = capacity.tune(reports, {}, {said.worker: per_lane for said in reports})

    sharing = [said for said in reports if said.concurrency_by != "hand" and not said.holds]
    fixed = sum(said.slots for said in reports if said.concurrency_by == "hand" and not said.holds)
    for said in reports:
        each = found[said.worker]
        assert 1 <= each.least <= each.concurrency
        assert each.by == ("hand" if said.concurrency_by == "hand" else "tuner")
        assert each.why
        if said not in sharing:
            assert each.concurrency == each.least == said.slots
    if sharing:
        running = sum(min(said.slots, len(said.lanes)) for said in reports if said.holds)
        room = max(0.0, 0.70 * 64 * GIB - (64 * GIB - memory) - running * per_lane) // per_lane
        shares = sum(found[said.worker].concurrency for said in sharing)
        assert shares == max(len(sharing), min(int(cores + ROUNDED) - running, int(room)) - fixed)
        now = sum(said.slots for said in reports if not said.holds)
        assert sum(found[said.worker].free for said in sharing) == max(0, shares + fixed - now)


def pod(name: str, cores: float = 2.0, machine: float = 64.0, memory: int = 4 * GIB, **more: Any) -> Report:
    """A container with a CPU quota and a memory limit of its own, on a machine with 256 GiB."""
    values: dict[str, Any] = {
        "cpu_group": f"cpu of {name}",
        "machine_cores": machine,
        "group": f"memory of {name}",
        "memory_limit": memory,
        "machine_available": 200 * GIB,
        "machine_total": 256 * GIB,
    }
    return report(name, cores=cores, memory=memory, **(values | more))


def test_containers_of_one_machine_have_each_their_quota() -> None:
    """Each has as many lanes as its own cores, and all together no more than their machine; those of a group share."""
    ten = [pod(f"p{number}") for number in range(10)]
    crowded = [pod(f"p{number}", machine=16.0) for number in range(10)]
    shared = [*(pod(f"s{number}", cpu_group="one") for number in range(2)), pod("alone")]
    free = [
        pod("quota", machine=8.0),
        report("none", machine_cores=8.0, machine_total=256 * GIB, machine_available=200 * GIB),
    ]

    def tuned(reports: list[Report]) -> list[int]:
        return [each.concurrency for each in capacity.tune(reports, {"home": 1000}).values()]

    assert tuned(ten) == [2] * 10
    assert tuned(crowded) == [2] * 6 + [1] * 4
    assert sorted(tuned(shared)) == [1, 1, 2]
    assert sorted(tuned(free)) == [2, 6]
    assert capacity.tune(crowded, {})["p9"].why.startswith(
        "1 of 2 cores, and of the machine's 16 shared with 9 other workers; memory has room for 57 lanes of 52 MB"
    )


def test_each_lane_counts_with_its_own_memory() -> None:
    """A container that is small gets what it has room for; a worker with large lanes takes no cores from others."""
    pods = [pod("small", cores=8.0, machine=8.0, memory=GIB), pod("large", cores=8.0, machine=8.0, memory=16 * GIB)]
    beside = [report("heavy", cores=16.0, queues=("gpu",)), report("light", cores=16.0)]

    groups = capacity.tune(pods, {"home": 100}, {"small": GIB, "large": GIB})
    mixed = capacity.tune(beside, {"home": 1000}, {"heavy": 16 * GIB, "light": 50 * MIB})
    both = capacity.tune(beside, {"home": 1000, "gpu": 9}, {"heavy": 16 * GIB, "light": 50 * MIB})

    assert {name: each.concurrency for name, each in groups.items()} == {"small": 1, "large": 7}
    assert {name: each.concurrency for name, each in mixed.items()} == {"heavy": 1, "light": 15}
    assert {name: each.concurrency for name, each in both.items()} == {"heavy": 2, "light": 14}
    assert all(each.least <= each.concurrency for each in both.values())
    assert mixed["heavy"].room == 2


@hypothesis.given(
    workers=st.lists(
        st.tuples(
            st.sampled_from("xy"),
            st.sampled_from("uv"),
            st.integers(1, 6),
            st.sampled_from(["hand", "tuner"]),
            st.integers(50 * MIB, 3 * GIB),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=6,
    ),
    quotas=st.tuples(st.integers(3, 80), st.integers(3, 80)),
    machine=st.integers(8, 12),
    limits=st.tuples(st.integers(GIB, 8 * GIB), st.integers(GIB, 8 * GIB)),
    memory=st.integers(8 * GIB, 16 * GIB),
)
def test_no_group_has_more_than_its_own(
    workers: list[tuple[str, str, int, str, int, int]],
    quotas: tuple[int, int],
    machine: int,
    limits: tuple[int, int],
    memory: int,
) -> None:
    """Beyond one lane each, all stay within their quota, their limit and the machine, and nothing is left over."""
    cores = {group: tenths / 10 for group, tenths in zip("xy", quotas, strict=True)}
    sizes = dict(zip("uv", limits, strict=True))
    reports = [
        report(
            f"w{number}",
            cores=cores[quota],
            memory=sizes[limit],
            lanes=lanes,
            slots=slots,
            cpu_group=quota,
            machine_cores=machine,
            group=limit,
            machine_total=memory,
            machine_available=memory,
            concurrency_by=by,
        )
        for number, (quota, limit, slots, by, _, lanes) in enumerate(workers)
    ]
    needs = {f"w{number}": lane for number, (_, _, _, _, lane, _) in enumerate(workers)}

    found = capacity.tune(reports, {"home": 7}, needs)

    def fits(shares: dict[str, int]) -> bool:
        slots = {group: sum(shares[said.worker] for said in reports if said.cpu_group == group) for group in "xy"}
        taken = {
            group: sum(shares[said.worker] * needs[said.worker] for said in reports if said.group == group)
            for group in "uv"
        }
        return (
            all(slots[group] <= cores[group] for group in {said.cpu_group for said in reports})
            and sum(slots.values()) <= machine
            and all(taken[group] <= 0.70 * sizes[group] for group in "uv")
            and sum(taken.values()) <= 0.70 * memory
        )

    shares = {name: each.concurrency for name, each in found.items()}
    hand = {said.worker: said.slots for said in reports if said.concurrency_by == "hand"}
    assert shares == shares | hand
    assert all(each.least <= each.concurrency for each in found.values())
    least = {name: hand.get(name, 1) for name in shares}
    if fits(least):
        assert fits(shares)
        assert not any(fits(shares | {name: shares[name] + 1}) for name in shares if name not in hand)


def test_it_says_from_what() -> None:
    """The words have the numbers: of the cores, of the memory where that is less, and of what was given by hand."""
    alone = capacity.tune([report("a")], {}, {"a": GIB})["a"]
    short = capacity.tune([report("a", memory=6 * GIB)], {}, {"a": 2 * GIB})["a"]
    beside = capacity.tune([report("a"), report("b", slots=3, concurrency_by="hand")], {}, {"a": GIB})

    assert alone.why == ("8 of 8 cores; memory has room for 44 lanes of 1.1 GB in 70% of 69 GB less what others use")
    assert short.why == "2: memory has room for 2 lanes of 2.1 GB in 70% of 6.4 GB less what others use; 8 cores"
    assert beside["a"].why.startswith("5 of 8 cores shared with 1 other worker, 3 of them taken by hand; memory")
    assert (beside["b"].why, beside["b"].concurrency) == ("3, given by hand", 3)


def test_a_lane_needs_what_most_of_its_time_needs() -> None:
    """What hardly ever runs does not count; what is old counts less; what nothing is known of counts as nothing."""

    def known(memory: int, seconds: float, age: float = 0.0) -> Profile:
        found = Profile(at=int(1e9 - age * 1000), count=1.0)
        found.memory.add(memory)
        found.wall.add(seconds)
        return found

    def needed(*profiles: Profile) -> float:
        return capacity.memory_of_lane(profiles, int(1e9)) / MIB

    assert needed() == needed(Profile()) == 0
    assert 100 <= needed(known(100 * MIB, 1.0)) < 120
    assert 100 <= needed(known(100 * MIB, 100.0), known(4 * GIB, 1.0)) < 120
    assert needed(known(100 * MIB, 100.0), known(4 * GIB, 50.0)) > 4000
    assert 100 <= needed(known(100 * MIB, 100.0), known(4 * GIB, 50.0, age=6 * HALF_LIFE)) < 120


def test_many_short_executions_take_more_time_than_few_long_ones() -> None:
    """However many of them there were, what took a five-hundredth of the time does not size all lanes."""

    def batch(times: int, seconds: float, memory: int) -> Profile:
        found = Profile(at=1, count=float(times))
        found.wall.add(seconds, times)
        found.memory.add(memory, times)
        return found

    often, rare = batch(100, 0.01, 20 * MIB), batch(2, 1.0, 4 * GIB)
    for _ in range(999):
        often = merge(often, batch(100, 0.01, 20 * MIB))

    assert capacity.memory_of_lane([often, rare], 1) < 30 * MIB


def test_cores_go_where_work_is() -> None:
    """A worker with lanes gets the cores that an idle one does not want; two idle ones get the same."""
    busy = capacity.tune([report("a", lanes=6), report("b")], {})
    idle = capacity.tune([report("a"), report("b")], {})
    waiting = capacity.tune([report("a", queues=("gpu",)), report("b")], {"gpu": 5})

    assert [busy[name].concurrency for name in "ab"] == [6, 2]
    assert [idle[name].concurrency for name in "ab"] == [4, 4]
    assert [waiting[name].concurrency for name in "ab"] == [5, 3]
    assert waiting["a"].wanted == 5


@pytest.mark.parametrize(("by", "freed"), [("hand", [0, 0, 3, 4, 4]), ("tuner", [0, 0, 2, 2, 2])])
def test_what_still_runs_keeps_its_slots(by: str, freed: list[int]) -> None:
    """A worker that is to run fewer lanes has those that it runs until they end; what one has received it has not."""

    def free(lanes: int, prefetch: int) -> int:
        shrinking = report("a", slots=2, prefetch=prefetch, lanes=lanes, concurrency_by=by)
        return capacity.tune([shrinking, report("b", slots=2)], {})["b"].free

    assert [free(lanes, 2) for lanes in (7, 6, 3, 2, 0)] == freed


@pytest.mark.parametrize("reason", ["drained", "memory pressure"])
def test_what_runs_on_workers_that_take_no_lanes_is_not_given_away(reason: str) -> None:
    """Their lanes keep cores and memory until they end, and what their pools hold is nobody's to use again."""
    machine = {"memory": 5 * GIB, "memory_total": 16 * GIB}
    holds = {"concurrency_by": "tuner", "holds": {reason: "for now"}}
    needs = {"held": int(2.5 * GIB), "other": GIB}

    def other(lanes: int, held: float = 2.5, available: int = 5 * GIB) -> capacity.Capacity:
        children = {number: int(held * GIB) for number in range(4)}
        workers = [
            report("held", slots=4, lanes=lanes, children=children, **machine | holds),
            report("other", slots=4, **machine),
        ]
        reports = [msgspec.structs.replace(said, memory_available=available) for said in workers]
        return capacity.tune(reports, {"home": 100}, needs)["other"]

    alone = capacity.tune([report("other", slots=4, **machine)], {"home": 100}, needs)["other"]
    assert (alone.concurrency, alone.room) == (1, 0)
    assert [(other(lanes).concurrency, other(lanes).room) for lanes in (4, 1, 0)] == [(1, 0)] * 3
    assert [other(lanes, 0.0, 16 * GIB).room for lanes in (4, 1, 0)] == [1, 8, 11]

    needs["other"] = 50 * MIB
    found = [other(lanes, available=10 * GIB) for lanes in (4, 1, 0)]
    assert [(each.concurrency, each.free) for each in found] == [(4, 0), (7, 3), (8, 4)]
    assert found[0].why.startswith(
        "4 of 8 cores shared with 1 other worker, 4 of them with lanes of workers that take no"
    )


def test_what_has_been_received_has_no_slot() -> None:
    """A worker that may take more than it runs has the lanes that wait there in none of its slots."""
    others = report("a", slots=2, prefetch=8, lanes=7, concurrency_by="hand")

    found = [
        capacity.tune([each, report("b", slots=2)], {})["b"]
        for each in (others, msgspec.structs.replace(others, prefetch=0))
    ]
    assert [each.free for each in found] == [4, 4]


def test_several_rise_to_no_more_than_there_is() -> None:
    """What is free is shared out: whoever has least comes first."""
    waiting = {"home": 100, "other": 0}
    idle = report("idle", slots=5, queues=("other",))
    found = capacity.tune([report("a"), report("b", slots=2), idle], waiting)
    freed = capacity.tune([report("a"), report("b", slots=2), msgspec.structs.replace(idle, slots=2)], waiting)

    assert [found[name].free for name in ("a", "b", "idle")] == [0, 0, 0]
    assert [freed[name].free for name in ("a", "b", "idle")] == [2, 1, 0]
    assert [found[name].is_over for name in ("a", "b", "idle")] == [False] * 3
    assert capacity.tune([report("a", slots=4), idle], {})["a"].is_over


def test_lanes_that_wait_are_everybodys() -> None:
    """What waits in a queue is shared by all that consume it, on whatever machine."""
    found = capacity.tune([report("a"), report("b", host="other")], {"home": 5})

    assert [found[name].wanted for name in "ab"] == [3, 3]


def test_the_work_grows_with_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who serves a queue is found once a worker, however many there are; of one machine the others' shares are not."""
    reports = [report(f"w{number}", f"h{number % 20}") for number in range(40)]
    waiting = {f"home@learned:{number}00000000": number for number in range(1, 11)}
    asked: list[str] = []

    def serves(said: Report, queue: str) -> bool:
        asked.append(queue)
        return router.serves(said, queue)

    monkeypatch.setattr(capacity, "serves", serves)
    everywhere = capacity.tune(reports, waiting)
    assert len(asked) <= 2 * len(reports) * len(waiting)
    asked.clear()
    here = capacity.tune(reports, waiting, host="h3")

    assert here == {name: everywhere[name] for name in ("w3", "w23")}
    assert len(asked) <= (len(reports) + 2) * len(waiting)


def test_what_a_pool_holds_is_its_own() -> None:
    """The memory of the pools' own processes may be used again; what others hold may not."""
    total = 10 * GIB
    holding = report("a", memory=4 * GIB, memory_total=total, children={1: 3 * GIB, 2: 3 * GIB})
    others = report("a", memory=4 * GIB, memory_total=total)

    assert capacity.tune([holding], {}, {"a": GIB})["a"].room == 7
    assert capacity.tune([others], {}, {"a": GIB})["a"].room == 1
    assert capacity.tune([others], {})["a"].memory_per_lane == 50 * MIB

"""Decisions that stay while what they come from is noisy."""

from __future__ import annotations

import random
from itertools import pairwise

import hypothesis
import pytest
from hypothesis import strategies as st

from egregore_dist.resources import capacity, steady
from egregore_dist.resources.report import Machine, Report
from egregore_dist.resources.steady import FALLS_AFTER, RISES_AFTER, YIELDS_AFTER, Number, Pressure

MIB = 2**20
GIB = 2**30

bands = st.tuples(st.integers(1, 20), st.integers(0, 5)).map(lambda band: (band[0], band[0] + band[1]))


def follow(start: int, series: list[tuple[tuple[int, int], bool]]) -> list[int]:
    """The number after each round."""
    number, now, found = Number(), start, []
    for (least, most), is_over in series:
        now = number.next(now, least, most, is_over=is_over)
        found.append(now)
    return found


def report(memory: int, **more: object) -> Report:
    values: dict[str, object] = {"slots": 1, "cores": 64.0, "memory_total": 64 * GIB, "pid": 1, "host": "a"}
    return Report(worker="w", memory_available=memory, **(values | more))  # type: ignore[arg-type]


@hypothesis.given(start=st.integers(1, 20), series=st.lists(st.tuples(bands, st.booleans()), max_size=60))
def test_a_number_changes_seldom_and_with_reason(start: int, series: list[tuple[tuple[int, int], bool]]) -> None:
    """Whatever the series: few changes, each after as many rounds as it takes that all asked for it."""
    found = [start, *follow(start, series)]
    changes = [at for at, (before, after) in enumerate(pairwise(found), 1) if before != after]

    for last, at in pairwise([0, *changes]):
        before, after = found[at - 1], found[at]
        if after > before:
            assert at - last >= RISES_AFTER
            assert after == min(least for (least, _), _ in series[at - RISES_AFTER : at]) > before
            continue
        assert at - last >= FALLS_AFTER
        asked = series[at - FALLS_AFTER : at]
        if all(is_over for _, is_over in asked):
            assert after == max(most for (_, most), _ in asked) < before
        else:
            assert at - last >= YIELDS_AFTER
            most = max(most for (_, most), _ in series[at - YIELDS_AFTER : at])
            assert after == max(before // 2, most)
            assert most < before


@hypothesis.given(start=st.integers(1, 20), band=bands, is_over=st.booleans())
def test_what_is_wrong_for_long_is_put_right(start: int, band: tuple[int, int], is_over: bool) -> None:
    """A band that stays is reached after some rounds; a number that is in it stays."""
    found = follow(start, [(band, is_over)] * (YIELDS_AFTER if is_over else 5 * YIELDS_AFTER))

    assert band[0] <= found[-1] <= band[1]
    if band[0] <= start <= band[1]:
        assert found[-1] == start


@hypothesis.given(seed=st.integers(0, 10**6), room=st.integers(1, 40), start=st.integers(1, 60))
def test_a_noisy_memory_changes_nothing_for_long(seed: int, room: int, start: int) -> None:
    """Memory that varies by less than the margin moves the number in one direction alone, and soon no more."""
    rng, lane = random.Random(seed), GIB
    free = 0.30 * 64 * GIB + room * lane
    number, now, found = Number(), start, []
    for _ in range(300):
        noise = rng.uniform(0.0, 0.99 * capacity.MARGIN) * room * lane
        said = report(int(min(64 * GIB, free + noise)), slots=now)
        each = capacity.tune([said], {}, {"w": lane})["w"]
        now = number.next(now, each.least, each.concurrency, is_over=each.is_over)
        found.append(now)

    moves = [after - before for before, after in pairwise([start, *found]) if before != after]
    assert all(move > 0 for move in moves) or all(move < 0 for move in moves)
    assert len(moves) <= 5
    assert len(set(found[150:])) <= 2


class Sharing:
    """Workers that share eight cores."""

    def __init__(self, names: str = "ab") -> None:
        self.numbers = {name: Number() for name in names}
        self.now = dict.fromkeys(names, 8 // len(names))

    def round(self, lanes: dict[str, int], waiting: dict[str, int]) -> dict[str, capacity.Capacity]:
        """One round of all, with so many lanes of each, and so many that wait on the queue of each."""
        reports = [
            Report(
                worker=name,
                host="a",
                pid=1,
                cores=8.0,
                memory_available=60 * GIB,
                memory_total=64 * GIB,
                slots=slots,
                queues=(name,),
                lanes=tuple(map(str, range(lanes[name]))),
            )
            for name, slots in self.now.items()
        ]
        found = capacity.tune(reports, waiting)
        for name, each in found.items():
            least = min(each.least, self.now[name] + each.free)
            self.now[name] = self.numbers[name].next(self.now[name], least, each.concurrency, is_over=each.is_over)
        assert sum(self.now.values()) <= 8
        return found


@pytest.mark.parametrize("most_waiting", [0, 9])
def test_a_noisy_load_does_not_flap(most_waiting: int) -> None:
    """Two workers whose load comes and goes at random; in 400 rounds they change seldom."""
    rng = random.Random(4)
    two = Sharing()
    changes = wished = 0
    last = dict(two.now)
    for _ in range(400):
        before = dict(two.now)
        waiting = {name: rng.choice((0, most_waiting)) for name in "ab"}
        found = two.round({name: rng.choice((0, before[name])) for name in "ab"}, waiting)
        for name, each in found.items():
            changes += two.now[name] != before[name]
            wished += each.concurrency != last[name]
            last[name] = each.concurrency

    assert changes <= 20
    assert wished >= 5 * changes


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 30])
def test_who_takes_turns_keeps_its_cores(rounds: int) -> None:
    """Two workers of which one has much to do and the other nothing, for so long each: who works has its part."""
    two = Sharing()
    used = []
    for number in range(480):
        at_work = "ab"[number // rounds % 2]
        used.append(two.now[at_work])
        two.round({name: two.now[name] if name == at_work else 0 for name in "ab"}, {at_work: 100})

    assert sum(used) / len(used) >= (4 if rounds >= 15 or rounds <= 3 else 2.5)


@pytest.mark.parametrize("names", ["abc", "abcd", "abcdef"])
@pytest.mark.parametrize("rounds", [2, 4, 8, 15])
def test_all_but_one_that_take_turns_use_the_cores(names: str, rounds: int) -> None:
    """Several workers of which another one is idle in turn: they rise together, and to no more than there is."""
    sharing = Sharing(names)
    used = []
    for number in range(240):
        idle = names[number // rounds % len(names)]
        used.append(sum(slots for name, slots in sharing.now.items() if name != idle))
        sharing.round(
            {name: 0 if name == idle else slots for name, slots in sharing.now.items()},
            {name: 100 for name in names if name != idle},
        )

    assert sum(used) / len(used) >= (4 if len(names) == 3 else 4.5)


def machine(available: int, total: int = GIB, **more: int) -> Machine:
    return Machine(host="a", cores=1.0, memory_available=available, memory_total=total, **more)


def test_pressure_comes_and_goes_with_a_margin() -> None:
    """It begins below a tenth, after two readings, and is over from half as much again, after three."""
    pressure = Pressure()
    readings = [500, 90, 500, 90, 90, 120, 140, 160, 160, 120, 160, 160, 160, 120, 120]

    found = [bool(pressure.look(machine(int(reading / 1000 * GIB)))) for reading in readings]

    assert found == [False, False, False, False, *[True] * 8, False, False, False]


def test_pressure_says_what_is_left() -> None:
    """The numbers are in the text: what is left of how much, and from where on it is over."""
    pressure = Pressure()
    pressure.look(machine(0))

    assert pressure.look(machine(0)) == "0 B of 1.1 GB left; lanes end below 107 MB, and are taken from 161 MB on"


@pytest.mark.parametrize(
    ("one", "is_pressed"),
    [
        (machine(600 * MIB, 64 * GIB), False),
        (machine(500 * MIB, 64 * GIB), True),
        (machine(500 * MIB, machine_available=400 * MIB, machine_total=64 * GIB), True),
        (machine(500 * MIB, machine_available=GIB, machine_total=64 * GIB), False),
        (machine(0, memory_limit=GIB), True),
    ],
)
def test_what_counts_as_short(one: Machine, is_pressed: bool) -> None:
    """Half a gigabyte is enough for a large machine; the group and its machine both have to have some left."""
    pressure = Pressure()
    pressure.look(one)

    assert bool(pressure.look(one)) is is_pressed


@hypothesis.given(total=st.integers(1, 2**50), seed=st.integers(0, 10**6))
def test_noise_within_the_margin_is_no_pressure(total: int, seed: int) -> None:
    """Readings that stay between the two marks never change it."""
    rng, reserve = random.Random(seed), steady.reserve(total)
    pressure = Pressure()

    assert not any(pressure.look(machine(rng.randint(reserve, int(1.5 * reserve)), total)) for _ in range(50))

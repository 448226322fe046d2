"""What is learned of nodes, and how it is added up."""

from __future__ import annotations

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from egregore_dist.resources import profile
from egregore_dist.resources.chains import Chain, Choice
from egregore_dist.resources.profile import Histogram, Profile

HOUR = 3_600_000

values = st.lists(st.floats(1e-7, 1e12), min_size=1, max_size=50)


def seen(*samples: float) -> Histogram:
    histogram = Histogram()
    for sample in samples:
        histogram.add(sample)
    return histogram


def known(
    *walls: float, at: int = 0, cpu: float | None = None, memory: float | None = None, waits: float | None = None
) -> Profile:
    return Profile(
        at=at,
        count=float(len(walls)),
        wall=seen(*walls),
        cpu=Histogram() if cpu is None else seen(*[cpu] * len(walls)),
        waits=Histogram() if waits is None else seen(*[waits] * len(walls)),
        memory=Histogram() if memory is None else seen(*[memory] * len(walls)),
        size=seen(*[1.0] * len(walls)),
    )


profiles = st.builds(
    lambda walls, at, memory: known(*walls, at=at, memory=memory),
    values,
    st.integers(0, 10 * HOUR),
    st.none() | st.floats(0, 1e12),
)


@hypothesis.given(samples=values, share=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_a_quantile_is_within_three_percent(samples: list[float], share: float) -> None:
    """Of what was measured, however that is spread."""
    ordered = sorted(samples)
    number = max(1, -(-int(share * 100) * len(samples) // 100))
    true = ordered[number - 1]

    assert seen(*samples).quantile(share) == pytest.approx(true, rel=0.03)
    assert seen(*samples).mean == pytest.approx(sum(samples) / len(samples))


def test_nothing_is_zero() -> None:
    """Of nothing the mean and each quantile are 0; so is what did not grow."""
    assert (Histogram().mean, Histogram().quantile(0.95)) == (0.0, 0.0)
    assert seen(0.0, -1.0, 0.0).quantile(0.95) == 0.0
    assert seen(*[0.0] * 18, 8.0, 8.0).quantile(0.5) == 0.0
    assert seen(*[0.0] * 18, 8.0, 8.0).quantile(0.95) == pytest.approx(8.0, rel=0.03)


@hypothesis.given(one=profiles, other=profiles)
def test_merging_has_no_order(one: Profile, other: Profile) -> None:
    """Whoever is merged into whom, the profile is the same, and of the later time."""
    a, b = profile.merge(one, other), profile.merge(other, one)

    assert a.at == b.at == max(one.at, other.at)
    assert a.count == pytest.approx(b.count)
    assert a.wall.buckets == pytest.approx(b.wall.buckets)
    assert a.memory.total == pytest.approx(b.memory.total)


@hypothesis.given(parts=st.lists(profiles, min_size=2, max_size=6), split=st.integers(1, 5))
def test_merging_may_be_grouped(parts: list[Profile], split: int) -> None:
    """Processes may add up what they know in any groups, as long as what they know is of one time."""
    same = [each.scaled(1.0) for each in parts]
    for each in same:
        each.at = 7
    split = min(split, len(same) - 1)

    def together(some: list[Profile]) -> Profile:
        found = some[0]
        for each in some[1:]:
            found = profile.merge(found, each)
        return found

    all_at_once = together(same)
    in_groups = profile.merge(together(same[:split]), together(same[split:]))
    assert all_at_once.count == pytest.approx(in_groups.count)
    assert all_at_once.wall.total == pytest.approx(in_groups.wall.total)


def test_what_is_old_counts_less() -> None:
    """After a half-life the old counts half beside what is new; where nothing new comes, nothing is forgotten."""
    old = known(*[1.0] * 64, at=0)

    found = profile.merge(old, known(*[4.0] * 64, at=2 * HOUR))

    assert found.count == pytest.approx(64 / 4 + 64)
    assert found.wall.mean == pytest.approx((16 * 1.0 + 64 * 4.0) / 80)
    assert old.wall.quantile(0.5) == pytest.approx(1.0, rel=0.03)


def test_a_profile_is_bounded() -> None:
    """Of each quantity many count as `MOST`, so that new ones still move it; and it does not grow with their number."""
    found = known(1.0)
    for number in range(200):
        found = profile.merge(found, known(*[1.0 + number % 7] * 100, at=number * 1000))
    later = profile.merge(found, known(*[1e-3] * 1000, at=200_000))
    wide = seen(*[2.0**power for power in range(-400, 400)], 0.0)

    assert found.count == pytest.approx(20_001, rel=0.1)
    assert [found.wall.weight, found.size.weight] == pytest.approx([profile.MOST] * 2)
    assert later.wall.quantile(0.49) < 0.01
    assert len(wide.buckets) <= 1602
    assert len(profile.encode(known(*[0.1] * 1000, cpu=0.1, memory=1e6))) < 300


def test_what_is_reserved_is_aged() -> None:
    """After a half-life half of it is left; the larger one counts, is bounded, and stays where others learn more."""
    raised = Profile(at=HOUR, reserved=8 * 2**30, raised=HOUR)

    found = profile.merge(profile.merge(raised, known(1.0, at=2 * HOUR)), known(1.0, at=3 * HOUR))
    larger = profile.merge(found, Profile(at=3 * HOUR, reserved=3 * 2**30, raised=3 * HOUR))
    most = profile.merge(found, Profile(at=3 * HOUR, reserved=2**60))
    many = profile.merge(found, known(*[1.0] * 5000, at=3 * HOUR))

    assert (found.reserved, found.raised, found.count > 1) == (2 * 2**30, HOUR, True)
    assert found.reserved_at(4 * HOUR) == 2**30
    assert found.reserved_at(0) == found.reserved
    assert (larger.reserved, larger.raised) == (3 * 2**30, 3 * HOUR)
    assert most.reserved == profile.MOST_RESERVED
    assert many.reserved == found.reserved
    assert profile.decode(profile.encode(found)) == found


def test_what_is_reserved_is_known_of_branches() -> None:
    """The function that needs most decides; also of branches of which nothing else is known."""
    short = Profile(reserved=5, raised=1)

    found = profile.of_branches({("a", "b"): 1}, {"a": known(1.0), "b": short})
    assert found == profile.Learned(executions=0.0, wall=0.0, cpu=None, memory=None, reserved=5)
    both = profile.of_branches({("a",): 1}, {"a": profile.merge(known(1.0), short)})
    assert both is not None
    assert (both.executions, both.reserved) == (1.0, 5)


def test_a_profile_travels() -> None:
    """What is stored is read again; what a release cannot read is nothing."""
    found = known(0.5, 1.0, at=12, cpu=0.25, memory=3e6, waits=0.1)

    assert profile.decode(profile.encode(found)) == found
    assert profile.decode(b"\xc1") == profile.decode(b"\x01") == Profile()


def test_what_is_known_of_branches() -> None:
    """Times add up along a branch and are averaged over branches; the neediest function decides on memory."""
    all_known = {"a": known(1.0, 1.0, cpu=0.5, memory=100.0), "b": known(3.0, cpu=0.0, memory=1000.0)}

    found = profile.of_branches({("a", "b"): 1, ("a",): 3}, all_known)

    assert found is not None
    assert (found.executions, found.wall, found.cpu) == (1.0, (4.0 + 3 * 1.0) / 4, 0.5)
    assert found.memory is not None
    assert found.memory == pytest.approx(1000, rel=0.03)


def test_a_wait_for_others_is_known_of_branches() -> None:
    """It adds up as the times do, stays while others see none, and is none where nobody could tell."""
    merged = profile.merge(known(1.0, waits=0.5), known(1.0, waits=0.25, at=1))
    older = profile.merge(known(1.0, waits=0.5), known(1.0))

    found = profile.of_branches({("a", "b"): 1, ("a",): 1}, {"a": known(1.0, waits=0.5), "b": known(2.0)})
    assert found is not None
    assert (found.wall, found.waits) == (2.0, 0.5)
    assert merged.waits.mean == pytest.approx(0.375, rel=1e-3)
    assert (older.waits.mean, older.scaled(0.5).waits.mean) == (0.5, 0.5)


def executed(times: int, seconds: float, cpu: float | None = None, at: int = 0) -> Profile:
    """Known of so many executions that took so long each."""
    return known(*[seconds] * times, at=at, cpu=cpu)


FETCH_OR_RARE = ("route", Choice((("fetch",), ("rare",))))


def test_of_a_choice_one_is_taken() -> None:
    """Each counts as often as it was executed, lately; what never was does not while another was."""
    often = {"route": executed(1000, 0.0, 0.0), "fetch": executed(999, 0.1, 0.001)}
    once = often | {"rare": executed(1, 20.0, 20.0)}
    since = often | {"fetch": profile.merge(often["fetch"], executed(999, 0.1, 0.001, at=10 * HOUR))}

    never, found, later = (
        profile.of_branches({FETCH_OR_RARE: 3}, each) for each in (often, once, since | {"rare": once["rare"]})
    )
    assert never is not None
    assert found is not None
    assert later is not None
    assert (never.wall, never.cpu, never.executions) == pytest.approx((0.1, 0.001, 999))
    assert (found.wall, found.cpu, found.executions) == pytest.approx((0.1199, 0.020999, 1000))
    assert later.wall < 0.101
    assert profile.of_branches({FETCH_OR_RARE: 3}, {"route": executed(9, 0.0)}) is None
    assert profile.of_branches({FETCH_OR_RARE: 3}, {"fetch": executed(9, 0.0)}) is None
    long_ago = {"route": executed(9, 0.0, at=10**6 * HOUR), "fetch": executed(9, 0.5)}
    assert (profile.of_branches({FETCH_OR_RARE: 3}, long_ago) or never).wall == 0.5


def test_what_a_choice_executes_elsewhere_takes_nothing_here() -> None:
    """A step that parks the branch has no functions here: it is taken whenever no other step is."""
    choice = ("route", Choice((("fetch",), ())), "last")
    seen = {"route": executed(100, 0.5), "fetch": executed(25, 4.0), "last": executed(100, 1.0)}

    found, alone = (profile.of_branches({choice: 2}, each) for each in (seen, seen | {"fetch": Profile()}))
    assert found is not None
    assert alone is not None
    assert (found.wall, found.executions, alone.wall) == (2.5, 100, 1.5)
    assert profile.of_branches({(Choice((("fetch",), ())),): 2}, seen) is not None


def often(batches: int, times: int, seconds: float) -> Profile:
    """Known of so many executions in each of so many batches, a tenth of a second apart, as workers learn them."""
    found = executed(times, seconds)
    for number in range(1, batches):
        found = profile.merge(found, executed(times, seconds, at=100 * number))
    return found


def test_how_often_something_is_executed_has_no_bound() -> None:
    """A step that is rare beside another is rare beside many executions too, as is what is executed here at all."""
    route, quick, rare = often(1000, 100, 0.0), often(990, 100, 0.001), often(1000, 1, 2.0)
    here = {"route": route, "here": often(1000, 10, 1.0)}

    both = profile.of_branches(
        {("route", Choice((("quick",), ("rare",)))): 1000}, {"route": route, "quick": quick, "rare": rare}
    )
    seldom = profile.of_branches({("route", Choice((("here",), ()))): 1000}, here)
    assert both is not None
    assert seldom is not None
    assert both.wall == pytest.approx(0.99 * 0.001 + 0.01 * 2.0, rel=0.05)
    assert seldom.wall == pytest.approx(0.1, rel=0.05)


def test_a_profile_of_another_release_is_read() -> None:
    """What it has besides is left out; bounded or not, it is merged with news. With other buckets it counts as none."""
    wall = [500.0, {-16: 1000.0}]
    other = {"at": 7, "count": 1000.0, "wall": wall, "formerly": [1]}
    former = other | {"wall": {"total": 500.0, "buckets": {-4: 1000.0}}}

    found = profile.decode(msgspec.msgpack.encode(other))
    merged = profile.merge(found, executed(3000, 0.5, at=7))

    assert (found.count, found.wall.mean, found.cpu.buckets) == (1000.0, 0.5, {})
    assert merged.count == pytest.approx(4000)
    assert merged.wall.weight == pytest.approx(profile.MOST)
    assert profile.decode(msgspec.msgpack.encode(former)) == Profile()


chains_of = st.recursive(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(tuple),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: ("r", Choice(tuple(parts)), "z")),
    max_leaves=6,
)


@hypothesis.given(
    chain=chains_of,
    seen_of=st.fixed_dictionaries({name: st.tuples(st.integers(0, 50), st.floats(0, 100)) for name in "abcdrz"}),
)
def test_a_branch_takes_no_more_than_its_longest_way(chain: Chain[str], seen_of: dict[str, tuple[int, float]]) -> None:
    """What it is known to take lies between its shortest way and its longest, of those that are known throughout."""
    all_known = {name: executed(times, seconds) for name, (times, seconds) in seen_of.items() if times}

    def ways(chain: Chain[str]) -> list[list[str]]:
        found: list[list[str]] = [[]]
        for link in chain:
            more = [way for each in link.chains for way in ways(each)] if isinstance(link, Choice) else [[link]]
            found = [before + after for before in found for after in more]
        return found

    walls = [sum(seen_of[name][1] for name in way) for way in ways(chain) if set(way) <= all_known.keys()]
    learned = profile.of_branches({chain: 1}, all_known)

    assert (learned is None) == (not walls)
    if learned is not None:
        assert min(walls) * (1 - 1e-9) <= learned.wall <= max(walls) * (1 + 1e-9)


def test_what_is_not_known_of_branches() -> None:
    """One unknown function makes a branch unknown; CPU time and memory may be unknown by themselves."""
    assert profile.of_branches({("a", "b"): 2}, {"a": known(1.0)}) is None
    assert profile.of_branches({("a",): 2}, {"a": Profile()}) is None
    assert profile.of_branches({(): 2}, {}) is None

    found = profile.of_branches({("a",): 2}, {"a": known(1.0)})
    assert found is not None
    assert (found.cpu, found.memory) == (None, None)

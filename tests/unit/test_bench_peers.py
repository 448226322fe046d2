"""The pure parts of the benchmark against the peers: medians, pairs, makespans, plans, tables, and verdicts."""

from __future__ import annotations

import ast
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers import cases, estimate, host, makespan, memory, peers, plan, results, serve, tables, targets
from bench.peers.__main__ import took
from bench.peers.cases import Case
from bench.peers.harness import Harness, brief, grouped
from bench.peers.peers import OURS
from bench.peers.plan import Round
from bench.peers.protocol import Setup, Unsupported, Work
from bench.peers.results import SECONDS, Results
from bench.peers.work import leaves

FOLDER = Path(peers.__file__).parent


def measured(values: dict[str, dict[str, list[float]]]) -> Results:
    """Results with one round of each case, by case and peer."""
    found = Results({"date": "today"})
    found.peers = {
        name: {"title": peer.title, "note": peer.note, "versions": {}, "missing": ""}
        for name, peer in peers.load().items()
    }
    found.cases = {case.name: case.as_dict() for case in cases.every()}
    for case, by_peer in values.items():
        for peer, taken in by_peer.items():
            found.add(case, peer, 1, {SECONDS: taken})
    return found


def rounds(*values: list[float]) -> results.Rounds:
    """Rounds of these values, numbered from 1."""
    return dict(enumerate(values, 1))


def target(found: Results, name: str) -> targets.Target:
    """The target whose name begins so."""
    (only,) = [each for each in targets.targets(found) if each.line.name.startswith(name)]
    return only


def everything(_case: Case) -> bool:
    """Every case is wanted."""
    return True


def test_a_round_with_more_values_counts_no_more() -> None:
    """The figure is the median of the rounds' medians."""
    assert results.middle(rounds([1.0, 1.0, 1.0, 1.0], [3.0], [5.0])) == 3.0
    assert results.middle({}) is None


def test_the_spread_is_of_all_values() -> None:
    """The least and the largest of any round."""
    assert results.spread(rounds([2.0, 1.0], [7.0])) == (1.0, 7.0)


def test_ratios_are_paired_by_round() -> None:
    """A slow minute meets both sides of a round, so that it leaves their ratio alone."""
    assert results.paired(rounds([1.0], [10.0], [1.0]), rounds([2.0], [20.0], [2.0])) == [0.5, 0.5, 0.5]


def test_rounds_are_paired_by_their_number_alone() -> None:
    """A round that one side lacks is no pair, and neither are two rounds that both come second."""
    assert results.paired({1: [1.0], 3: [9.0]}, {1: [2.0], 2: [1.0], 4: [3.0]}) == [0.5]


def test_rounds_that_do_not_match_make_no_factor() -> None:
    """What was measured at different times is not divided, however many values there are."""
    assert results.paired({1: [1.0], 2: [1.0]}, {3: [2.0], 4: [2.0]}) == []
    assert results.paired({}, rounds([4.0])) == []


@pytest.mark.parametrize(("share", "value"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    """The least value that so many do not exceed."""
    assert results.percentile([float(each) for each in range(100, 0, -1)], share) == value


def test_no_schedule_beats_the_bound() -> None:
    """The work shared evenly, or the longest branch: what is larger."""
    assert makespan.bound([1.0, 1.0, 1.0, 1.0], 2) == 2.0
    assert makespan.bound([5.0, 1.0], 2) == 5.0
    assert makespan.bound([], 2) == 0.0


def test_a_sliding_window_starts_the_next_branch_when_a_slot_is_free() -> None:
    """Each branch in its turn, in the slot that is free first."""
    assert makespan.sliding([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert makespan.sliding([1.0, 1.0, 3.0], 2) == 4.0


def test_the_skewed_durations_can_be_done_in_nearly_the_ideal() -> None:
    """What misses the ideal by more than a hundredth is the peer's doing and not that of the durations' order."""
    durations = cases.durations()

    assert makespan.sliding(durations, cases.CAP) <= 1.01 * makespan.bound(durations, cases.CAP)
    assert max(durations) > 10 * sorted(durations)[len(durations) // 2]


@pytest.mark.parametrize(
    ("known", "seconds"),
    [
        ([], 0.0),
        ([(10.0, 1.0)], 0.0),
        ([(100.0, 2.0), (0.0, 1.0)], 11.0),
        ([(1.0, 9.0), (10.0, 1.0), (100.0, 1.9)], 10.9),
        ([(10.0, 2.0), (100.0, 1.0)], 1.0),
    ],
)
def test_what_grows_is_extrapolated_from_the_two_largest(known: list[tuple[float, float]], seconds: float) -> None:
    """A fixed part, such as a start, does not count as growing; noise does not make it shrink."""
    assert makespan.extrapolated(known, 1000.0) == pytest.approx(seconds)


def test_cases_are_grouped_by_their_cluster() -> None:
    """Each cluster is started once a round, wherever its cases stand."""
    groups = grouped(cases.every())

    assert all(len({str(case.setup) for case in group}) == 1 for group in groups)
    assert len({str(group[0].setup) for group in groups}) == len(groups)
    assert sum(map(len, groups)) == len(cases.every())


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(function="spin", item=0.01, count=100), 0.5),
        (Work(function="doze", item=0.1, count=100), 1.25),
        (Work(function="asleep", item=1.0, count=1000), 5.0),
        (Work(function="doze", item=0.1, count=100, cap=1), 10.0),
        (Work(count=1000), 0.0),
        (Work(kind="share", function="measure", size=9, count=3), 0.0),
    ],
)
def test_what_would_take_too_long_is_known_beforehand(work: Work, seconds: float) -> None:
    """Two processes with four threads or a hundred coroutines each take at least this long."""
    assert cases.shortest(work, 2, width=4, async_width=100) == pytest.approx(seconds)


def test_every_figure_to_reach_is_made_of_known_cases_and_peers() -> None:
    """What the table of figures needs is in the catalogue."""
    names, known = {case.name for case in cases.every()}, peers.load()

    assert all(case in names and peer in known for case, peer in plan.needed())


def test_both_sides_of_a_figure_are_in_one_round_each_time() -> None:
    """Five times, whatever else is measured, in a round of that pair alone, and in turn the first."""
    found = list(plan.figures(peers.load(), cases.every(), everything, times=5))
    for line in targets.LINES:
        sides = line.needs
        with_both = [
            [peer.name for peer, _ in each.turns]
            for each in found
            if sides <= {(case.name, peer.name) for peer, several in each.turns for case in several}
        ]

        assert len(with_both) == 5, line.name
        if line.peer is not None:
            assert with_both == [[OURS, line.peer], [line.peer, OURS]] * 2 + [[OURS, line.peer]]


def test_no_two_rounds_have_one_number() -> None:
    """So that nothing is paired that was not measured together, before and after what is added."""
    first = list(plan.figures(peers.load(), cases.every(), everything, times=2, first=7))
    second = list(plan.wide(peers.load(), cases.every(), everything, times=2, first=7 + len(first)))
    numbers = [each.number for each in (*first, *second)]

    assert numbers == list(range(7, 7 + len(numbers)))


def test_the_figures_come_first_and_all_else_after_them() -> None:
    """Every case of every peer is measured, once that is not part of a figure; who is slow comes last."""
    known, every = peers.load(), cases.every()
    (wide,) = plan.wide(known, every, everything, times=1)
    planned = {(case.name, peer.name) for peer, several in wide.turns for case in several}

    assert planned | plan.needed() == {(case.name, peer) for case in every for peer in known}
    assert planned & plan.needed() == set()
    assert [peer.seldom for peer, _ in wide.turns] == sorted(peer.seldom for peer, _ in wide.turns)


def test_only_what_is_wanted_is_planned() -> None:
    """A round that would have nothing to measure is none."""
    known = {name: peer for name, peer in peers.load().items() if name in (OURS, "dask")}
    found = list(plan.figures(known, cases.every(), lambda case: case.workload == "trivial", times=1))

    assert [[peer.name for peer, _ in each.turns] for each in found] == [[OURS]] * 4
    assert list(plan.figures(known, cases.every(), lambda case: case.workload == "nested", times=1)) == []


def test_what_is_not_begun_in_time_says_so() -> None:
    """A case that has no value is in the table with the reason, and one that was measured is left alone."""
    found = measured({"trivial-3": {OURS: [1.0]}})
    peer, every = peers.load()[OURS], {case.name: case for case in cases.every()}
    said: list[str] = []
    harness = Harness(
        results=found,
        interpreters={},
        folder=Path(),
        mark="none",
        page="",
        cap=1.0,
        until=0.0,
        limit="the time of 3 minutes",
        say=said.append,
    )
    harness.run([Round(number=2, title="late", turns=((peer, (every["trivial-3"], every["http"])),))])

    assert found.skipped == {"http": {OURS: "not begun: the time of 3 minutes was over"}}
    assert "the time of 3 minutes is over: what was measured is kept" in said


@pytest.mark.parametrize(
    ("name", "amount", "least"), [("trivial-10000", 10_000, 15.0), ("memory", 1000, 1.5), ("beside", 100_000, 150.0)]
)
def test_what_grows_with_its_branches_is_not_begun_beyond_the_cap(name: str, amount: int, least: float) -> None:
    """Going by smaller blocks of trivial branches, whatever the branches do."""
    found = measured({"trivial-10": {"ray": [0.015]}, "trivial-100": {"ray": [0.15]}})
    harness = Harness(
        results=found,
        interpreters={},
        folder=Path(),
        mark="none",
        page="",
        cap=1.0,
        until=time.monotonic() + 60,
        say=str,
    )
    (case,) = [case for case in cases.every() if case.name == name]

    assert (case.large or case.work).count == amount
    assert not harness._wanted(peers.load()["ray"], case)
    assert found.skipped[name]["ray"] == f"would take {least:.0f} s or more, and the cap is 1 s"


def test_a_slow_peer_does_a_case_once() -> None:
    """Without warming, but for one small run before many of them."""
    by_name = {case.name: brief(case) for case in cases.every()}

    assert {case.repeats for case in by_name.values()} == {1}
    assert {name for name, case in by_name.items() if case.warm} == {"runs"}
    assert by_name["runs"].warm == 1


def test_an_estimate_goes_by_what_was_measured() -> None:
    """A start, warming and repetitions as long as they last, and nothing for what the cap keeps out."""
    peer, every = peers.load()["ray"], {case.name: case for case in cases.every()}
    before = measured({"cpu-10ms": {"ray": [1.0]}, "trivial-1000": {"ray": [20.0]}})
    before.peers["ray"]["start"] = 10.0

    def told(*names: str) -> float:
        turn = (peer, tuple(every[name] for name in names))
        return estimate.seconds([Round(number=1, title="", turns=(turn,))], before, cap=12.0)

    only = told("cpu-10ms") - told("trivial-1000")
    assert only == pytest.approx(4.0, abs=0.5)
    assert told("trivial-1000") == pytest.approx(11.0)


def test_an_estimate_needs_no_earlier_measurement() -> None:
    """On a machine where nothing was measured, all of it takes some time, and not hours."""
    known, every = peers.load(), cases.every()
    planned = [*plan.figures(known, every, everything, times=5), *plan.wide(known, every, everything, times=1)]

    assert 600 < estimate.seconds(planned, Results({}), cap=12.0) < 3600


def test_names_of_cases_are_unique() -> None:
    """A case is chosen and recorded by its name."""
    names = [case.name for case in cases.every()]

    assert len(names) == len(set(names))


def test_a_quick_case_is_small() -> None:
    """To see that all works takes seconds: few branches, short waits, little data."""
    for case in cases.every(quick=True):
        assert case.work.count <= 8
        assert case.work.size <= 100_000
        assert case.ideal is None or case.ideal < 1.0


def test_every_peer_is_pinned_and_has_its_driver() -> None:
    """Each package has one version, and each driver is a module with a class of that name."""
    for peer in peers.load().values():
        assert all("==" in package for package in peer.packages)
        tree = ast.parse((FOLDER / "drivers" / f"{peer.driver}.py").read_text("utf-8"))
        assert "Driver" in [each.name for each in tree.body if isinstance(each, ast.ClassDef)]


def test_what_runs_beside_a_peer_needs_the_standard_library_only() -> None:
    """A peer's environment has nothing of this package's."""
    for name in ("serve", "work", "protocol", "results"):
        tree = ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))
        imported = {
            (each.module or "") if isinstance(each, ast.ImportFrom) else each.names[0].name
            for each in ast.walk(tree)
            if isinstance(each, (ast.Import, ast.ImportFrom))
        }
        assert not any(module.startswith(("egregore_dist", "redis", "psutil", "click")) for module in imported)


def test_leaves_are_counted_in_dicts_and_lists() -> None:
    """However a peer nests its results, as many as there were branches have to come back."""
    assert leaves({"a": 1, "b": {"c": [1, 1], "d": "text"}}) == 4
    assert leaves([]) == 0


def test_results_are_kept_and_read_again(tmp_path: Path) -> None:
    """Every step is on disk, so that an interruption loses none."""
    kept = Results({"date": "today"}, tmp_path / "results.json")
    kept.add("trivial-3", OURS, 4, {SECONDS: [1.0, 2.0]})
    kept.skip("trivial-3", "ray", "why not")
    kept.account = {"cores": 2.0}
    kept.keep()

    found = Results.read(tmp_path / "results.json")
    assert found.as_dict() == kept.as_dict()
    assert (found.rounds("trivial-3", OURS), found.last_round()) == ({4: [1.0, 2.0]}, 4)
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_nothing_measured_leaves_what_was_there(tmp_path: Path) -> None:
    """Who interrupts a run before its first value has lost no earlier one."""
    file = tmp_path / "results.json"
    Results({"date": "before"}, file).add("trivial-3", OURS, 1, {SECONDS: [1.0]})

    Results({"date": "after"}, file).keep()

    assert Results.read(file).about == {"date": "before"}


def test_a_case_can_be_measured_anew() -> None:
    """What is forgotten of a case is forgotten for that peer alone."""
    found = measured({"trivial-3": {OURS: [1.0], "ray": [2.0]}})
    found.skip("trivial-3", OURS, "why not")
    found.forget("trivial-3", OURS)

    assert (found.median("trivial-3", OURS), found.median("trivial-3", "ray")) == (None, 2.0)
    assert found.skipped["trivial-3"] == {}


@pytest.mark.parametrize(("ours", "reached"), [(0.002, True), (0.5, False)])
def test_a_target_is_held_against_its_figure(ours: float, reached: bool) -> None:
    """Our time over the peer's, and whether that is at most what was asked for."""
    found = target(measured({"trivial-1000": {OURS: [ours], "celery": [1.0]}}), "1000 trivial branches / a Celery")

    assert (found.value, found.reached) == (ours, reached)


def test_a_target_that_was_not_measured_has_no_verdict() -> None:
    """Nothing measured is not a success."""
    found = target(measured({"trivial-1000": {OURS: [1.0]}}), "1000 trivial branches / a Celery")

    assert (found.value, found.reached, found.missing) == (None, None, "not measured")


def test_a_target_without_a_pair_has_no_verdict() -> None:
    """Two sides that were never measured in one round make no figure, and the page says so."""
    found = measured({"trivial-1000": {OURS: [0.001]}})
    found.add("trivial-1000", "celery", 2, {SECONDS: [1.0]})
    only = target(found, "1000 trivial branches / a Celery")

    assert (only.value, only.reached, only.missing) == (None, None, "no round has both")
    assert "| 1000 trivial branches / a Celery chord | no round has both |  | 0 | 0.02 times |  |" in tables.page(found)


def test_a_target_is_the_median_of_its_pairs() -> None:
    """One value for each round that has both sides."""
    found = measured({"trivial-1000": {OURS: [0.01], "celery": [1.0]}})
    found.add("trivial-1000", OURS, 2, {SECONDS: [0.09]})
    found.add("trivial-1000", OURS, 3, {SECONDS: [0.02]})
    found.add("trivial-1000", "celery", 3, {SECONDS: [1.0]})

    assert target(found, "1000 trivial branches / a Celery").values == [0.01, 0.02]


def test_time_a_branch_is_that_of_one_branch() -> None:
    """A hundred times as many branches may take a hundred times as long."""
    found = target(measured({"trivial-1000": {OURS: [1.0]}, "trivial-100000": {OURS: [120.0]}}), "time a branch")

    assert found.value == pytest.approx(1.2)


def test_skewed_durations_are_held_against_the_ideal() -> None:
    """The makespan over what nobody can beat."""
    found = measured({"skewed": {OURS: [2.0 * makespan.bound(cases.durations(), cases.CAP)]}})

    assert target(found, "skewed").value == pytest.approx(2.0)


def test_the_targets_are_those_that_were_asked_for() -> None:
    """What is to be reached is not softened."""
    asked = [0.02, 0.10, 0.10, 0.45, 1.3, 1.3, 0.7, 1.08, 1.10, 0.65, 10.0, 3.0, 1.05]

    assert [each.line.most for each in targets.targets(measured({}))] == asked


def test_the_page_shows_medians_spread_and_what_is_missing() -> None:
    """A peer that has no value is named with the reason."""
    found = measured({"trivial-1000": {OURS: [0.02, 0.03, 0.04], "celery": [4.0]}})
    found.skip("trivial-1000", "prefect-threads", "would take 99 s or more")
    found.peers["ray"] |= {"missing": "no such version"}
    page = tables.page(found)

    assert "| egregore-dist | 30 ms (20 ms to 40 ms), n=1 |" in page
    assert "| 1000 trivial branches / a Celery chord | 0.0075 times |  | 1 | 0.02 times | yes |" in page
    assert "- Prefect, threads, `trivial-1000`: would take 99 s or more" in page
    assert "**could not be installed**: no such version" in page


def test_a_table_is_markdown() -> None:
    """A header, a line, and the rows."""
    assert tables.table(["a", "b"], [["c", "1"]]).splitlines() == ["| a | b |", "| --- | ---: |", "| c | 1 |"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python keeper.py --grace 5", None),
        ("/x/ray/core/src/ray/gcs/gcs_server --log", "server"),
        ("ray::trivial", "workers"),
    ],
)
def test_processes_are_told_apart_by_their_command_lines(command: str, expected: str | None) -> None:
    """Servers are not counted as workers, and those that look after others not at all."""
    assert memory.role(command, servers="gcs_server") == expected


def test_what_was_measured_is_named_by_its_commit() -> None:
    """The results say which code and which day they are of, and the page shows it."""
    about = host.describe(["make bench-peers"], "1 of all")

    assert about["commit"]
    assert about["date"].endswith("UTC")
    assert f"- commit: {about['commit']}" in tables.page(Results(about))


class Large:
    """A driver that tells what is left of its large block, whose results come when it has told all."""

    def __init__(self, lefts: list[int | None]) -> None:
        self.lefts = lefts
        self.told = threading.Event()

    def start(self, setup: Setup) -> None:
        raise NotImplementedError

    def prepare(self, work: Work) -> Callable[[], object]:
        def call() -> object:
            if work.count > 3:
                assert self.told.wait(30.0)
            return [1] * work.count

        return call

    def settle(self) -> None:
        pass

    def left(self) -> int | None:
        if len(self.lefts) == 1:
            self.told.set()
            return self.lefts[0]
        return self.lefts.pop(0)

    def stop(self) -> None:
        pass


def test_small_blocks_are_timed_only_while_the_large_one_runs() -> None:
    """From its first branches until a tenth is left, whatever its client has still to read."""
    found = serve.beside(Large([0, 0, 1000, 600, 99]), Work(count=3), Work(count=1000), repeats=20)

    assert found["left"] == [1.0, 0.6]
    assert len(found[SECONDS]) == 2


def test_a_large_block_that_is_over_too_soon_gives_no_figure() -> None:
    """Nothing is timed beside nothing."""
    with pytest.raises(Unsupported, match="had ended before"):
        serve.beside(Large([0, 50]), Work(count=3), Work(count=1000), repeats=20)


def test_a_peer_that_cannot_tell_is_measured_until_its_client_has_all() -> None:
    """The last small run may have waited for all of the large one."""
    found = serve.beside(Large([None, None, None, None]), Work(count=3), Work(count=1000), repeats=20)

    assert found["left"] == []
    assert 3 <= len(found[SECONDS]) <= 20


def test_what_was_added_does_not_change_how_long_the_rest_took() -> None:
    """Each says it of itself."""
    whole = Results({})
    took(whole, 1200)
    whole.about["added"] = "2026-01-01"
    took(whole, 90)

    assert whole.about == {"took": "20.0 minutes", "added": "2026-01-01, 1.5 minutes"}

"""The pure parts of the benchmark against the peers: medians, makespans, what is chosen, tables, and verdicts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench.peers import cases, makespan, memory, peers, results, tables, targets
from bench.peers.harness import grouped
from bench.peers.peers import OURS
from bench.peers.protocol import Work
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
            found.add(case, peer, {SECONDS: taken})
    return found


def target(found: Results, name: str) -> targets.Target:
    """The target whose name begins so."""
    (only,) = [each for each in targets.targets(found) if each.name.startswith(name)]
    return only


def test_a_round_with_more_values_counts_no_more() -> None:
    """The figure is the median of the rounds' medians."""
    assert results.middle([[1.0, 1.0, 1.0, 1.0], [3.0], [5.0]]) == 3.0
    assert results.middle([]) is None


def test_the_spread_is_of_all_values() -> None:
    """The least and the largest of any round."""
    assert results.spread([[2.0, 1.0], [7.0]]) == (1.0, 7.0)


def test_ratios_are_paired_by_round() -> None:
    """A slow minute meets both sides of a round, so that it leaves their ratio alone."""
    assert results.paired([[1.0], [10.0], [1.0]], [[2.0], [20.0], [2.0]]) == 0.5


def test_rounds_that_do_not_match_are_compared_by_their_medians() -> None:
    """A side that was measured less often is still compared; one that was not at all is not."""
    assert results.paired([[1.0], [3.0]], [[4.0]]) == 0.5
    assert results.paired([], [[4.0]]) is None


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


def test_every_figure_to_reach_has_its_case_by_default() -> None:
    """What the table of figures needs is measured where nothing is chosen."""
    known = peers.load().values()
    names = {(case.name, peer.name) for case in cases.every() for peer in known if case.chosen_by_default(peer)}
    needed: dict[str, list[str]] = {
        "trivial-1000": [OURS, "celery", "ray", "egregore"],
        "trivial-3": [OURS, "celery"],
        "runs": [OURS, "celery"],
        "cpu-10ms": [OURS, "pool"],
    }
    for case in ("trivial-100000", "async", "blocking", "skewed", "beside", "input-50MB-100"):
        needed[case] = [OURS]

    assert {(case, peer) for case, several in needed.items() for peer in several} <= names


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
    kept.add("trivial-3", OURS, {SECONDS: [1.0, 2.0]})
    kept.skip("trivial-3", "ray", "why not")

    assert Results.read(tmp_path / "results.json").as_dict() == kept.as_dict()
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_nothing_measured_leaves_what_was_there(tmp_path: Path) -> None:
    """Who interrupts a run before its first value has lost no earlier one."""
    file = tmp_path / "results.json"
    Results({"date": "before"}, file).add("trivial-3", OURS, {SECONDS: [1.0]})

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

    assert (found.value, found.reached) == (None, None)


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

    assert [each.most for each in targets.targets(measured({}))] == asked


def test_the_page_shows_medians_spread_and_what_is_missing() -> None:
    """A peer that has no value is named with the reason."""
    found = measured({"trivial-1000": {OURS: [0.02, 0.03, 0.04], "celery": [4.0]}})
    found.skip("trivial-1000", "prefect-threads", "would take 99 s or more")
    found.peers["ray"] |= {"missing": "no such version"}
    page = tables.page(found)

    assert "| egregore-dist | 30 ms (20 ms to 40 ms) |" in page
    assert "| 1000 trivial branches / a Celery chord | 0.0075 times | 0.02 times | yes |" in page
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

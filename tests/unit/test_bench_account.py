"""The account of where the time goes: its sums, its profile, and the page that is made of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bench import account, relay, slots
from bench.peers import account_page, accounts, cases, peers
from bench.peers.peers import OURS
from bench.peers.results import SECONDS, Results
from bench.slots import Execution

PARTS = (account.CLIENT, account.MAIN, account.POOL, account.SERVER)


def cost(*, wall: float, part: float, units: int, unit: str = "branch", **others: Any) -> dict[str, Any]:
    """The account of a case of which every part computes as much."""
    return {
        "unit": unit,
        "units": units,
        "seconds": {account.WALL: [wall], account.SCRIPTS: [part / 2], **{name: [part] for name in PARTS}},
        "wakes": {name: [4.0] for name in PARTS},
        "sent": [9.0],
        "modules": {},
        **others,
    }


def measured(values: dict[str, dict[str, list[float]]], **made: Any) -> Results:
    """Results with one round of each case, by case and peer, and the account of some cases."""
    found = Results({"date": "today", "commit": "abc123-dirty", "cores": "2"})
    found.peers = {name: {"title": peer.title} for name, peer in peers.load().items()}
    found.cases = {case.name: case.as_dict() for case in cases.every()}
    for case, by_peer in values.items():
        for peer, taken in by_peer.items():
            found.add(case, peer, 1, {SECONDS: taken})
    found.account = {
        "cores": 2.0,
        "profiler": "",
        "cases": {name.replace("_", "-"): one for name, one in made.items()},
        "limits": {
            "relay": {"seconds": [0.0005], "wakes": relay.WAKES, "sent": relay.SENT},
            "task": {"seconds": [0.002]},
        },
    }
    return found


def test_the_parts_of_a_makespan_are_all_of_it() -> None:
    """Two slots, four branches of a second, one of which takes longer and leaves the other slot free at the end."""
    executions = [Execution(10.5, 11.5), Execution(10.6, 11.7), Execution(11.6, 12.6), Execution(11.8, 13.8)]
    parts = slots.parts(executions, asked=4.0, slots=2, submitted=10.0, ended=14.0, wall=4.25)

    assert sum(parts.values()) == pytest.approx(4.25)
    assert [round(value, 6) for value in parts.values()] == [2.0, 0.55, 0.15, 0.6, 0.5, 0.2, 0.25]


def test_slots_that_nobody_needs_are_free_from_the_last_start_on() -> None:
    """Before the last branch began there was one left to take."""
    executions = [Execution(0.0, 1.0), Execution(0.0, 4.0)]
    parts = slots.parts(executions, asked=5.0, slots=3, submitted=0.0, ended=4.0, wall=4.0)

    assert sum(parts.values()) == pytest.approx(4.0)
    assert parts["slots that were free at the end, when none was left"] == pytest.approx((3.0 + 4.0) / 3)
    assert parts["slots that were free while branches were left"] == pytest.approx(0.0)


def test_samples_count_for_the_innermost_module_of_the_package() -> None:
    """A library's time is that of who called it, and what no module is part of is told by itself."""
    sampled = account.shares(
        [
            "run (/x/celery/app.py:1);serve (/x/egregore_dist/engine/lane.py:5);loads (/x/msgspec/json.py:1) 6",
            "run (/x/celery/app.py:1);call (/y/egregore_dist/ledger/calls.py:7) 3",
            "run (/x/celery/app.py:1) 1",
        ]
    )

    assert sampled == [("engine.lane", 0.6), ("ledger.calls", 0.3), (account.OUTSIDE, 0.1)]


def test_some_cases_are_always_accounted_for_and_others_when_they_are_missed() -> None:
    """Whatever is not reached has an account, where there can be one."""
    reached = measured({"cpu-10ms": {OURS: [1.0], "pool": [1.0]}})
    missed = measured({"cpu-10ms": {OURS: [1.2], "pool": [1.0]}, "beside": {OURS: [9.0]}})

    among = {case.name for case in cases.every()}

    assert accounts.wanted(reached, among) == list(accounts.ALWAYS)
    assert accounts.wanted(missed, among) == [*accounts.ALWAYS, "cpu-10ms"]
    assert accounts.wanted(missed, {"trivial-3", "http"}) == ["trivial-3"]


def test_a_missed_figure_says_how_far_why_and_how_near_the_limit() -> None:
    """With the peer's budget, the parts that compute, the modules, and the limits of the cores and of the machine."""
    made = cost(
        wall=60e-6, part=20e-6, units=1000, modules={account.POOL: [["engine.lane", 12e-6], ["wire.codec", 3e-6]]}
    )
    found = measured({"trivial-1000": {OURS: [0.06], "celery": [2.0], "pool": [0.08]}}, trivial_1000=made)
    page = account_page.page(found)

    assert "### 1000 trivial branches / a Celery chord" in page
    assert "0.03 times where 0.02 times is asked: 1.50 of what it may be (one round)" in page
    assert "takes 2 ms a branch, so that 40 µs are left; this package takes 60 µs" in page
    assert "of the 120 µs that 2 cores have in the 60 µs of a branch: client 20 µs (17%)" in page
    assert "33% of it nobody computes" in page
    assert "`engine.lane` in the worker, its pool 12 µs" in page
    assert "what a branch computes would take 40 µs; it takes 1.50 times that. The figure would be 0.02 where" in page
    assert "takes 80 µs a branch; this package takes 0.75 times that" in page


def test_a_run_of_three_is_held_against_the_least_that_it_has_to_do() -> None:
    """The handing over alone, a task of plain Celery, and how often somebody was woken."""
    made = cost(wall=6e-3, part=1e-3, units=1, unit="run")
    page = account_page.page(measured({"trivial-3": {OURS: [6e-3], "celery": [10e-3]}}, trivial_3=made))

    assert "handed over 7 times, as the least needs, with 3 messages to the server and nothing done on the way" in page
    assert "A run takes 6 ms: 12.0 times the former, 3.00 the latter. What all parts compute for it" in page
    assert "most of it one after the other, is 4 ms." in page
    assert "the server is sent 9.0 messages of 3" in page
    assert "worker, its pool 4.0 of 2" in page


def test_a_missed_makespan_is_told_as_a_sum() -> None:
    """What the slots lost, the largest part first, and the sum in a table."""
    spans = [{"the work itself, shared evenly": 1.0, "before the first branch began": 0.1, "slots that were free": 0.4}]
    made = cost(wall=1.5, part=0.01, units=1, unit="run", makespan=spans)
    bound = cases.makespan.bound(cases.durations(), cases.CAP)
    page = account_page.page(measured({"skewed": {OURS: [1.2 * bound]}}, skewed=made))

    said = "of 1.5 s with 1 s for the work itself, shared evenly: slots that were free 400 ms; before the first branch"
    assert said in page
    assert "| *together* | 1.5 s |" in page
    assert "a window that slides without any delay takes 1." in page


def test_the_page_names_what_was_measured_when() -> None:
    """The commit and the date, as the results have them."""
    page = account_page.page(measured({}))

    assert "- commit: abc123-dirty" in page
    assert "None was measured." in page


def test_what_is_reached_needs_no_explanation() -> None:
    """It is not among the figures that are not reached."""
    page = account_page.page(measured({"trivial-1000": {OURS: [0.01], "celery": [1.0]}}))

    assert "All that were measured are reached." in page
    assert "### 1000 trivial branches / a Celery chord" not in page
    assert "- 1000 trivial branches / Ray: not measured" in page


def test_without_an_account_the_page_says_why() -> None:
    """A profiler that may not look, or an account that failed, is told and not left out."""
    found = measured({"trivial-1000": {OURS: [0.9], "celery": [1.0]}})
    found.account = {"missing": "it did not end within 420 s"}

    assert "no account was made. it did not end within 420 s" in account_page.page(found)

    found = measured({}, trivial_1000=cost(wall=1.0, part=0.1, units=1000))
    found.account["profiler"] = "py-spy is not installed"
    assert "By module nothing is known: py-spy is not installed." in account_page.page(found)


def test_no_figure_of_the_page_is_written_into_its_source() -> None:
    """With nothing measured there is no number on it, but for the names of the figures."""
    before, _, _ = account_page.page(Results({})).partition("### Not measured")

    assert before
    assert re.findall(r"\d", before) == []


def test_modules_are_told_with_what_they_are() -> None:
    """The first line of a module's docstring stands beside it."""
    made = cost(wall=1.0, part=0.1, units=1000, modules={account.POOL: [["engine.lane", 0.2], [account.REST, 0.3]]})
    page = account_page.page(measured({}, trivial_1000=made))
    first, last = [line for line in page.splitlines() if "its pool | `" in line]

    assert re.search(r"\| 200 ms \| worker, its pool \| `engine.lane` \| \w+", first)
    assert last == "| 300 ms | worker, its pool | `all others` |  |"

"""A run while it goes on, as it is printed."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from egregore_dist.cli import redact, watching
from egregore_dist.cli.levels import Pace
from egregore_dist.client.events import FailedCall, Spent
from egregore_dist.ledger import RunRecord
from tests.unit.cli.test_levels import BLOCK, NESTED, of
from tests.unit.client.stories import event

RECORD = RunRecord(id="order-42", state="running", workflow="nightly", created=0.5, started=0.8, ended=None)


def shown(record: RunRecord = RECORD, *, done: int = 4, state: str = "open") -> str:
    """The tree of a run after five seconds, as text."""
    found = of(replace(BLOCK, done=done, state=state, ended=None if state == "open" else 4000), NESTED)
    pace, out = Pace(), io.StringIO()
    pace.look(5.0, found)
    Console(file=out, width=140, markup=False, highlight=False).print(watching.tree(record, 5.0, found, pace))
    return out.getvalue()


def test_the_tree() -> None:
    """A run and its levels, with how far and how fast they are, and about how long it will take."""
    head, outer, inner = shown().splitlines()

    assert head == "order-42  nightly  running  4.5 s"
    assert outer.split("━")[0].strip() == "├── pages" or outer.split("━")[0].strip() == "└── pages"
    assert "4/10  1 failed  2 running  1/s  about 6.0 s left  4.0 s" in outer
    assert "images" in inner
    assert "3/3  ok  1.0 s" in inner


def test_what_has_ended_has_no_rate() -> None:
    """A level that has ended says how, and how long it took."""
    outer = shown(replace(RECORD, state="failed", ended=4.0), state="error").splitlines()[1]

    assert "4/10  1 failed  error  3.0 s" in outer
    assert "left" not in outer


def test_a_run_that_nobody_serves_yet() -> None:
    """A run that has not begun says what it waits for."""
    assert "waits for a worker" in shown(replace(RECORD, state="pending", started=None))


def test_an_event_in_a_line() -> None:
    """An event says when, what, where, of which branches, and who did it."""
    names = {"0.0-1": "pages"}
    told = {"failed": (12, 13), "nodes": {12: "load", 13: "load"}, "worker": "w1"}
    ended = event(1.5, "branches.ended", "0.0-1", branches=tuple(range(12)), **told)

    said = watching.line(ended, names)
    assert said.endswith(
        ".500  branches.ended  pages  branches 0, 1, 2, 3, 4, 5, 6, 7 and 4 more  failed 12, 13  at load  on w1"
    )
    assert watching.line(event(2.0, "run.ended", state="failed"), names).endswith("  run.ended  state failed")


def test_an_event_is_one_line_whatever_it_holds() -> None:
    """Control characters and newlines of names are shown and not obeyed, and secrets are hidden."""
    redact.remember("redis://:canary-77@host")
    evil = event(1.0, "block.opened", "0.0-1", name="x", n="1\n\x1b[31m canary-77")

    said = watching.line(evil, {"0.0-1": "a\nb"})

    assert len(said.splitlines()) == 1
    assert "\x1b" not in said
    assert "canary-77" not in said + watching.json_line(evil, {})


@pytest.mark.parametrize("worker", ["w1", None])
def test_an_event_as_json(worker: str | None) -> None:
    """An event is one object in one line, with the documented keys."""
    raw = watching.json_line(event(1.5, "branches.started", "0.0-1", branches=(0, 1), worker=worker), {"0.0-1": "p\n"})

    assert "\n" not in raw
    assert json.loads(raw) == {
        "cursor": "1500-0",
        "time": "1970-01-01T00:00:01.500+00:00",
        "type": "branches.started",
        "block": "0.0-1",
        "name": "p\n",
        "branches": [0, 1],
        "failed": [],
        "attempts": {},
        "sizes": {},
        "took": {},
        "spent": {},
        "nodes": {},
        "calls": {},
        "worker": worker,
        "detail": {},
    }


def test_what_an_event_says_of_attempts_and_sizes() -> None:
    """Which branches were not at their first attempt, and how large the values are together; in JSON each."""
    spent = {2: Spent(cpu=0.5, memory=None)}
    call = FailedCall(node="load", ago=2.0, took=1.5, waited=0.25)
    more = {"attempts": {2: 4}, "sizes": {2: 500, 3: 700}, "took": {3: 0.25}, "spent": spent, "calls": {2: (call,)}}
    ended = event(1.5, "branches.ended", "0", branches=(2, 3), **more)

    assert watching.line(ended, {}).endswith("branches 2, 3  attempt 4 of 2  results 1.2 kB  failed calls 1")
    said = json.loads(watching.json_line(ended, {}))
    assert (said["attempts"], said["sizes"]) == ({"2": 4}, {"2": 500, "3": 700})
    assert said["took"] == {"3": 0.25}
    assert said["spent"] == {"2": {"cpu": 0.5, "memory": None}}
    assert said["calls"] == {"2": [{"node": "load", "ago": 2.0, "took": 1.5, "waited": 0.25}]}

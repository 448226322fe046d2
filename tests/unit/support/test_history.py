"""The checker finds what it is for: a history that holds, and forged ones that break one invariant each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import history
from tests.support.history import Block, Control, Execution, Happened, History, Left, RunHistory, Seen

LANES = ("w1@x/10/a.0", "w2@x/20/b.0")


def sound() -> History:
    """A run of a block of two branches, limit 1; branch 1 lost its first worker and was done by the other."""
    events = [
        Happened(at=1000, type="run.submitted"),
        Happened(at=1010, type="run.started"),
        Happened(at=1010, type="branches.started", block="0", branches=(0,), lane=LANES[0]),
        Happened(at=1020, type="block.opened", block="0.0-"),
        Happened(at=1030, type="branches.started", block="0.0-", branches=(0,), lane=LANES[0]),
        Happened(at=2000, type="branches.ended", block="0.0-", branches=(0,), lane=LANES[0]),
        Happened(at=2000, type="branches.started", block="0.0-", branches=(1,), lane=LANES[0]),
        Happened(at=5000, type="branch.lost", block="0.0-", branches=(1,), lane=LANES[0]),
        Happened(at=5100, type="branches.started", block="0.0-", branches=(1,), lane=LANES[1]),
        Happened(at=6000, type="branches.ended", block="0.0-", branches=(1,), lane=LANES[1]),
        Happened(at=6000, type="block.ended", block="0.0-", state="ok"),
        Happened(at=6100, type="branches.ended", block="0", branches=(0,), lane=LANES[1]),
        Happened(at=6100, type="block.ended", block="0", state="ok"),
        Happened(at=6100, type="run.ended", state="succeeded"),
    ]
    blocks = {
        "0": Block(id="0", name="flow", state="ok", n=1, done=1, ended=6100, names=(None,), values={0: {"a": "va"}}),
        "0.0-": Block(
            id="0.0-",
            name="pair",
            state="ok",
            n=2,
            limit=1,
            done=2,
            deadline=9000,
            ended=6000,
            names=("a", "b"),
            values={0: "va", 1: "vb"},
            parent="0",
            branch=0,
        ),
    }
    ran = Execution(run="r", block="0.0-", branch="a", node="a", attempt=1, start=1040, end=1990, value="va")
    died = replace(ran, branch="b", node="b", start=2010, end=None, value=None)
    again = replace(died, attempt=2, start=5110, end=5990, value="vb")
    return History(
        runs={"r": RunHistory(id="r", state="succeeded", value={"a": "va"}, events=events, blocks=blocks)},
        accepted={"r"},
        executions=[ran, died, again],
        seen=[Seen("r", "succeeded", {"a": "va"})],
        left=Left(unacked=1, may_hold=1),
        control=Control(quiet=[0.1, 0.2], during=[0.3, 0.4]),
    )


def test_a_sound_history_holds() -> None:
    """A run with a killed worker that came to its end breaks nothing."""
    assert history.check(sound()) == []


def run_is(found: History, **changes: object) -> None:
    found.runs["r"] = replace(found.runs["r"], **changes)  # type: ignore[arg-type]


def block_is(found: History, **changes: object) -> None:
    blocks = found.runs["r"].blocks
    run_is(found, blocks={**blocks, "0.0-": replace(blocks["0.0-"], **changes)})  # type: ignore[arg-type]


def event(found: History, at: int, type: str, *, before: str = "", **fields: object) -> None:
    """Put an event at its time, or before the first of a type."""
    events = list(found.runs["r"].events)
    place = next((i for i, it in enumerate(events) if (it.type == before if before else it.at > at)), len(events))
    events.insert(place, Happened(at=at, type=type, **fields))  # type: ignore[arg-type]
    run_is(found, events=events)


def without(found: History, type: str) -> None:
    run_is(found, events=[event for event in found.runs["r"].events if event.type != type])


def ran(found: History, position: int, **changes: object) -> None:
    found.executions[position] = replace(found.executions[position], **changes)  # type: ignore[arg-type]


def numbered(found: History, *, at: int, attempt: int) -> None:
    """Branch 1 has this attempt in the events of a time."""
    events = [replace(it, attempts={1: attempt}) if it.at == at else it for it in found.runs["r"].events]
    run_is(found, events=events)


def retried(found: History) -> None:
    """Its block was ended while branch 1 ran, and soon opened again."""
    event(found, 2500, "block.ended", block="0.0-", state="cancelled")
    event(found, 3000, "block.opened", block="0.0-")


def unwritten(found: History) -> None:
    """No node has written down what it did."""
    found.executions.clear()


FORGED: dict[str, tuple[str, Callable[[History], object], str]] = {
    "never ended": ("I1", lambda it: run_is(it, state="running"), "still running"),
    "unknown": ("I1", lambda it: it.accepted.add("other"), "run other: accepted, and the ledger does not know it"),
    "ended twice": ("I1", lambda it: event(it, 6100, "run.ended", state="succeeded"), "ended 2 times"),
    "changed its end": ("I2", lambda it: run_is(it, state="failed"), "says succeeded, the ledger failed"),
    "settled after the end": (
        "I2",
        lambda it: event(it, 7000, "branches.ended", block="0", branches=(0,), lane=LANES[1]),
        "after it had ended",
    ),
    "told otherwise": ("I2", lambda it: it.seen.append(Seen("r", "succeeded", {"a": "x"})), "was told {'a': 'x'}"),
    "told of another end": ("I2", lambda it: it.seen.append(Seen("r", "failed")), "was told failed"),
    "a branch is missing": ("I3", lambda it: block_is(it, values={0: "va"}), "with branches [0] of 2"),
    "a value and a failure": ("I3", lambda it: block_is(it, failures=frozenset({1})), "a value and a failure"),
    "counted twice": ("I3", lambda it: block_is(it, done=3), "counts 3 of 2"),
    "settled twice": (
        "I3",
        lambda it: event(it, 5500, "branches.ended", block="0.0-", branches=(1,), lane=LANES[1]),
        "branch 1 was settled twice",
    ),
    "a value from nowhere": ("I3", lambda it: block_is(it, values={0: "va", 1: "vx"}), "no execution that ended"),
    "two attempts at once": ("I4", lambda it: ran(it, 2, start=3000), "attempt 2 began at 3000 while attempt 1"),
    "two tries at once": (
        "I4",
        lambda it: (retried(it), ran(it, 1, end=3500), ran(it, 2, start=3100)),
        "attempt 2 began at 3100 while attempt 1",
    ),
    "over the limit after a retry": (
        "I5",
        lambda it: (retried(it), ran(it, 1, end=3500), ran(it, 2, start=3100)),
        "2 at once at 3100, its limit is 1",
    ),
    "a fourth attempt": ("I4", lambda it: ran(it, 2, attempt=4), "attempt 4 of 3"),
    "lost too often": (
        "I4",
        lambda it: [event(it, 5000, "branch.lost", block="0.0-", branches=(1,)) for _ in range(3)],
        "was lost 4 times",
    ),
    "a stale lane settles": (
        "I4",
        lambda it: run_is(
            it, events=[replace(e, lane=LANES[0]) if e.at == 6000 and e.lane else e for e in it.runs["r"].events]
        ),
        f"branch 1 was settled by lane {LANES[0]}",
    ),
    "over the limit": ("I5", lambda it: ran(it, 0, end=4000), "2 at once at 2010, its limit is 1"),
    "began after the end": ("I6", lambda it: ran(it, 2, start=8000, end=8100), "when the block was not open"),
    "leased after the end": (
        "I6",
        lambda it: event(it, 7000, "branches.started", block="0.0-", branches=(1,), lane=LANES[0]),
        "leased after its end",
    ),
    "a process remains": ("I6", lambda it: it.remaining.append("4711 worker"), "a process remains: 4711 worker"),
    "a late deadline": ("I7", lambda it: block_is(it, deadline=900, ended=6000), "5.100 s after its deadline"),
    "an early deadline": ("I7", lambda it: block_is(it, state="timeout"), "3.000 s before its deadline"),
    "a deadline and no end": ("I7", lambda it: block_is(it, ended=None), "has not ended"),
    "uncounted": ("I8", lambda it: it.accepted.add("other"), "2 runs were accepted, and 1 have ended"),
    "unacknowledged": ("I8", lambda it: setattr(it, "left", Left(unacked=2, may_hold=1)), "2 messages"),
    "on the queue": ("I8", lambda it: setattr(it, "left", Left(queued=3)), "3 messages are still on the queue"),
    "on the agenda": ("I8", lambda it: setattr(it, "left", Left(agenda=1)), "1 entries are still on the agenda"),
    "for ever": ("I8", lambda it: run_is(it, keeps=["egd:{r}:l:0"]), "never expire: egd:{r}:l:0"),
    "a worker died": ("I9", lambda it: it.died.append("w1 ended with 1"), "worker w1 ended with 1"),
    "an attempt too many": (
        "I4",
        lambda it: numbered(it, at=5100, attempt=4),
        "branch 1: branches.started of attempt 4 of 3",
    ),
    "a call too many": ("I4", lambda it: numbered(it, at=6000, attempt=5), "branches.ended of attempt 5 of 3"),
    "an attempt out of turn": (
        "I4",
        lambda it: numbered(it, at=2000, attempt=2),
        "branch 1 was leased as attempt 2, and nobody had given it back",
    ),
    "lost too often, with nothing written down": (
        "I4",
        lambda it: (
            unwritten(it),
            [event(it, 5000, "branch.lost", block="0.0-", branches=(1,)) for _ in range(3)],
        ),
        "was lost 4 times",
    ),
    "leased when it was settled": (
        "I4",
        lambda it: event(it, 2500, "branches.started", block="0.0-", branches=(0,), lane=LANES[1]),
        "branch 0 was leased to w2@x/20/b.0 after it had been settled",
    ),
    "over the limit, with nothing written down": (
        "I5",
        lambda it: (
            unwritten(it),
            event(it, 1500, "branches.started", block="0.0-", branches=(1,), lane=LANES[1]),
        ),
        "2 ran at once at 1500, its limit is 1",
    ),
    "leased after the end of the block around it": (
        "I6",
        lambda it: (
            without(it, "block.ended"),
            event(it, 6050, "block.ended", block="0", state="error"),
            event(it, 6060, "branches.started", block="0.0-", branches=(1,), lane=LANES[0]),
        ),
        "block 0.0-: branches (1,) were leased after the end of block 0",
    ),
    "leased after the end of the run": (
        "I6",
        lambda it: (
            without(it, "block.ended"),
            event(it, 7000, "branches.started", block="0.0-", branches=(1,), lane=LANES[0]),
        ),
        "after the end of block 0",
    ),
    "opened after the end": (
        "I6",
        lambda it: event(it, 7000, "block.opened", block="0.0-1"),
        "block 0.0-1: it was opened after the end of block 0",
    ),
    "on the agenda though it has ended": (
        "I8",
        lambda it: run_is(it, entries=["hint 0"]),
        "it has ended, and is on the agenda: hint 0",
    ),
    "keys of nothing": ("I8", lambda it: setattr(it, "left", Left(keys=("egd:{gone}:b:0",))), "egd:{gone}:b:0"),
    "slow elsewhere": (
        "I10",
        lambda it: setattr(it, "control", Control(quiet=[1.5], during=[3.2])),
        "p99 is 3.200 s, 3.000 s are allowed",
    ),
    "stuck elsewhere": ("I10", lambda it: setattr(it, "control", Control(quiet=[1.0], during=[])), "no control run"),
    "failed elsewhere": (
        "I10",
        lambda it: setattr(it, "control", Control(quiet=[1.0], during=[1.0], failures=["gone"])),
        "control run: gone",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_breach_is_found(name: str) -> None:
    """Each forged history breaks its invariant, and the message says where."""
    invariant, forge, said = FORGED[name]
    found = copy.deepcopy(sound())
    forge(found)

    assert any(said in it.what for it in history.check(found) if it.invariant == invariant), history.check(found)


def test_what_was_killed_before_a_retry_is_over() -> None:
    """Nobody has written down when it was killed: it is taken to have been when its block ended."""
    found = copy.deepcopy(sound())
    retried(found)
    ran(found, 2, start=3100)

    assert not any(it.invariant == "I5" or "while attempt" in it.what for it in history.check(found))


def test_every_invariant_has_a_forgery() -> None:
    """No invariant is checked by nothing."""
    assert {invariant for invariant, _, _ in FORGED.values()} == set(history.CHECKS)


def leased(events: list[Happened], *, limit: int, **fields: object) -> list[str]:
    """What the checker says of the limit of a block, where nodes wrote nothing down, and its branches have blocks."""
    block = Block(id="0.0-", name="block", state="ok", n=9, limit=limit, parent="0", branch=0, **fields)  # type: ignore[arg-type]
    below = [Block(id=f"0.0-.{n}-", name="below", state="ok", n=1, parent="0.0-", branch=n) for n in range(9)]
    blocks = {it.id: it for it in (block, *below)}
    run = RunHistory(id="r", state="succeeded", events=events, blocks=blocks)
    return list(history.concurrency(History(runs={"r": run})))


def started(lane: int, *branches: int, block: str = "0.0-") -> Happened:
    return Happened(at=1, type="branches.started", block=block, branches=branches, lane=LANES[lane])


def ended(lane: int, *branches: int, block: str = "0.0-") -> Happened:
    return Happened(at=2, type="branches.ended", block=block, branches=branches, lane=LANES[lane])


def test_a_lane_counts_with_what_it_executes_at_once() -> None:
    """Branches that a lane holds one after the other count as one, those that it has begun together as many."""
    held = [started(0, 0, 1, 2), started(1, 3), ended(1, 3), ended(0, 0, 1, 2)]

    assert leased(held, limit=2, widths=(1,)) == []
    assert leased(held, limit=1, widths=(1,)) != []
    assert leased(held, limit=3, widths=(3,)) != []
    assert leased(held, limit=4, widths=(3,)) == []
    assert leased(held, limit=3, widths=(3, 1), tracks=dict.fromkeys(range(3), 1)) == []


def test_a_branch_counts_while_its_block_is_open() -> None:
    """A branch that stands at a block below takes a slot until that has ended."""
    opened, closed = (Happened(at=1, type=f"block.{how}", block="0.0-.0-") for how in ("opened", "ended"))
    begun = [started(0, 0), opened, started(0, 0, block="0.0-.0-")]

    assert leased([*begun, started(1, 1), ended(1, 1), closed], limit=1) != []
    assert leased([*begun, closed, started(1, 1), ended(1, 1)], limit=1) == []


def test_a_branch_that_is_given_back_in_silence_does_not_count() -> None:
    """That a branch is given back before it began is no event: it is not held against those that were leased since."""
    assert leased([started(0, 0), started(0, 1), started(1, 0), ended(0, 1), ended(1, 0)], limit=2, widths=(2,)) == []
    assert leased([started(0, 0), started(1, 1), started(1, 0), ended(1, 1, 0)], limit=1) == []
    assert leased([started(0, 0), started(1, 1), ended(0, 0), ended(1, 1)], limit=1) != []


def test_calls_that_a_node_retries_are_attempts_too() -> None:
    """A node with retries may have as many attempts more."""
    found = sound()
    numbered(found, at=6000, attempt=5)
    run_is(found, retries=2)

    assert history.check(found) == []


def test_what_was_seen_of_a_lost_run_counts_no_more() -> None:
    """A run that had been served and read before its server lost it breaks nothing, if readers are told so."""
    found = sound()
    found.runs["r"] = RunHistory(id="r", state=None)
    assert {broken.invariant for broken in history.check(found)} > {"I1", "I2", "I6"}
    found.lost.add("r")

    assert history.check(found) == []


def test_a_lost_run_is_no_silence() -> None:
    """A run that its server lost is accounted for where a reader was told so."""
    found = sound()
    found.accepted.add("gone")
    found.lost.add("gone")
    found.runs["gone"] = RunHistory(id="gone", state=None)

    assert history.check(found) == []


def test_a_retried_run_may_end_again() -> None:
    """After a retry a run and its blocks have another end."""
    found = sound()
    events = found.runs["r"].events
    failed = [replace(it, state="error") if it.type == "block.ended" else it for it in events[:-1]]
    first = [it for it in failed if not (it.type == "branches.ended" and 1 in it.branches)]
    first = [it for it in first if not (it.type == "branches.ended" and it.block == "0")]
    again = [replace(it, at=it.at + 10_000) for it in events[9:]]
    reopened = [Happened(at=15_000, type="block.opened", block=id) for id in ("0", "0.0-")]
    leased = Happened(at=15_100, type="branches.started", block="0.0-", branches=(1,), lane=LANES[1])
    run_is(
        found,
        events=[
            *first,
            Happened(at=6100, type="run.ended", state="failed"),
            Happened(at=15_000, type="run.retried"),
            *reopened,
            leased,
            *again,
        ],
    )
    block_is(found, deadline=None)

    assert history.check(found) == []


def test_executions_are_read_as_the_nodes_wrote_them(tmp_path: Path) -> None:
    """A start without an end is an execution whose process died in it."""
    file = tmp_path / "executions"
    said = {"run": "r", "block": "0", "branch": None, "node": "n", "path": [1], "attempt": 1, "pid": 7}
    lines = [
        {"what": "start", "id": "x", "t": 5.0, **said},
        {"what": "start", "id": "y", "t": 6.0, **said},
        {"what": "end", "id": "x", "t": 9.0, "value": "v"},
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ended, died = sorted(history.read_executions(file), key=lambda it: it.start)

    assert (ended.start, ended.end, ended.value, ended.path) == (5.0, 9.0, "v", (1,))
    assert (died.start, died.end, died.value) == (6.0, None, None)


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (99, 4), (100, 4), (1, 1)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    """The nearest rank."""
    assert history.percentile([4, 2, 3, 1], percent) == expected

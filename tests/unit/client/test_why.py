"""Why a run waits, told from what the ledger has and what workers report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from egregore_dist.client.why import Facts, Need, Reason, gathered, reasons
from egregore_dist.ledger import RunRecord, Work
from egregore_dist.ledger.keys import ROOT
from egregore_dist.ledger.limits import Bucket
from egregore_dist.ledger.waits import Again, Look, OpenBlock, Retry, Track
from egregore_dist.resources.report import Report
from egregore_dist.workflow.limits import Rule

NOW = 1_000_000
GIB = 2**30
RUN = "mine"


def worker(name: str = "w@host", *, slots: int = 2, lanes: int = 0, **more: Any) -> Report:
    values: dict[str, Any] = {"queues": ("home",), "modules": ("app",), "cores": 2.0, "memory_total": 2 * GIB}
    values |= {"host": name, "pid": 1, "memory_available": GIB, "lanes": tuple(map(str, range(lanes)))}
    return Report(worker=name, slots=slots, **(values | more))


def track(waiting: int, **more: Any) -> Track:
    values: dict[str, Any] = {"queue": "home", "width": 1, "planned": 2, "serving": 0}
    return Track(waiting=waiting, **(values | more))


def block(*tracks: Track, id: str = "0.0-0", parent: str = ROOT, branch: int = 0, **more: Any) -> OpenBlock:
    values: dict[str, Any] = {"name": "work", "path": (0,), "n": 9, "done": 3, "running": 1, "limit": 0}
    values |= {"timeout": None, "deadline": None}
    return OpenBlock(id=id, parent=parent, branch=branch, tracks=tracks, **(values | more))


def facts(*blocks: OpenBlock, workers: tuple[Report, ...] | None = None, **more: Any) -> Facts:
    record = RunRecord(id=RUN, state="running", workflow="flow", created=1.0, started=2.0, ended=None)
    of_look = {name: more.pop(name) for name in ("open", "paused", "held_until", "retries", "more") if name in more}
    values: dict[str, Any] = {"open": len(blocks), "paused": None, "held_until": None} | of_look
    look = Look(record=record, now=NOW, work=Work("flow", b"", b""), blocks=blocks, **values)
    return Facts(look=look, reports=(worker(),) if workers is None else workers, **more)


LOST = Again(branch=4, attempt=2, most=3, why="its process was killed", node="fetch", calls=0)
STOPPED = Again(branch=4, attempt=3, most=0, why="", node="fetch", calls=2)
PLACES = Bucket(limit="call", value="small", rule=Rule(concurrent=2, starts=20, seconds=1), held=2, waiting=3, ahead=1)
STARTS = Bucket(limit="call", value=None, rule=Rule(starts=100, seconds=3600), held=9, waiting=1, starts_in=12.0)
FULL = block(track(4), limit=2, running=2)
INNER = block(track(0), id="0.0-0.7-0", parent="0.0-0", branch=7, name="inner")
BY_OTHERS = {"theirs": ("w@host/1/a.0",)}

#: What is known; and the reasons: their kinds, what the first says, and its numbers.
CASES: dict[str, tuple[Facts, list[str], str, dict[str, float]]] = {
    "paused": (
        facts(block(track(4)), paused=NOW - 12_000),
        ["paused"],
        "the run is paused, for 12 s",
        {"seconds": 12.0, "waiting": 4},
    ),
    "no worker": (facts(block(track(4)), workers=()), ["workers"], "no worker is alive", {"waiting": 4}),
    "drained": (
        facts(block(track(4)), workers=(worker(holds={"drained": "by hand"}), worker("v@host", queues=("gpu",)))),
        ["held"],
        "4 wait: no live worker of queue 'home' takes lanes now: w@host (drained: by hand): `egregore-dist workers",
        {"waiting": 4},
    ),
    "memory pressure": (
        facts(block(track(1)), workers=(worker(holds={"memory pressure": "1 MB left"}),)),
        ["held"],
        "1 waits: no live worker of queue 'home' takes lanes now: w@host (memory pressure: 1 MB left)",
        {"waiting": 1},
    ),
    "the only one with a label drained": (
        facts(
            block(track(4, queue="home@zone=eu")),
            workers=(worker(holds={"drained": "by hand"}, labels=("zone=eu",)), worker("v@host")),
        ),
        ["held"],
        "4 wait: no live worker of queue 'home' takes lanes now: w@host (drained: by hand)",
        {"waiting": 4},
    ),
    "one drained, one busy": (
        facts(block(track(4)), workers=(worker(holds={"drained": ""}), worker("v@host", slots=1, lanes=1))),
        ["slots"],
        "the only slot of queue 'home' is busy",
        {"slots": 1, "workers": 1, "waiting": 4},
    ),
    "no worker, though nothing waits": (
        facts(block(track(0)), workers=()),
        ["workers"],
        "no worker is alive",
        {"waiting": 0},
    ),
    "no worker of the queue": (
        facts(block(track(4, queue="gpu")), workers=(worker(), worker("b@host", queues=("cold", "home")))),
        ["queue"],
        "no live worker serves queue 'gpu'; served: 'cold', 'home'",
        {"waiting": 4},
    ),
    "memory": (
        facts(block(track(4)), needs={("0.0-0", 0): Need(memory=4 * GIB)}),
        ["size"],
        "needs 4.29 GB of memory, and the largest worker of queue 'home', 'w@host', has 1.5 GB",
        {"waiting": 4, "memory": 4 * GIB},
    ),
    "cores": (
        facts(block(track(4)), needs={("0.0-0", 0): Need(cpus=8.0)}),
        ["size"],
        "needs 8 cores",
        {"waiting": 4, "cpus": 8.0},
    ),
    "labels": (
        facts(block(track(4, queue="home@gpus:2+zone=eu")), workers=(worker(labels=("zone=us",), gpus=("0",)),)),
        ["labels"],
        "needs label zone=eu and 2 GPUs, and the nearest worker of queue 'home', 'w@host', has label zone=us and 1 GPU",
        {"waiting": 4, "gpus": 2},
    ),
    "labels of no worker of the queue": (
        facts(block(track(4, queue="gpu@zone=eu")), workers=(worker(labels=("zone=eu",)),)),
        ["queue"],
        "served: 'home': start one with `egregore-dist worker -q gpu --label zone=eu`",
        {"waiting": 4},
    ),
    "memory after OOM": (
        facts(block(track(4, queue=f"home@learned:{4 * GIB}"))),
        ["size"],
        "needs 4.29 GB of memory, and the largest worker of queue 'home', 'w@host', has 1.5 GB",
        {"waiting": 4, "memory": 4 * GIB},
    ),
    "declared memory and cores": (
        facts(block(track(4, queue=f"home@memory:{4 * GIB}+cpus:2.5"))),
        ["size"],
        "needs 4.29 GB of memory and 2.5 cores, and the largest worker of queue 'home', 'w@host', has 1.5 GB",
        {"waiting": 4, "memory": 4 * GIB, "cpus": 2.5},
    ),
    "a machine that others have": (
        facts(
            block(track(4, queue=f"home@memory:{GIB}+cpus:1.5")),
            workers=(
                worker(short={f"home@memory:{GIB}+cpus:1.5": "1 GB of 1.5 GB are reserved for 2 lanes there"}),
                worker("full@host", lanes=2),
                worker("small@host", memory_total=GIB),
            ),
        ),
        ["room"],
        "4 wait for 1.07 GB of memory and 1.5 cores each, which no machine has free: w@host (1 GB of 1.5 GB are",
        {"waiting": 4, "memory": GIB, "cpus": 1.5},
    ),
    "a machine that others have beside one that is free": (
        facts(
            block(track(4, queue="home@cpus:2"), asks_at=None),
            workers=(worker(short={"home@cpus:2": "2 of 2 cores"}), worker("free@host")),
        ),
        ["message"],
        "4 wait for a lane",
        {"waiting": 4, "lanes": 2, "serving": 0},
    ),
    "busy workers that have the labels": (
        facts(
            block(track(4, queue="home@zone=eu")),
            workers=(worker(labels=("zone=eu",), lanes=2), worker("b@host")),
        ),
        ["slots"],
        "all 2 slots of queue 'home@zone=eu' are busy",
        {"slots": 2, "workers": 1, "waiting": 4},
    ),
    "module": (
        facts(block(track(4)), needs={("0.0-0", 0): Need(modules=frozenset({"app.steps", "apple"}))}),
        ["module"],
        "no live worker of queue 'home' loads 'apple': start one with `egregore-dist worker -m apple`",
        {"waiting": 4},
    ),
    "a worker that loads it": (
        facts(
            block(track(4)),
            workers=(worker(modules=("x",), lanes=2),),
            needs={("0.0-0", 0): Need(modules=frozenset({"x"}))},
        ),
        ["slots"],
        "all 2 slots",
        {"slots": 2, "workers": 1, "waiting": 4},
    ),
    "limit": (
        facts(FULL),
        ["limit"],
        "max_concurrent=2 is reached: 2 run, 4 wait, the last of them behind 3 others",
        {"limit": 2, "running": 2, "waiting": 4, "ahead": 3},
    ),
    "a limit that parked branches reach": (
        facts(FULL, INNER),
        ["limit", "block"],
        "is reached: 2 run or stand at blocks inside, 4 wait",
        {"limit": 2, "running": 2, "waiting": 4, "ahead": 3},
    ),
    "a limit that is not reached": (
        facts(replace(FULL, running=1), workers=(worker(lanes=2),)),
        ["slots"],
        "all 2 slots of queue 'home' are busy",
        {"slots": 2, "workers": 1, "waiting": 4},
    ),
    "limit, and no worker of the queue": (
        facts(block(track(4, queue="gpu"), limit=1, running=1)),
        ["limit", "queue"],
        "max_concurrent=1 is reached: 1 runs, 4 wait",
        {"limit": 1, "running": 1, "waiting": 4, "ahead": 3},
    ),
    "a place of the node's limit": (
        facts(block(track(4, limit=PLACES))),
        ["place"],
        "4 wait for limit 'call', for one value of its key, over all runs (2 of 2 places taken; 20/s), 1 block ahead",
        {"waiting": 4, "ahead": 1, "held": 2, "concurrent": 2, "starts": 20, "seconds": 1, "starts_in": 0.0},
    ),
    "a start of the node's limit": (
        facts(block(track(1, limit=STARTS))),
        ["place"],
        "1 waits for limit 'call' over all runs (100/h, the next start in 12 s), no blocks ahead",
        {"waiting": 1, "ahead": 0, "held": 9, "starts": 100, "seconds": 3600, "starts_in": 12.0},
    ),
    "max_concurrent before the node's limit": (
        facts(replace(FULL, tracks=(track(4, limit=PLACES),))),
        ["limit"],
        "max_concurrent=2 is reached",
        {"limit": 2, "running": 2, "waiting": 4, "ahead": 3},
    ),
    "slots by report": (
        facts(block(track(1)), workers=(worker(slots=1, lanes=1), worker("b@host", slots=2, lanes=3))),
        ["slots"],
        "all 3 slots of queue 'home' are busy",
        {"slots": 3, "workers": 2, "waiting": 1},
    ),
    "slots by the ledger": (
        facts(block(track(1), holders=("w@host/1/b.0",)), others=BY_OTHERS),
        ["slots"],
        "all 2 slots of queue 'home' are busy: 1 by run theirs, 1 by this run",
        {"slots": 2, "workers": 1, "waiting": 1},
    ),
    "one slot": (
        facts(block(track(1)), workers=(worker(slots=1),), others=BY_OTHERS),
        ["slots"],
        "the only slot of queue 'home' is busy: 1 by run theirs",
        {"slots": 1, "workers": 1, "waiting": 1},
    ),
    "slots of a worker of another queue": (
        facts(block(track(1)), workers=(worker(slots=1, lanes=1), worker("b@host", queues=("cold",)))),
        ["slots"],
        "the only slot",
        {"slots": 1, "workers": 1, "waiting": 1},
    ),
    "lanes": (
        facts(block(track(700, serving=1, planned=1, width=500))),
        ["lanes"],
        "700 wait: the only lane planned for it is at work, 500 branches at a time",
        {"waiting": 700, "lanes": 1, "serving": 1, "width": 500},
    ),
    "message": (
        facts(block(track(1), asks_at=NOW + 1500)),
        ["message"],
        "1 waits for a lane: its message is on its way, or was lost; a janitor asks again in 1.5 s",
        {"waiting": 1, "lanes": 2, "serving": 0, "seconds": 1.5, "asked": 0},
    ),
    "a message that was asked for": (
        facts(block(track(2, serving=1), asks_at=NOW - 5, asked=2)),
        ["message"],
        "a janitor asks again now, after 2 times before",
        {"waiting": 2, "lanes": 2, "serving": 1, "seconds": 0.0, "asked": 2},
    ),
    "attempt": (
        facts(block(track(1, again=(LOST,))), paused=NOW, branches={("0.0-0", 4): "d"}),
        ["paused", "attempt"],
        "the run is paused",
        {"seconds": 0.0, "waiting": 1},
    ),
    "parked": (
        facts(block(track(0)), INNER, branches={("0.0-0", 7): "left"}),
        ["block"],
        "branch 'left' waits for block 'inner', of which 3 of 9 have ended",
        {"done": 3, "branches": 9},
    ),
    "the run at its outermost block": (facts(block(track(0))), [], "", {}),
    "everything runs within its timeout": (facts(block(track(0), timeout=5.0, deadline=NOW + 4000)), [], "", {}),
    "deadline": (
        facts(block(track(0), timeout=5.0, deadline=NOW + 4200), INNER),
        ["deadline", "block"],
        "4.2 s are left of its timeout of 5 s",
        {"left": 4.2, "timeout": 5.0},
    ),
    "a deadline that is over": (
        facts(block(track(0), timeout=5.0, deadline=NOW - 1), INNER),
        ["deadline", "block"],
        "its timeout of 5 s is over",
        {"left": 0.0, "timeout": 5.0},
    ),
    "in back-off": (
        facts(
            block(track(0)),
            retries=(Retry(block="0.0-0", name="work", branch=4, call=2, most=4, node="fetch", at=NOW + 12_000),),
            more=30,
        ),
        ["retry", "retry"],
        "branch #4: retry in 12 s: call 2 of 4 of node 'fetch'",
        {"seconds": 12.0, "call": 2, "calls": 4},
    ),
    "in back-off, in no block": (
        facts(retries=(Retry(block=ROOT, name="flow", branch=0, call=2, most=2, node="fetch", at=NOW + 1_500),)),
        ["retry"],
        "retry in 1.5 s: call 2 of 2 of node 'fetch'",
        {"seconds": 1.5, "call": 2, "calls": 2},
    ),
    "on a server that evicts keys": (
        facts(block(track(4)), held_until=NOW + 12_000),
        ["evictions"],
        "nothing more begins until it has evicted none for a while, in 12 s at the earliest; set `maxmemory-policy",
        {"seconds": 12.0},
    ),
    "more than was looked at": (
        facts(block(track(0)), open=10_000),
        ["unseen"],
        "9999 more blocks of the run are open",
        {"open": 10_000, "looked": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_reasons(case: str) -> None:
    """Each kind of waiting is told from what is known, with its numbers, and nothing else is."""
    known, kinds, says, numbers = CASES[case]

    found = reasons(known)

    assert [reason.kind for reason in found] == kinds
    assert says in (found[0].text if found else "")
    assert (found[0].numbers if found else {}) == numbers


@pytest.mark.parametrize(
    ("again", "says"),
    [
        (LOST, "branch 'd' waits for attempt 2 of 3: its process was killed at 'fetch'"),
        (STOPPED, "branch 'd' waits for attempt 3: it was stopped at 'fetch', which was over its timeout"),
    ],
)
def test_a_branch_that_runs_again(again: Again, says: str) -> None:
    """A branch that lost its process says which attempt it waits for and why, beside what it waits for."""
    known = facts(block(track(1, again=(again,))), workers=(worker(lanes=2),), branches={("0.0-0", 4): "d"})

    slots, attempt = reasons(known)

    assert (slots.kind, attempt.kind, attempt.branch) == ("slots", "attempt", 4)
    assert attempt.text == says
    assert attempt.numbers == {"attempt": again.attempt, "attempts": again.most, "stopped": again.calls}


def test_what_a_reason_is_about() -> None:
    """A reason says which block and branch wait, and names what they wait for."""
    outer = block(track(4, queue="gpu"), name="outer")

    queue, parked = reasons(facts(outer, INNER))

    assert (queue.block, queue.branch, queue.names) == ("0.0-0", None, ("gpu", "home"))
    assert (parked.block, parked.branch, parked.names) == ("0.0-0", 7, (INNER.id,))
    assert (str(queue).partition(":")[0], str(parked)) == (
        "outer",
        "outer: branch #7 waits for block 'inner', of which 3 of 9 have ended",
    )
    assert hash(queue) != hash(parked)


def test_tracks_wait_each_for_its_own() -> None:
    """Of a block with several tracks each says what it waits for."""
    tracks = (track(1, queue="gpu"), track(0, queue="cold"), track(2))

    found = reasons(facts(block(*tracks), workers=(worker(lanes=2),)))

    assert [(reason.kind, reason.numbers["waiting"]) for reason in found] == [("queue", 1), ("slots", 2)]


def test_alike_reasons_are_gathered() -> None:
    """Of many reasons of one kind the first few are shown, the last of them with how many more there are."""
    many = [Reason(kind="block", name="outer", branch=number, text=str(number)) for number in range(8)]
    queues = [Reason(kind="queue", name="outer", text=queue, names=(queue,)) for queue in ("gpu", "cold")]

    found = gathered([*many, *queues], each=3)

    assert [(reason.text, more) for reason, more in found] == [("0", 0), ("1", 0), ("2", 5), ("gpu", 0), ("cold", 0)]

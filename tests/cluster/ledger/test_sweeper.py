"""A janitor's rounds, on a clock that the test moves."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from egregore_dist import errors
from egregore_dist.engine import app as apps
from egregore_dist.engine import publish
from egregore_dist.engine.later import Later
from egregore_dist.engine.queues import Queues
from egregore_dist.ledger import Due, Loss, Message, Shortage, Tended
from egregore_dist.ledger.keys import ROOT
from egregore_dist.resources.report import Report
from egregore_dist.settings import Settings
from egregore_dist.worker.sweeper import Sweeper
from tests.cluster.ledger.play import QUEUE, WORKER, Play, track
from tests.support import janitors
from tests.support.waiting import let_pass, until

INTERVAL, TTL = 1.0, 10.0
PUT = Later.put
GONE = "gone@there"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("egregore_dist.worker.sweeper.time.monotonic", clock)
    return clock


@pytest.fixture
def janitor(
    play: Play, clock: Clock, published: list[tuple[str, Message]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Sweeper]:
    """Makes janitors of the run's ledger. Each asks in another of the server's milliseconds than what was before it."""
    now = play.ledger.now

    def later() -> int:
        let_pass(0.002)
        return now()

    monkeypatch.setattr(play.ledger, "now", later)
    settings = Settings(broker_url="redis://127.0.0.1:1", report_ttl=TTL, sweep_interval=INTERVAL, queue="q")
    app = apps.make_app(settings)

    def make(name: str = WORKER, begins: bool = False) -> Sweeper:
        made = Sweeper(play.ledger, app, settings, name)
        return made if begins else janitors.settle(made, play.ledger, clock())

    return make


def raises(error: Exception) -> Callable[..., Any]:
    """A function that raises this."""

    def call(*_: object) -> Any:
        raise error

    return call


def said(worker: str, ttl: float | None = None) -> bytes:
    """A worker's report, with no lanes known: it cannot be read, or, with a ``ttl``, is older than every lane."""
    return janitors.report(worker, lanes=None) if ttl is None else janitors.report(worker, at=0, ttl=ttl)


def held(play: Play, worker: str) -> str:
    """A block of which a lane of this worker holds a branch, and which is to be looked after."""
    block = play.block(3, tracks=[track(3, lanes=1)])
    assert play.serve(block, play.lane(worker)).leases
    play.make_due("hint", block)
    return block


def assert_spared(play: Play, clock: Clock, sweeper: Sweeper, block: str, *, rounds: int, then: float) -> None:
    """For so many rounds the lane keeps what it holds, and so many seconds later it does not."""
    for _ in range(rounds):
        clock.now += INTERVAL
        play.make_due("hint", block)
        sweeper.round()
        assert play.ledger.running(play.run, block) == [0]
    clock.now += then
    play.make_due("hint", block)
    sweeper.round()
    assert play.ledger.running(play.run, block) == []


def test_what_the_dead_held_is_given_back(play: Play, janitor: Callable[..., Sweeper]) -> None:
    """A worker whose report has expired, or was withdrawn, is dead; one that reports is not."""
    play.ledger.report(WORKER, said(WORKER), 60.0)
    play.ledger.report(GONE, said(GONE), 60.0)
    block = held(play, GONE)
    sweeper = janitor()
    sweeper.round()
    assert play.ledger.running(play.run, block) == [0]
    play.make_due("hint", block)
    play.ledger.retire(GONE)
    sweeper.round()

    assert play.ledger.running(play.run, block) == []
    assert list(play.ledger.reports()) == [WORKER]


def test_who_follows_does_nothing(
    play: Play, janitor: Callable[..., Sweeper], published: list[tuple[str, Message]]
) -> None:
    """Of two janitors one sweeps, and the other as soon as that does not ask any more."""
    block = play.block(1, tracks=[track(1, lanes=1)])
    first, second = janitor("first@here"), janitor("second@here")
    first.round()
    play.make_due("hint", block)
    second.round()
    assert published == []
    play.ledger.redis.delete(play.ledger.keys.janitor)
    second.round()

    assert [message.block for _, message in published] == [block]


def test_after_a_silence_nobody_is_dead(play: Play, janitor: Callable[..., Sweeper], clock: Clock) -> None:
    """Where the server could not be asked for long, reports could not reach it: for their lifetime none is missed."""
    sweeper = janitor()
    sweeper.round()
    block = held(play, GONE)
    clock.now += INTERVAL + TTL / 2 + 0.1
    sweeper.round()
    assert play.ledger.running(play.run, block) == [0]
    for _ in range(9):
        clock.now += INTERVAL
        play.make_due("hint", block)
        sweeper.round()
    assert play.ledger.running(play.run, block) == [0]
    clock.now += 2 * INTERVAL
    play.make_due("hint", block)
    sweeper.round()

    assert play.ledger.running(play.run, block) == []


@pytest.mark.parametrize(("ttl", "silence", "spared"), [(3 * TTL, 0.6 * TTL, 3 * TTL), (0.2 * TTL, 0.11 * TTL, TTL)])
def test_after_a_silence_workers_with_other_settings_are_not_dead(
    play: Play, janitor: Callable[..., Sweeper], clock: Clock, ttl: float, silence: float, spared: float
) -> None:
    """A worker that reports more rarely, or whose report lives less long, than the janitor's own is spared as well."""
    play.ledger.report(GONE, said(GONE, ttl), 60.0)
    block = held(play, GONE)
    sweeper = janitor()
    sweeper.round()
    play.ledger.retire(GONE)
    clock.now += silence

    assert_spared(play, clock, sweeper, block, rounds=int(spared / INTERVAL), then=INTERVAL)


def test_after_a_silence_lost_messages_are_asked_for(
    play: Play, janitor: Callable[..., Sweeper], clock: Clock, published: list[tuple[str, Message]]
) -> None:
    """A message that went with the outage is not waited for, and deadlines are kept."""
    timed = Play.submit(play.ledger)
    timed.block(1, timeout=3600.0)
    block = play.block(1, tracks=[track(1, lanes=1)])
    sweeper = janitor()
    clock.now += 100.0
    play.make_due("hint", block)
    timed.make_due("deadline", "0.0-0")
    sweeper.round()

    assert [message.block for _, message in published] == [block]
    assert timed.state == "failed"


def test_a_round_that_takes_long_is_no_silence(
    play: Play, janitor: Callable[..., Sweeper], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A janitor that was busy for long itself goes on to take leases back."""
    sweeper = janitor()
    block = held(play, GONE)

    instead = sweeper._instead

    def takes_long() -> dict[str, str]:
        clock.now += 3 * TTL
        return instead()

    with monkeypatch.context() as patch:
        patch.setattr(sweeper, "_instead", takes_long)
        sweeper.round()
    assert play.ledger.running(play.run, block) == []
    assert play.serve(block, play.lane(GONE)).leases
    play.make_due("hint", block)
    clock.now += INTERVAL
    sweeper.round()

    assert play.ledger.running(play.run, block) == []


def test_rare_rounds_are_no_silence(play: Play, janitor: Callable[..., Sweeper], clock: Clock) -> None:
    """A sweep interval longer than a report's lifetime does not keep the dead alive."""
    sweeper = janitor()
    sweeper._settings = sweeper._settings.model_copy(update={"sweep_interval": 3 * TTL})
    sweeper.round()
    block = held(play, GONE)
    clock.now += 3 * TTL + 0.5
    sweeper.round()

    assert play.ledger.running(play.run, block) == []


def test_a_janitor_that_begins_takes_nobody_for_dead(
    play: Play, janitor: Callable[..., Sweeper], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot know whether others could report: until it has seen the server take reports for their lifetime."""
    sweeper = janitor(begins=True)
    block = held(play, GONE)
    with monkeypatch.context() as patch:
        # As a server that is full, or was made read-only, and has not been asked before.
        patch.setattr(play.ledger, "due", raises(errors.BrokerFull("the server takes nothing more")))
        for _ in range(3):
            clock.now += INTERVAL
            with pytest.raises(errors.BrokerFull):
                sweeper.round()

    assert_spared(play, clock, sweeper, block, rounds=int(TTL / INTERVAL), then=INTERVAL)


def test_who_could_not_report_to_a_full_server_is_not_dead(
    janitor: Callable[..., Sweeper], clock: Clock, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader, whom a full server answers, takes nobody for dead until reports have had their time again."""
    sweeper = janitor()
    block = held(play, GONE)
    with monkeypatch.context() as patch:
        patch.setattr(play.ledger, "due", lambda *_: Due(leads=True, server=sweeper._server, full=True))
        for _ in range(12):
            clock.now += INTERVAL
            sweeper.round()

    assert_spared(play, clock, sweeper, block, rounds=int(TTL / INTERVAL) - 1, then=2 * INTERVAL)


@pytest.mark.parametrize("seen", ["when it asked what is due", "when it had read the reports"])
def test_whose_report_was_evicted_is_not_dead(
    janitor: Callable[..., Sweeper], clock: Clock, play: Play, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """A server that has evicted keys since may have evicted reports too."""
    sweeper = janitor()
    block = held(play, GONE)
    due = play.ledger.due
    with monkeypatch.context() as patch:
        patch.setattr(play.ledger, "due", lambda *args: replace(due(*args), evicted=7))
        patch.setattr(play.ledger, "evicted", lambda: 7)
        sweeper._evicted = 6 if seen == "when it asked what is due" else 7
        if seen == "when it had read the reports":
            patch.setattr(play.ledger, "evicted", lambda: 8)
        for _ in range(3):
            clock.now += INTERVAL
            sweeper.round()
            assert play.ledger.running(play.run, block) != []


def test_who_follows_hears_that_the_server_is_full(
    janitor: Callable[..., Sweeper], clock: Clock, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the leader dies as room comes back, whoever leads then takes nobody for dead either."""
    sweeper = janitor()
    block = held(play, GONE)
    due = play.ledger.due
    play.ledger.due("leads@there", 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(play.ledger, "due", lambda *args: replace(due(*args), full=True))
        for _ in range(12):
            clock.now += INTERVAL
            sweeper.round()
    play.ledger.redis.delete(play.ledger.keys.janitor)

    assert_spared(play, clock, sweeper, block, rounds=int(TTL / INTERVAL) - 1, then=2 * INTERVAL)


@pytest.mark.parametrize("act", ["now", "reports", "queues", "sweep", "put_off", "tend", "waiting"])
def test_a_server_that_answers_late_within_a_round(
    janitor: Callable[..., Sweeper], clock: Clock, play: Play, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Whatever it was asked: reports may have expired meanwhile, and what follows in the round, and after it, knows."""
    sweeper = janitor()
    runs = [play, *(Play.submit(play.ledger) for _ in range(3))]
    blocks = [held(one, GONE) for one in runs]
    owner: Any = Queues if act == "waiting" else play.ledger
    asked = getattr(owner, act)

    def late(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, act, asked)
        clock.now += TTL
        return Tended((), ()) if act == "tend" else asked(*args, **options)

    monkeypatch.setattr(owner, act, late)
    with monkeypatch.context() as patch:
        if act == "put_off":
            patch.setattr(play.ledger, "sweep", raises(ValueError("it cannot be dealt with")))
        if act == "tend":
            due = Due(leads=True, server=sweeper._server, limits=["call"])
            patch.setattr(play.ledger, "due", lambda *_: due)
        sweeper.round()
    for one, block in zip(runs, blocks, strict=True):
        one.make_due("hint", block)
    clock.now += INTERVAL
    sweeper.round()

    kept = [one.ledger.running(one.run, block) for one, block in zip(runs, blocks, strict=True)]
    assert kept.count([0]) == (len(runs) - 1 if act == "sweep" else len(runs))


def test_who_comes_while_others_are_asked_is_alive(
    janitor: Callable[..., Sweeper], play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that came, and leased, after the reports were read, and before the block was looked at."""
    sweeper = janitor()
    first, other = held(play, GONE), Play.submit(play.ledger)
    block = other.block(3, tracks=[track(3, lanes=1)])
    other.make_due("hint", block)

    def comes(*_: object) -> int:
        play.ledger.report("late@there", said("late@there"), 60.0)
        assert other.serve(block, other.lane("late@there")).leases
        return 0

    monkeypatch.setattr(Queues, "waiting", comes)
    sweeper.round()

    assert other.ledger.running(other.run, block) == [0]
    assert play.ledger.running(play.run, first) == []


def test_a_server_that_comes_back_without_reports(
    janitor: Callable[..., Sweeper], clock: Clock, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was away for a moment, and has what it had kept before some reported: for their lifetime none is missed.

    Who follows has to notice too: the lease of whoever led may be lost with them.
    """
    sweeper = janitor()
    block = held(play, GONE)
    due = play.ledger.due
    play.ledger.due("leads@there", 60.0)
    sweeper.round()
    monkeypatch.setattr(play.ledger, "due", lambda *args: replace(due(*args), server="another life"))
    sweeper.round()
    play.ledger.redis.delete(play.ledger.keys.janitor)

    assert_spared(play, clock, sweeper, block, rounds=int(TTL / INTERVAL) - 1, then=2 * INTERVAL)


def test_reports_that_expired_while_the_server_did_not_answer(
    janitor: Callable[..., Sweeper], clock: Clock, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silence within a round counts as one between two."""
    sweeper = janitor()
    block = held(play, GONE)
    reports = play.ledger.reports

    def late() -> dict[str, bytes]:
        clock.now += TTL
        return reports()

    with monkeypatch.context() as patch:
        patch.setattr(play.ledger, "reports", late)
        sweeper.round()

    assert play.ledger.running(play.run, block) == [0]


def test_a_machine_that_slept(janitor: Callable[..., Sweeper], play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own clock stood, and the server's did not: all reports have expired."""
    sweeper = janitor()
    block = held(play, GONE)
    slept = time.time() + 3600.0
    monkeypatch.setattr("egregore_dist.worker.sweeper.time.time", lambda: slept)
    sweeper.round()

    assert play.ledger.running(play.run, block) == [0]


def test_who_reports_rarely_has_its_own_time(janitor: Callable[..., Sweeper], clock: Clock, play: Play) -> None:
    """After a silence the longest lifetime of any report that is seen by then is waited for."""
    sweeper = janitor(begins=True)
    block = held(play, GONE)
    play.ledger.report(WORKER, said(WORKER, 3 * TTL), 600.0)

    assert_spared(play, clock, sweeper, block, rounds=int(3 * TTL / INTERVAL), then=2 * INTERVAL)


def test_what_a_worker_says_itself_is_believed_at_once(play: Play, janitor: Callable[..., Sweeper]) -> None:
    """One that was restarted says that it has no lanes: what those of its former life held is given back at once."""
    block = held(play, GONE)
    report = msgspec.msgpack.decode(said(GONE, TTL), type=Report)
    play.ledger.report(GONE, msgspec.msgpack.encode(msgspec.structs.replace(report, at=10**15)), 60.0)
    janitor(begins=True).round()

    assert play.ledger.running(play.run, block) == []


def test_one_entry_does_not_keep_the_others_waiting(
    play: Play, janitor: Callable[..., Sweeper], caplog: pytest.LogCaptureFixture
) -> None:
    """An entry that cannot be dealt with is said, by its run and block, and the others are dealt with."""
    broken = [Play.submit(play.ledger), Play.submit(play.ledger)]
    for one, kind in zip(broken, ("hint", "deadline"), strict=True):
        block = one.block(1, timeout=3600.0)
        one.make_due(kind, block)
        key = one.ledger.keys.block(one.run, "b", block)
        one.ledger.redis.delete(key)
        one.ledger.redis.set(key, "no hash")
    block = held(play, GONE)
    timed = Play.submit(play.ledger)
    timed.make_due("deadline", timed.block(1, timeout=3600.0))
    sweeper = janitor()
    with caplog.at_level(logging.ERROR):
        sweeper.round()
        sweeper.round()

    assert timed.state == "failed"
    assert play.ledger.running(play.run, block) == []
    failed = [record.run_id for record in caplog.records if record.action == "sweep_failed"]
    assert sorted(failed) == sorted(one.run for one in broken)


def test_a_broker_that_is_away_does_not_hold_up_deadlines(
    play: Play, janitor: Callable[..., Sweeper], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every deadline is kept before anything is published, and a round of hints that lasts is left for the next one."""
    timed = [Play.submit(play.ledger) for _ in range(2)]
    for one in timed:
        one.make_due("deadline", one.block(1, timeout=3600.0))
    waiting = [Play.submit(play.ledger) for _ in range(20)]
    for one in waiting:
        one.make_due("hint", ROOT)
    seen: list[tuple[str, list[str]]] = []

    def is_slow(_app: object, run: str, wanted: list[Message]) -> None:
        clock.now += 3.0 if wanted else 0.0
        seen.append((run, [one.state for one in timed]))

    monkeypatch.setattr(publish, "messages", is_slow)
    janitor().round()

    assert all(states == ["failed", "failed"] for _, states in seen)
    asked = [run for run, _ in seen if run in {one.run for one in waiting}]
    assert len(asked) == 1


@pytest.mark.parametrize("taken", [True, False])
def test_what_a_broker_did_not_take_is_asked_for_again_soon(
    play: Play, janitor: Callable[..., Sweeper], monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """A broker that is away for long does not make a run wait for long once it is back."""
    monkeypatch.setattr(publish, "messages", lambda _app, _run, wanted: [] if taken else list(wanted))
    sweeper = janitor()
    for _ in range(5):
        play.make_due("hint", ROOT)
        sweeper.round()

    assert (play.agenda()["hint", ROOT] - play.now() > 2000) is taken


def test_messages_wait_on_any_queue(
    play: Play, janitor: Callable[..., Sweeper], published: list[tuple[str, Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the blocks that are looked after, whatever their queues are called: theirs may be among those that wait."""
    asked: list[str] = []
    monkeypatch.setattr(Queues, "waiting", lambda _queues, names: asked.extend(names) or 5)
    block = play.block(50, tracks=[track(50, queue="gpu", lanes=5)])
    play.make_due("hint", block)
    janitor().round()

    assert (asked, published) == (["gpu"], [])


@pytest.mark.parametrize("kind", ["hint", "limit"])
def test_a_broker_that_does_not_answer_does_not_hold_up_the_next_round(
    play: Play, janitor: Callable[..., Sweeper], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What a block or a limit calls for is published beside the rounds; a deadline that comes then is kept."""
    begun, over = threading.Event(), threading.Event()
    given_up: list[bool] = []

    def does_not_answer(*_: object) -> None:
        begun.set()
        given_up.append(over.wait(30))

    monkeypatch.setattr(Later, "put", PUT)
    monkeypatch.setattr(publish, "messages", does_not_answer)
    sweeper, timed = janitor(), Play.submit(play.ledger)
    with monkeypatch.context() as patch:
        if kind == "hint":
            play.make_due("hint", ROOT)
        else:
            tended = Tended((Message("lane", ROOT, 0, QUEUE, run=play.run),), ())
            patch.setattr(play.ledger, "due", lambda *_: Due(leads=True, server=sweeper._server, limits=["call"]))
            patch.setattr(play.ledger, "tend", lambda *_, **__: tended)
        sweeper.round()
    assert begun.wait(10)
    timed.make_due("deadline", timed.block(1, timeout=3600.0))
    sweeper.round()

    assert (timed.state, given_up) == ("failed", [])
    over.set()


@pytest.mark.parametrize("buckets", [1, 8])
def test_what_limits_call_for_is_not_replaced(
    play: Play, janitor: Callable[..., Sweeper], monkeypatch: pytest.MonkeyPatch, buckets: int
) -> None:
    """A bucket does not call for the same lanes again in the next round: what waits for the broker waits beside it."""
    begun, over, numbers = threading.Event(), threading.Event(), itertools.count()
    seen: list[int] = []

    def is_slow(_app: object, _run: str, wanted: Sequence[Message]) -> None:
        begun.set()
        over.wait(30)
        seen.extend(message.track for message in wanted)

    monkeypatch.setattr(Later, "put", PUT)
    monkeypatch.setattr(publish, "messages", is_slow)
    sweeper = janitor()
    due = Due(leads=True, server=sweeper._server, limits=[f"call{number}" for number in range(buckets)])
    monkeypatch.setattr(play.ledger, "due", lambda *_: due)
    monkeypatch.setattr(
        play.ledger,
        "tend",
        lambda *_, **__: Tended((Message("lane", ROOT, next(numbers), QUEUE, run=play.run),), ()),
    )
    sweeper.round()
    assert begun.wait(10)
    for _ in range(3):
        sweeper.round()
    over.set()
    until(lambda: sorted(seen) == [*range(4 * buckets)], what="all that was called for")


@pytest.mark.parametrize("raw", [b"\xc1", b"\x81\xa6worker\xa1\xff"], ids=["malformed", "no text"])
def test_a_report_of_another_release(play: Play, janitor: Callable[..., Sweeper], raw: bytes) -> None:
    """A worker whose report cannot be read is alive, and keeps nobody from judging the others."""
    play.ledger.report(GONE, raw, 60.0)
    block = held(play, GONE)
    janitor().round()

    assert play.ledger.running(play.run, block) == [0]


def test_lanes_go_elsewhere_where_the_large_workers_are_gone(
    play: Play, janitor: Callable[..., Sweeper], published: list[tuple[str, Message]]
) -> None:
    """A lane that was to have more memory is sent to the queue's workers, once none has that much any more."""
    ledger, lane = play.ledger, play.lane()
    block = play.block(1)
    assert play.serve(block, lane).leases
    short = Shortage(queue="q@learned:1000", lanes=1, text="")
    ledger.lost(play.run, block, lane, Loss(verdict="lost", branch=0, short=short))
    sizes = {"small@there": 1000, "large@there": 2000}
    for name, memory in sizes.items():
        said = Report(
            worker=name,
            host=name,
            pid=1,
            cores=1.0,
            memory_available=1,
            memory_total=memory,
            slots=1,
            queues=("q",),
            at=1,
        )
        ledger.report(name, msgspec.msgpack.encode(said), 60.0)
    leader = janitor()

    play.make_due("hint", block)
    leader.round()
    asked = [message.queue for _, message in published if message.kind == "lane" and message.block == block]
    ledger.retire("large@there")
    published.clear()
    play.make_due("hint", block)
    leader.round()
    instead = [message.queue for _, message in published if message.kind == "lane" and message.block == block]

    assert (asked, instead) == (["q@learned:1000"], ["q"])
